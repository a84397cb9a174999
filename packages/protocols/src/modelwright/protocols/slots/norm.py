"""Protocols of Megatron-Core's norm slots: before attention and MLP, on queries and keys, and after the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor


class NormInterface(Protocol):
    """A built norm. It must be a `torch.nn.Module`; the engine refuses anything else."""

    def forward(self, hidden_SBH: Tensor, /) -> Tensor:
        """Normalize over the last dimension.

        Called by `TransformerLayer._forward_attention` and `_forward_pre_mlp_layernorm`, `HybridStack.forward` (final
        norm) and `SelfAttention.get_query_key_value_tensors` (query and key norms).

        Args:
            hidden_SBH: `[s, b, h]`; for query and key norms `[s, b, n, d]`.

        Returns:
            A tensor of the same shape.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> Tensor:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class NormBuilder(Protocol):
    """Builder of a norm.

    Call sites: `transformer_layer.py`, `TransformerLayer.__init__` (`input_layernorm`, `pre_mlp_layernorm`);
    `attention.py`, `SelfAttention.__init__` (`q_layernorm`, `k_layernorm`, with the head size as `hidden_size`). The
    final norm of a stack is built with the same arguments.
    """

    def __call__(self, *, config: TransformerConfig, hidden_size: int, eps: float) -> NormInterface:
        """Build the norm.

        Args:
            config: The engine's config.
            hidden_size: Size of the last dimension.
            eps: Constant added to the variance, from `config.layernorm_epsilon`.

        Returns:
            The norm.
        """
        ...
