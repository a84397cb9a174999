"""Protocols of Megatron-Core's Mamba slots: the mixer, and the scan, convolution and gated norm inside it.

Dao and Gu 2024, "Transformers are SSMs", arXiv 2405.21060. Scan and convolution are functions, so their slots store the
function itself and there is nothing to build. `n` counts the heads of the mixer, `d` is the size of a head.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from megatron.core.inference.contexts.base_context import BaseInferenceContext
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor, device, dtype


class MambaMixerInterface(Protocol):
    """A built Mamba mixer, the counterpart of attention. Also see `SupportsMambaStateShapes`."""

    def forward(
        self,
        hidden_SBH: Tensor,
        /,
        *,
        inference_context: BaseInferenceContext | None,
        packed_seq_params: PackedSeqParams | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Mix the positions of each sequence. Called by `MambaLayer.forward`.

        Args:
            hidden_SBH: `[s, b, h]`, normalized; under sequence parallelism this rank's shard of `s`.
            inference_context: States of a generation, or `None`.
            packed_seq_params: Boundaries of packed sequences, or `None`.

        Returns:
            `[s, b, h]`,, and the bias `[h]` that the caller has to add, or `None`.
        """
        ...

    def __call__(
        self,
        hidden_SBH: Tensor,
        /,
        *,
        inference_context: BaseInferenceContext | None,
        packed_seq_params: PackedSeqParams | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class MambaMixerBuilder(Protocol):
    """Builder of a Mamba mixer.

    Call site: `mamba_layer.py`, `MambaLayer.__init__` (untyped there, through `build_module`).
    """

    def __call__(
        self,
        config: TransformerConfig,
        /,
        *,
        d_model: int,
        layer_number: int,
        pg_collection: ProcessGroupCollection,
        pp_layer_offset: int,
        name: str | None,
    ) -> MambaMixerInterface:
        """Build the mixer.

        Args:
            config: The engine's config.
            d_model: `h`.
            layer_number: Number of the layer in the whole model, from 1.
            pg_collection: Process groups; `tp` and `cp` split the heads.
            pp_layer_offset: Number of layers before this stage.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The mixer.
        """
        ...


class ScanInterface(Protocol):
    """A chunked selective scan; the engine uses `mamba_chunk_scan_combined` of mamba-ssm."""

    def __call__(  # noqa: PLR0917 - the engine's call
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        chunk_size: int,
        /,
        *,
        D: Tensor | None,
        z: Tensor | None,
        dt_bias: Tensor | None,
        dt_softplus: bool,
        return_final_states: bool,
        initial_states: Tensor | None,
        state_dtype: dtype | None = None,
        seq_idx: Tensor | None = None,
        dt_limit: tuple[float, float] = (0.0, inf),
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Scan whole sequences. Called by `MambaMixer._ssm_prefill`.

        Args:
            x: `[b, s, n, d]`.
            dt: `[b, s, n]`, time steps before `dt_bias` and softplus.
            A: `[n]`, negative.
            B: `[b, s, groups, state]`.
            C: `[b, s, groups, state]`.
            chunk_size: Number of positions in a chunk.
            D: `[n]` or `[n, d]`, skip coefficient of `x`.
            z: `[b, s, n, d]`, the gate, or `None` if a gated norm follows.
            dt_bias: `[n]`.
            dt_softplus: Whether to apply softplus to `dt`; always true here.
            return_final_states: Whether to return the state after the last position.
            initial_states: `[b, n, d, state]`, or `None` for zeros.
            state_dtype: Dtype of the states. Passed only to a scan that accepts it.
            seq_idx: `[b, s]`, index of the packed sequence of each position. The engine's mixer does not pass it here.
            dt_limit: Smallest and largest `dt` after softplus. The engine's mixer does not pass it.

        Returns:
            `[b, s, n, d]`, and with `return_final_states` the states `[b, n, d, state]`.
        """
        ...


class FusedScanInterface(Protocol):
    """Convolution and scan in one kernel, for training.

    The engine uses `mamba_split_conv1d_scan_combined` of mamba-ssm.
    """

    def __call__(
        self,
        zxbcdt: Tensor,
        conv1d_weight: Tensor,
        conv1d_bias: Tensor,
        dt_bias: Tensor,
        A: Tensor,
        /,
        *,
        D: Tensor,
        chunk_size: int,
        activation: str,
        headdim: int | None,
        ngroups: int,
        norm_before_gate: bool,
        seq_idx: Tensor | None,
        state_dtype: dtype | None = None,
    ) -> Tensor:
        """Convolve, activate, scan and gate. Called by `MambaMixer._ssm_training`.

        Args:
            zxbcdt: `[b, s, sizes of z, x, B, C and dt]`, concatenated in this order.
            conv1d_weight: `[channels, width]`.
            conv1d_bias: `[channels]`.
            dt_bias: `[n]`.
            A: `[n]`, negative.
            D: `[n]` or `[n, d]`, skip coefficient.
            chunk_size: Number of positions in a chunk.
            activation: `"silu"`.
            headdim: `d`, or `None` if the shape of `D` has it.
            ngroups: Number of groups of heads that share B and C.
            norm_before_gate: Whether the norm comes before the gate; always false here.
            seq_idx: `[b, s]`, index of the packed sequence of each position, or `None`.
            state_dtype: Dtype of the states. Passed only to a scan that accepts it.

        Returns:
            `[b, s, n * d]`.
        """
        ...


class CausalConvolutionInterface(Protocol):
    """A causal depthwise convolution; the engine uses `causal_conv1d_fn` of causal-conv1d, or torch."""

    def __call__(
        self, *, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, seq_idx: Tensor | None
    ) -> Tensor:
        """Convolve and activate. Called by `MambaMixer._ssm_prefill`.

        Args:
            x: `[b, channels, s]`.
            weight: `[channels, width]`.
            bias: `[channels]`.
            activation: `"silu"`.
            seq_idx: `[b, s]`, index of the packed sequence of each position, or `None`.

        Returns:
            `[b, channels, s]`.
        """
        ...


class ScanStepInterface(Protocol):
    """A scan of the next few tokens in generation; the engine uses `selective_state_update` of its own kernels."""

    def __call__(  # noqa: PLR0917 - the engine's call
        self,
        state: Tensor,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        /,
        *,
        z: Tensor | None,
        dt_bias: Tensor | None,
        dt_softplus: bool,
    ) -> Tensor:
        """Compute the next tokens and update the state. Called by `MambaMixer._ssm_decode`.

        Args:
            state: `[b, n, d, state]`, changed in place.
            x: `[b, s, n, d]`.
            dt: `[b, s, n, d]`, time steps before `dt_bias` and softplus.
            A: `[n, d, state]`, negative.
            B: `[b, s, groups, state]`.
            C: `[b, s, groups, state]`.
            D: `[n, d]`, skip coefficient of `x`.
            z: `[b, s, n, d]`, the gate, or `None` if a gated norm follows.
            dt_bias: `[n, d]`.
            dt_softplus: Whether to apply softplus to `dt`; always true here.

        Returns:
            `[b, s, n, d]`.
        """
        ...


class CausalConvolutionStepInterface(Protocol):
    """A convolution of the next few tokens in generation; the engine uses its own `causal_conv1d_update`."""

    def __call__(
        self, x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None, activation: str, /
    ) -> Tensor:
        """Compute the next tokens and update the state. Called by `MambaMixer._ssm_decode`.

        Args:
            x: `[b, s, channels]`.
            conv_state: `[b, channels, width]`, the last inputs; changed in place.
            weight: `[channels, width]`.
            bias: `[channels]`.
            activation: `"silu"`.

        Returns:
            `[b, s, channels]`.
        """
        ...


class GatedNormInterface(Protocol):
    """A built gated norm."""

    @property
    def weight(self) -> Tensor:
        """Weight `[inner size / tensor-parallel size]`. The mixer marks it as split over the tensor-parallel group."""
        ...

    def forward(self, hidden_SBH: Tensor, gate: Tensor | None = None, /) -> Tensor:
        """Gate, then normalize within each group. Called by `MambaMixer._ssm_prefill` and `_ssm_training`.

        Args:
            hidden_SBH: `[s, b, inner size / tensor-parallel size]`.
            gate: Gate of the same shape. Omitted if the scan has applied it.

        Returns:
            The same shape.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, gate: Tensor | None = None, /) -> Tensor:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class GatedNormBuilder(Protocol):
    """Builder of a gated norm.

    Call site: `mamba_mixer.py`, `MambaMixer.__init__`, where the class is fixed (`ExtendedRMSNorm`).
    """

    def __call__(
        self,
        hidden_size: int,
        /,
        *,
        eps: float,
        group_size: int,
        norm_before_gate: bool,
        device: device | int,
        dtype: dtype,
    ) -> GatedNormInterface:
        """Build the norm.

        Args:
            hidden_size: Inner size on this tensor-parallel rank.
            eps: Constant added to the mean square. Always `1e-5`, independent of the config.
            group_size: Number of channels that are normalized together.
            norm_before_gate: Whether the norm comes before the gate; always false here.
            device: Device of the weight.
            dtype: Dtype of the weight.

        Returns:
            The norm.
        """
        ...
