"""Softmax attention."""

import math
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import dropout

from transformer_engine.pytorch.module.base import TransformerEngineBaseModule
from transformer_engine.recorded import record

_VARIABLES = ("NVTE_FLASH_ATTN", "NVTE_FUSED_ATTN", "NVTE_UNFUSED_ATTN")


class DotProductAttention(TransformerEngineBaseModule):
    """Attention over [s, b, heads, channels], with windows, sinks and context ranks."""

    def __init__(
        self,
        num_attention_heads: int,
        kv_channels: int | tuple[int, int],
        num_gqa_groups: int | None = None,
        attention_dropout: float = 0.0,
        qkv_format: str = "sbhd",
        attn_mask_type: str = "causal",
        window_size: tuple[int, int] | None = None,
        bottom_right_diagonal: bool | None = None,
        sequence_parallel: bool = False,
        tp_size: int = 1,
        get_rng_state_tracker: Any = None,
        tp_group: Any = None,
        layer_number: int | None = None,
        attention_type: str = "self",
        cp_group: Any = None,
        cp_global_ranks: list[int] | None = None,
        cp_stream: Any = None,
        cp_comm_type: str = "p2p",
        softmax_scale: float | None = None,
        softmax_type: str = "vanilla",
        return_max_logit: bool | None = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        record(
            type(self).__name__, heads=[num_attention_heads, num_gqa_groups, kv_channels], dropout=attention_dropout,
            mask=attn_mask_type, window=window_size, groups=[tp_group, cp_group], cp_comm_type=cp_comm_type,
            softmax=[softmax_scale, softmax_type], layer=layer_number,
        )  # fmt: skip
        self.join(tp_group, tp_size)
        self.window_size, self.attention_dropout, self.attn_mask_type = window_size, attention_dropout, attn_mask_type
        self.cp_group, self.cp_comm_type, self.softmax_type = cp_group, cp_comm_type, softmax_type
        channels = kv_channels if isinstance(kv_channels, int) else kv_channels[0]
        self.softmax_scale = 1 / math.sqrt(channels) if softmax_scale is None else softmax_scale
        heads = num_attention_heads // self.tp_size
        if softmax_type == "learnable":
            self.make_parameter("softmax_offset", torch.zeros(heads), nn.init.zeros_, get_rng_state_tracker)

    def forward(
        self,
        query_layer: Tensor,
        key_layer: Tensor,
        value_layer: Tensor,
        attention_mask: Any = None,
        qkv_format: str | None = None,
        attn_mask_type: str | None = None,
        **options: Any,
    ) -> Tensor:
        mask = attn_mask_type or self.attn_mask_type
        chosen = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(_VARIABLES))
        self.begin("forward", q=query_layer, k=key_layer, v=value_layer, mask=mask, chosen=chosen, **options)
        if mask not in ("causal", "causal_bottom_right", "no_mask"):
            raise NotImplementedError(mask)
        k, v = (self.gathered(part) for part in (key_layer, value_layer))
        repeats = query_layer.size(2) // k.size(2)
        k, v = k.repeat_interleave(repeats, dim=2), v.repeat_interleave(repeats, dim=2)
        scores_BHQK = torch.einsum("qbhd,kbhd->bhqk", query_layer, k).float() * self.softmax_scale
        scores_BHQK = scores_BHQK.masked_fill(self.hidden(mask, query_layer.size(0), k.size(0)), -torch.inf)
        weights = dropout(self.softmax(scores_BHQK), self.attention_dropout, self.training).to(v.dtype)
        return torch.einsum("bhqk,kbhd->qbhd", weights, v).flatten(2).contiguous()

    def gathered(self, part: Tensor) -> Tensor:
        """Return keys or values of all context ranks, in the order of the text."""
        if self.cp_group is None:
            return part
        parts = torch.stack(list(all_gather(part.contiguous(), group=self.cp_group)))
        halves = parts.unflatten(1, (2, -1))
        return torch.cat([*halves[:, 0], *halves[:, 1].flip(0)])

    def positions(self, queries: int, keys: int) -> Tensor:
        """Return the places of the queries of this rank in the text."""
        if self.cp_group is None:
            return torch.arange(keys - queries, keys)
        rank, size, half = self.cp_group.rank(), self.cp_group.size(), queries // 2
        starts = (rank * half, (2 * size - 1 - rank) * half)
        return torch.cat([torch.arange(start, start + half) for start in starts])

    def hidden(self, mask: str, queries: int, keys: int) -> Tensor:
        """Return which keys a query does not see."""
        back_QK = self.positions(queries, keys)[:, None] - torch.arange(keys)[None]
        left, right = self.window_size or (-1, -1)
        hidden = back_QK < 0 if mask.startswith("causal") else torch.zeros_like(back_QK, dtype=torch.bool)
        if left >= 0:
            hidden = hidden | (back_QK > left)
        if right >= 0:
            hidden = hidden | (-back_QK > right)
        return hidden

    def softmax(self, scores_BHQK: Tensor) -> Tensor:
        """Return the softmax, with a sink beside the keys if there is one."""
        if self.softmax_type == "vanilla":
            return scores_BHQK.softmax(-1)
        offset_H = self.softmax_offset if self.softmax_type == "learnable" else torch.zeros(scores_BHQK.size(1))
        sink = offset_H.float()[None, :, None, None].expand(*scores_BHQK.shape[:-1], 1)
        return torch.cat([scores_BHQK, sink], -1).softmax(-1)[..., :-1]
