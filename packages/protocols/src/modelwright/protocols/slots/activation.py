"""The activation slot of an MLP and of grouped experts: a module instead of `config.activation_func`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor


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
