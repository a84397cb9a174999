"""RMSNorm whose weight is the difference from one, so that weight decay pulls it towards doing nothing.

Zhang and Sennrich 2019, arXiv 1910.07467; the weight around zero is that of Gemma, arXiv 2403.08295.
"""

import torch
from torch import Tensor, nn

from modelwright.protocols import EngineConfig, NormBuilder

__all__ = ["ZeroCenteredRmsNorm"]


class ZeroCenteredRmsNorm(nn.Module):
    """`x / rms(x) * (1 + weight)`."""

    def __init__(self, config: EngineConfig, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(hidden_size, dtype=config.params_dtype))
        # Under sequence parallelism each rank sees part of the sequence; the engine sums the gradients of such weights.
        setattr(self.weight, "sequence_parallel", config.sequence_parallel)  # noqa: B010 - no attribute of a parameter

    def forward(self, hidden_SBH: Tensor) -> Tensor:
        """Normalize the last dim, whatever comes before it."""
        return nn.functional.rms_norm(hidden_SBH, self.weight.shape, 1 + self.weight, self.eps)


_fits: NormBuilder = ZeroCenteredRmsNorm  # your type checker reads this line
