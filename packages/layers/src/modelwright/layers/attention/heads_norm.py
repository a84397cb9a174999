"""Norm of queries or keys over all heads of a token together, as in OLMoE (arXiv:2409.02060, section 2)."""

from typing import TYPE_CHECKING, final, override

from torch import Tensor

from modelwright.layers.norm import TorchNorm

if TYPE_CHECKING:
    from megatron.core.transformer import TransformerConfig


@final
class HeadsNorm(TorchNorm):
    """The norm that `config.normalization` names, over the last two dims. One tensor rank must have all heads.

    Args:
        config: The engine's config.
        hidden_size: Size of one head.
        eps: Added to the mean square or the variance.
        heads: Number of heads.
    """

    def __init__(self, *, config: "TransformerConfig", hidden_size: int, eps: float, heads: int) -> None:
        super().__init__(config=config, hidden_size=heads * hidden_size, eps=eps)

    @override
    def forward(self, hidden_SBH: Tensor, /) -> Tensor:
        """Normalize the last two dims.

        Args:
            hidden_SBH: `[s, b, n, d]`.

        Returns:
            The same shape and dtype.
        """
        return super().forward(hidden_SBH.flatten(-2)).view_as(hidden_SBH)
