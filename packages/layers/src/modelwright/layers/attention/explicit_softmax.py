"""Softmax attention with every step written out, for scores that `scaled_dot_product_attention` cannot compute.

It bounds the scores (soft cap, Gemma 2, arXiv 2408.00118), and it adds a logit to the softmax of each head that takes
attention from all keys (attention sink, arXiv 2508.10925; with a logit of 0 "softmax off by one").
"""

from collections.abc import Callable

import torch
from torch import Tensor


def explicit_attention(
    query_BNSD: Tensor,
    key_BGSD: Tensor,
    value_BGSD: Tensor,
    *,
    scale: float,
    mask: Tensor | None,
    softcap: float | None,
    sinks_N: Tensor | None,
    dropout: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Compute softmax attention.

    Args:
        query_BNSD: `[b, n, s, d]`.
        key_BGSD: `[b, g, k, d]`; `g` divides `n`.
        value_BGSD: `[b, g, k, d]`.
        scale: Factor on the scores.
        mask: `[b, n, s, k]` or a shape that broadcasts to it, added to the bounded scores. None: nothing.
        softcap: Bound of the scores. None: no bound.
        sinks_N: `[n]`, the logit of each head beside its scores. None: none.
        dropout: Function of the attention weights. None: no dropout.

    Returns:
        `[b, n, s, d]`.
    """
    group = query_BNSD.size(1) // key_BGSD.size(1)
    key, value = (part.repeat_interleave(group, dim=1) for part in (key_BGSD, value_BGSD))
    scores = (query_BNSD @ key.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    keys = scores.size(-1)
    if sinks_N is not None:
        sinks = sinks_N.float().view(1, -1, 1, 1).expand(scores.size(0), -1, scores.size(2), 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.softmax(dim=-1)[..., :keys].to(query_BNSD.dtype)
    return (weights if dropout is None else dropout(weights)) @ value
