"""The slots of state-space layers: the Mamba mixer, and the scan, convolution and gated norm inside it.

Dao and Gu 2024, "Transformers are SSMs", arXiv 2405.21060. The mixer's own parts are kernels that the engine imports by
name: scan and convolution are functions, so the slot holds the function itself and there is nothing to build.
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
    """A built mixer: what stands where attention stands in a transformer. Also see `SupportsMambaStateShapes`."""

    def forward(
        self,
        hidden_SBH: Tensor,
        /,
        *,
        inference_context: BaseInferenceContext | None,
        packed_seq_params: PackedSeqParams | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Mix positions. Called by `MambaLayer.forward`.

        Args:
            hidden_SBH: `[s, b, h]`, normalized; under sequence parallelism this rank's part of `s`.
            inference_context: Holds the states in generation, else `None`.
            packed_seq_params: Boundaries of packed sequences, or `None`.

        Returns:
            `[s, b, h]`, and the bias that was not added, `[h]`, or `None`.
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
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class MambaMixerBuilder(Protocol):
    """Makes a mixer.

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
            layer_number: Counted from 1 over the whole model.
            pg_collection: The process groups; `tp` and `cp` split the heads.
            pp_layer_offset: Number of layers before this stage.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The mixer.
        """
        ...


class ScanInterface(Protocol):
    """A chunked selective scan; the engine's is `mamba_chunk_scan_combined` of mamba-ssm."""

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
        """Scan. Called by `MambaMixer._ssm_prefill`.

        Args:
            x: `[b, s, n, d]`.
            dt: `[b, s, n]`, before `dt_bias` and softplus.
            A: `[n]`, negative.
            B: `[b, s, groups, state]`.
            C: `[b, s, groups, state]`.
            chunk_size: Positions computed at once.
            D: `[n]` or `[n, d]`: what of `x` passes by.
            z: `[b, s, n, d]`, the gate; `None` when a gated norm follows.
            dt_bias: `[n]`.
            dt_softplus: Whether softplus makes `dt` positive; always true here.
            return_final_states: Whether to return the state after the last position.
            initial_states: `[b, n, d, state]`, or `None` for zeros.
            state_dtype: Type of the states; passed only to a scan that takes it.
            seq_idx: `[b, s]`, which packed sequence a position belongs to; the engine's mixer passes none here.
            dt_limit: The smallest and the largest `dt`, after softplus; the engine's mixer passes none.

        Returns:
            `[b, s, n, d]`, and with `return_final_states` the states `[b, n, d, state]`.
        """
        ...


class FusedScanInterface(Protocol):
    """Convolution and scan in one; the engine's is `mamba_split_conv1d_scan_combined` of mamba-ssm, for training."""

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
            zxbcdt: `[b, s, z, x, B, C and dt side by side]`.
            conv1d_weight: `[channels, width]`.
            conv1d_bias: `[channels]`.
            dt_bias: `[n]`.
            A: `[n]`, negative.
            D: `[n]` or `[n, d]`.
            chunk_size: Positions computed at once.
            activation: `"silu"`.
            headdim: `d`; `None` when `D` has it.
            ngroups: Groups that share B and C.
            norm_before_gate: Always false here.
            seq_idx: `[b, s]`, which packed sequence a position belongs to, or `None`.
            state_dtype: Type of the states; passed only to a scan that takes it.

        Returns:
            `[b, s, n * d]`.
        """
        ...


class CausalConvolutionInterface(Protocol):
    """A causal depthwise convolution; the engine's is `causal_conv1d_fn` of causal-conv1d, or torch's."""

    def __call__(
        self, *, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, seq_idx: Tensor | None
    ) -> Tensor:
        """Convolve and activate. Called by `MambaMixer._ssm_prefill`.

        Args:
            x: `[b, channels, s]`.
            weight: `[channels, width]`.
            bias: `[channels]`.
            activation: `"silu"`.
            seq_idx: `[b, s]`, which packed sequence a position belongs to, or `None`.

        Returns:
            `[b, channels, s]`.
        """
        ...


class ScanStepInterface(Protocol):
    """The scan continued by a few tokens; the engine's is `selective_state_update` of its own kernels."""

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
        """Continue. Called by `MambaMixer._ssm_decode`.

        Args:
            state: `[b, n, d, state]`, changed in place.
            x: `[b, s, n, d]`.
            dt: `[b, s, n, d]`, before `dt_bias` and softplus.
            A: `[n, d, state]`, negative.
            B: `[b, s, groups, state]`.
            C: `[b, s, groups, state]`.
            D: `[n, d]`: what of `x` passes by.
            z: `[b, s, n, d]`, the gate; `None` when a gated norm follows.
            dt_bias: `[n, d]`.
            dt_softplus: Whether softplus makes `dt` positive; always true here.

        Returns:
            `[b, s, n, d]`.
        """
        ...


class CausalConvolutionStepInterface(Protocol):
    """The convolution continued by a few tokens; the engine's is `causal_conv1d_update` of its own kernels."""

    def __call__(
        self, x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None, activation: str, /
    ) -> Tensor:
        """Continue. Called by `MambaMixer._ssm_decode`.

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
        """`[inner size / tensor-parallel size]`; the mixer marks it as split over the tensor-parallel group."""
        ...

    def forward(self, hidden_SBH: Tensor, gate: Tensor | None = None, /) -> Tensor:
        """Gate, then normalize within each group. Called by `MambaMixer._ssm_prefill` and `_ssm_training`.

        Args:
            hidden_SBH: `[s, b, inner size / tensor-parallel size]`.
            gate: The same shape; left out when the scan has gated.

        Returns:
            The same shape.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, gate: Tensor | None = None, /) -> Tensor:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class GatedNormBuilder(Protocol):
    """Makes a gated norm.

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
            hidden_size: Inner size of this tensor-parallel rank.
            eps: Added to the mean square; `1e-5`, whatever the config says.
            group_size: Channels that are normalized together.
            norm_before_gate: Always false here.
            device: Where the weight goes.
            dtype: Type of the weight.

        Returns:
            The norm.
        """
        ...
