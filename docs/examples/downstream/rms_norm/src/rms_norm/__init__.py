"""RMSNorm with a weight around zero, so that weight decay pulls the scale toward one.

Zhang and Sennrich 2019, arXiv 1910.07467; the weight around zero is from Gemma, arXiv 2403.08295.
"""

import torch
from torch import Tensor, nn

from modelwright.protocols import EngineConfig, NormBuilder

__all__ = ["ZeroCenteredRmsNorm"]


class ZeroCenteredRmsNorm(nn.Module):
    """A norm that computes `x / rms(x) * (1 + weight)`."""

    def __init__(self, config: EngineConfig, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(hidden_size, dtype=config.params_dtype))
        # Under sequence parallelism each rank has a shard of the sequence; the engine all-reduces gradients so marked.
        setattr(self.weight, "sequence_parallel", config.sequence_parallel)  # noqa: B010 - parameters do not declare it

    def forward(self, hidden_SBH: Tensor) -> Tensor:
        """Normalize the last dimension of [..., hidden_size]."""
        return nn.functional.rms_norm(hidden_SBH, self.weight.shape, 1 + self.weight, self.eps)


_fits: NormBuilder = ZeroCenteredRmsNorm  # checked by type checkers
