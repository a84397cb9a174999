"""The columns of the logits that only pad the vocabulary: they take no part in the loss and are never sampled.

The weight of the output layer has a row for each entry of the padded vocabulary. Without a mask the softmax divides by
the sum over all of them, so that padding changes the loss, the gradients and the model that is trained.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


def mask_padding(output_layer: nn.Module, *, tokens: int, padded: int, group: "ProcessGroup") -> None:
    """Set the logits of the padding to the lowest number of their dtype, whichever part the output layer is.

    Its softmax is 0 and so is its gradient. The number is finite, so that a product with 0 is 0.

    Args:
        output_layer: Part that returns logits, [s, b, v / ranks] or gathered [s, b, v], and a bias or None.
        tokens: Number of tokens in the vocabulary.
        padded: Padded vocabulary size, v.
        group: Tensor-parallel group.
    """
    if tokens < padded:
        output_layer.register_forward_hook(partial(_masked, tokens=tokens, padded=padded, group=group))


def _masked(
    layer: nn.Module,
    arguments: object,
    output: "tuple[Tensor, Tensor | None]",
    *,
    tokens: int,
    padded: int,
    group: "ProcessGroup",
) -> "tuple[Tensor, Tensor | None]":
    """Return the output with masked logits; a forward hook."""
    logits, bias = output
    columns = logits.size(-1)
    first = 0 if columns == padded else columns * group.rank()
    padding: Any = torch.arange(first, first + columns, device=logits.device) >= tokens
    return logits.masked_fill(padding, torch.finfo(logits.dtype).min), bias
