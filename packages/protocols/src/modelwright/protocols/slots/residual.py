"""The bias-dropout-add slot: how the output of attention or MLP joins the residual.

The one slot that holds functions and not modules, and whose builder runs in every forward pass, because what it
returns depends on whether the model is training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class BiasDropoutAddInterface(Protocol):
    """Adds the bias, drops out, adds the residual."""

    def __call__(self, x_with_bias: tuple[Tensor, Tensor | None], residual: Tensor, prob: float, /) -> Tensor:
        """Join one branch with the residual.

        Called by `TransformerLayer._forward_attention` and `_forward_post_mlp`, with gradients enabled.

        Args:
            x_with_bias: What the attention or the MLP returned: `[s, b, h]`, and a bias `[h]` or `None`.
            residual: `[s, b, h]`.
            prob: Dropout probability, `config.hidden_dropout` unless the layer was given another.

        Returns:
            `[s, b, h]`.
        """
        ...


class BiasDropoutAddBuilder(Protocol):
    """Chooses the function for this forward pass; the engine's is `get_bias_dropout_add`.

    Call sites: `transformer_layer.py`, `TransformerLayer._forward_attention` (`self_attn_bda`) and
    `_forward_post_mlp` (`mlp_bda`). The engine's own slot is untyped and goes through `build_module`, which takes a
    plain function as it is but *constructs* anything else without arguments; typed specs hold this builder itself, and
    who hands it to the engine wraps it.
    """

    def __call__(self, training: bool, fused: bool, /) -> BiasDropoutAddInterface:  # noqa: FBT001 - the engine's call
        """Choose the function.

        Args:
            training: Whether the layer is in training mode.
            fused: Whether `config.bias_dropout_fusion` asks for a compiled function.

        Returns:
            The function.
        """
        ...


class MambaBiasDropoutAddBuilder(Protocol):
    """Chooses the function after a Mamba mixer (`mamba_bda`): the one call by keyword.

    Call site: `mamba_layer.py`, `MambaLayer.forward`. The engine's default for this slot, `IdentityOp`, cannot be
    called that way.
    """

    def __call__(self, *, training: bool, fused: bool) -> BiasDropoutAddInterface:
        """Choose the function.

        Args:
            training: Whether the layer is in training mode.
            fused: Whether `config.bias_dropout_fusion` asks for a compiled function.

        Returns:
            The function.
        """
        ...
