"""Sliding-window attention for the core-attention slot: each position attends to the last `window` positions.

Beltagy, Peters and Cohan 2020, arXiv 2004.05150. Grouped queries are supported, packed sequences are not.
"""

import torch
from torch import Tensor, nn

from modelwright.protocols import CoreAttentionBuilder, EngineConfig, ProcessGroups

__all__ = ["SlidingWindowAttention"]


class SlidingWindowAttention(nn.Module):
    """Causal attention to the last `window` positions, including the current one."""

    def __init__(
        self,
        *,
        config: EngineConfig,
        layer_number: int,
        attn_mask_type: object,
        attention_type: str,
        cp_comm_type: str | None,
        softmax_scale: float | None,
        pg_collection: ProcessGroups,
        window: int = 4,
    ) -> None:
        super().__init__()
        if attention_type != "self":
            raise ValueError(
                f"`attention_type` must be self for `SlidingWindowAttention`, but is {attention_type};"
                " use another part for cross-attention."
            )
        self.window, self.scale, self.dropout = window, softmax_scale, config.attention_dropout

    def forward(
        self,
        query_SBND: Tensor,
        key_SBND: Tensor,
        value_SBND: Tensor,
        attention_mask: Tensor | None,
        /,
        *,
        attn_mask_type: object,
        attention_bias: Tensor | None,
        packed_seq_params: object,
    ) -> Tensor:
        """Attend with queries [s, b, n, d] to keys and values [s, b, groups, d]; return [s, b, n * d]."""
        if packed_seq_params is not None:
            raise ValueError(
                "`packed_seq_params` must be None for `SlidingWindowAttention`, but is set; unpack the sequences."
            )
        query, key, value = (part.permute(1, 2, 0, 3) for part in (query_SBND, key_SBND, value_SBND))
        length, device = query.size(2), query.device
        distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
        answer = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=(distance >= 0) & (distance < self.window),
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
            enable_gqa=query.size(1) != key.size(1),
        )
        return answer.permute(2, 0, 1, 3).flatten(2)


_fits: CoreAttentionBuilder = SlidingWindowAttention  # checked by type checkers
