"""Protocols of Megatron-Core's MLP slot and of the activation slot inside an MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor


class MlpInterface(Protocol):
    """A built MLP. It must be a `torch.nn.Module`; the engine refuses anything else.

    The engine's Protocol of the same name also requires `intermediate_tensors`. The engine passes it only to its own
    MoE layer (under partial CUDA graphs), so it is not required here.
    """

    def forward(self, hidden_SBH: Tensor, /, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Transform each position. Called by `TransformerLayer._forward_mlp`.

        Args:
            hidden_SBH: `[s, b, h]`; under sequence parallelism this rank's shard of `s`.
            padding_mask: `[b, s]`, true where a token is padding. Omitted if the MLP runs in chunks.

        Returns:
            `[s, b, h]`,, and the bias `[h]` that the caller has to add, or `None`.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class MlpBuilder(Protocol):
    """Builder of an MLP.

    Call site: `transformer_layer.py`, `TransformerLayer.__init__`.
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        is_mtp_layer: bool,
        name: str | None,
    ) -> MlpInterface:
        """Build the MLP.

        Args:
            config: The engine's config.
            pg_collection: Process groups; `pg_collection.tp` splits the weights.
            is_mtp_layer: Whether the layer belongs to a multi-token-prediction block.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The MLP.
        """
        ...


class ActivationFunctionInterface(Protocol):
    """A built activation. It must be a `torch.nn.Module`; the engine refuses anything else."""

    def forward(self, intermediate: Tensor, /) -> Tensor:
        """Apply the activation. Called by `MLP.forward`, `TEGroupedMLP.forward` and `SharedExpertMLP`.

        Args:
            intermediate: `[..., ffn / tensor-parallel size]`; for a gated MLP twice as wide, first the gate, then the
                up-projection.

        Returns:
            `[..., ffn / tensor-parallel size]`.
        """
        ...

    def __call__(self, intermediate: Tensor, /) -> Tensor:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class ActivationFunctionBuilder(Protocol):
    """Builder of an activation; the engine's name for it is `TEActivationFunctionBuilder`.

    Call sites: `mlp.py`, `MLP.__init__`; `experts.py`, `TEGroupedMLP.__init__`. Used only if
    `config.use_te_activation_func` is set; otherwise the engine calls `config.activation_func`.
    """

    def __call__(self, *, config: TransformerConfig) -> ActivationFunctionInterface:
        """Build the activation.

        Args:
            config: The engine's config.

        Returns:
            The activation.
        """
        ...
