"""RMSNorm and LayerNorm in PyTorch for the norm slots, also under sequence parallelism.

Megatron-Core's own norm without Transformer Engine refuses sequence parallelism. Under it each tensor rank normalizes
its own part of the sequence, so the gradient of a norm is partial on every rank (see `mark_sequence_parallel`).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from modelwright.layers.parameter_marks import mark_sequence_parallel
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from megatron.core.transformer import TransformerConfig


class TorchNorm(nn.Module):
    """The norm that `config.normalization` names. With `layernorm_zero_centered_gamma` it multiplies by 1 + weight.

    RMSNorm: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv 1910.07467. LayerNorm: Ba, Kiros
    and Hinton 2016, arXiv 1607.06450.

    Args:
        config: The engine's config.
        hidden_size: Size of the last dim.
        eps: Added to the mean square or the variance.

    Raises:
        ModelwrightError: `config.normalization` names another norm.
    """

    def __init__(self, *, config: "TransformerConfig", hidden_size: int, eps: float) -> None:
        super().__init__()
        if config.normalization not in ("RMSNorm", "LayerNorm"):
            raise ModelwrightError(
                f"`normalization` must be RMSNorm or LayerNorm in the `torch` backend, but is {config.normalization!r}."
            )
        device = torch.cuda.current_device()
        self.hidden_size, self.eps = (hidden_size,), eps
        self.zero_centered = config.layernorm_zero_centered_gamma
        initial = torch.zeros if self.zero_centered else torch.ones
        self.weight = nn.Parameter(initial(hidden_size, dtype=config.params_dtype, device=device))
        self.bias: nn.Parameter | None = None
        if config.normalization == "LayerNorm":
            self.bias = nn.Parameter(torch.zeros(hidden_size, dtype=config.params_dtype, device=device))
        for parameter in self.parameters():
            mark_sequence_parallel(parameter, enabled=config.sequence_parallel)

    def forward(self, hidden_SBH: Tensor, /) -> Tensor:
        """Normalize the last dim.

        Args:
            hidden_SBH: Any shape with a last dim of `hidden_size`.

        Returns:
            The same shape and dtype.
        """
        dtype = hidden_SBH.dtype
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if self.zero_centered:  # in float32, because 1 + a small weight has few bits in a 16-bit dtype
            weight, bias = 1 + weight.float(), None if bias is None else bias.float()
        hidden_SBH = hidden_SBH.to(weight.dtype)  # a norm may be kept in float32
        if bias is None:
            return nn.functional.rms_norm(hidden_SBH, self.hidden_size, weight, self.eps).to(dtype)
        return nn.functional.layer_norm(hidden_SBH, self.hidden_size, weight, bias, self.eps).to(dtype)
