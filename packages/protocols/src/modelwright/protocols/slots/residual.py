"""Protocols of Megatron-Core's bias-dropout-add slots, which add the output of a part to the residual stream.

These slots store functions instead of modules. Their builder runs in every forward pass, because the function depends
on whether the model is in training mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class BiasDropoutAddInterface(Protocol):
    """A function that adds the bias, applies dropout and adds the residual."""

    def __call__(self, x_with_bias: tuple[Tensor, Tensor | None], residual: Tensor, prob: float, /) -> Tensor:
        """Add the output of one part to the residual stream.

        Called by `TransformerLayer._forward_attention` and `_forward_post_mlp`, with gradients enabled.

        Args:
            x_with_bias: Output of the attention or the MLP, `[s, b, h]`, and its bias `[h]` or `None`.
            residual: `[s, b, h]`.
            prob: Dropout probability, by default `config.hidden_dropout`.

        Returns:
            `[s, b, h]`.
        """
        ...


class BiasDropoutAddBuilder(Protocol):
    """Builder of the function for one forward pass; the engine uses `get_bias_dropout_add`.

    Call sites: `transformer_layer.py`, `TransformerLayer._forward_attention` (`self_attn_bda`) and `_forward_post_mlp`
    (`mlp_bda`). The engine fills the slot through `build_module`, which uses a plain function unchanged but
    *constructs* anything else without arguments. Typed specs store this builder, and the adapter to the engine wraps
    it.
    """

    def __call__(self, training: bool, fused: bool, /) -> BiasDropoutAddInterface:  # noqa: FBT001 - the engine's call
        """Return the function.

        Args:
            training: Whether the layer is in training mode.
            fused: Value of `config.bias_dropout_fusion`: whether to return a compiled function.

        Returns:
            The function.
        """
        ...


class MambaBiasDropoutAddBuilder(Protocol):
    """Builder of the function after a Mamba mixer (`mamba_bda`), the only one that is called by keyword.

    Call site: `mamba_layer.py`, `MambaLayer.forward`. The engine's default for this slot, `IdentityOp`, does not accept
    this call.
    """

    def __call__(self, *, training: bool, fused: bool) -> BiasDropoutAddInterface:
        """Return the function.

        Args:
            training: Whether the layer is in training mode.
            fused: Value of `config.bias_dropout_fusion`: whether to return a compiled function.

        Returns:
            The function.
        """
        ...
