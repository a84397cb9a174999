"""Padding of the rows of each expert to what products in narrow dtypes need."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from transformer_engine.common.recipe import MXFP8BlockScaling, NVFP4BlockScaling
from transformer_engine.pytorch.quantization import FP8GlobalStateManager
from transformer_engine.recorded import record


def _alignment(align_size: int | None) -> int:
    if align_size is not None:
        return align_size
    recipe = FP8GlobalStateManager.get_fp8_recipe()
    return 32 if isinstance(recipe, MXFP8BlockScaling) else 128 if isinstance(recipe, NVFP4BlockScaling) else 16


class Fp8Padding(nn.Module):
    """Adds rows of zeros."""

    def __init__(self, num_gemms: int, align_size: int | None = None) -> None:
        super().__init__()
        self.num_gemms, self.align_size = num_gemms, align_size

    def forward(self, inp: Tensor, m_splits: list[int]) -> tuple[Tensor, list[int]]:
        size = _alignment(self.align_size)
        padded = [-(-rows // size) * size for rows in m_splits]
        record("Fp8Padding", align_size=size)
        parts = zip(inp.split(m_splits), padded, strict=True)
        return torch.cat([pad(part, (0, 0, 0, rows - part.size(0))) for part, rows in parts]), padded


class Fp8Unpadding(nn.Module):
    """Removes them."""

    def __init__(self, num_gemms: int, align_size: int | None = None) -> None:
        super().__init__()
        self.num_gemms, self.align_size = num_gemms, align_size

    def forward(self, inp: Tensor, m_splits: list[int]) -> Tensor:
        size = _alignment(self.align_size)
        padded = [-(-rows // size) * size for rows in m_splits]
        return torch.cat([part[:rows] for part, rows in zip(inp.split(padded), m_splits, strict=True)])
