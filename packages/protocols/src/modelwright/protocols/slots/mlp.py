"""The MLP slot of a transformer layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor


class MlpInterface(Protocol):
    """A built MLP. A `torch.nn.Module` at run time: the engine refuses anything else.

    The engine's Protocol of the same name also asks for `intermediate_tensors`; only its mixture-of-experts layer
    is ever called with that (under partial CUDA graphs), so it is not asked for here.
    """

    def forward(self, hidden_SBH: Tensor, /, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Transform each position. Called by `TransformerLayer._forward_mlp`.

        Args:
            hidden_SBH: `[s, b, h]`; under sequence parallelism this rank's part of `s`.
            padding_mask: `[b, s]`, true where a token is padding; left out when the MLP runs in chunks.

        Returns:
            `[s, b, h]`, and the bias that was not added, `[h]`, or `None`.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class MlpBuilder(Protocol):
    """Makes an MLP.

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
            pg_collection: The process groups; `pg_collection.tp` splits the weights.
            is_mtp_layer: Whether the layer belongs to a multi-token-prediction block.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The MLP.
        """
        ...


class ActivationFunctionInterface(Protocol):
    """A built activation. A `torch.nn.Module` at run time: the engine refuses anything else."""

    def forward(self, intermediate: Tensor, /) -> Tensor:
        """Activate. Called by `MLP.forward`, `TEGroupedMLP.forward` and `SharedExpertMLP`.

        Args:
            intermediate: `[..., ffn / tensor-parallel size]`, twice that under a gated linear unit: gate, then up.

        Returns:
            `[..., ffn / tensor-parallel size]`.
        """
        ...

    def __call__(self, intermediate: Tensor, /) -> Tensor:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class ActivationFunctionBuilder(Protocol):
    """Makes an activation; the engine's name is `TEActivationFunctionBuilder`.

    Call sites: `mlp.py`, `MLP.__init__`; `experts.py`, `TEGroupedMLP.__init__`. Only used when
    `config.use_te_activation_func` is set; otherwise `config.activation_func` is called.
    """

    def __call__(self, *, config: TransformerConfig) -> ActivationFunctionInterface:
        """Build the activation.

        Args:
            config: The engine's config.

        Returns:
            The activation.
        """
        ...
