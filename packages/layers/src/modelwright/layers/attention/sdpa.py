"""Core attention through `torch.nn.functional.scaled_dot_product_attention`: flash kernels on CPU and GPU.

With grouped queries the keys are not repeated in memory. Under context parallelism every rank gathers the keys and
values of the full sequence. It attends from its own queries, with a mask for their positions. Dropout of the attention
weights, in training, needs the weights in memory: [b, n, s, s].
"""

from typing import TYPE_CHECKING, Any

import torch
from megatron.core import tensor_parallel
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from modelwright.distributed import context_positions
from modelwright.layers.dropout import dropped, keep_mask
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.enums import AttnMaskType
    from torch.distributed import ProcessGroup


class SdpaCoreAttention(nn.Module):
    """Softmax attention over the heads of this tensor rank.

    Vaswani et al. 2017, arXiv 1706.03762; grouped queries: Ainslie et al. 2023, arXiv 2305.13245.

    Args:
        config: The engine's config.
        layer_number: Number of the layer in the whole model, from 1; dropout masks depend on it.
        attn_mask_type: Mask of a forward pass without `attention_mask`.
        attention_type: Ignored: self-attention and cross-attention compute the same.
        cp_comm_type: Ignored: keys and values are always gathered.
        softmax_scale: Factor on the scores. None: 1 / sqrt(head size).
        k_channels: Ignored: the head size of the keys is that of the tensors (with MLA it is not the config's).
        v_channels: Ignored: likewise for the values.
        pg_collection: Process groups of this rank. None: no context parallelism.
    """

    def __init__(
        self,
        *,
        config: "TransformerConfig",
        layer_number: int,
        attn_mask_type: "AttnMaskType",
        attention_type: str,
        cp_comm_type: str | None = None,
        softmax_scale: float | None = None,
        k_channels: int | None = None,
        v_channels: int | None = None,
        pg_collection: "ProcessGroupCollection | None" = None,
    ) -> None:
        super().__init__()
        self.context_group = (
            pg_collection.cp if pg_collection is not None and config.context_parallel_size > 1 else None
        )
        context = self.context_group
        self.context = (context.rank(), context.size()) if context is not None else (0, 1)
        self.tensor_rank = pg_collection.tp.rank() if pg_collection is not None else 0
        self.place = f"decoder.layers.{layer_number - 1}.core_attention"
        self.mask_type = attn_mask_type
        self.dropout = config.attention_dropout
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        /,
        *,
        attn_mask_type: "AttnMaskType | None" = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: "PackedSeqParams | None" = None,
        **extra: Any,
    ) -> Tensor:
        """Compute softmax attention.

        Args:
            query: `[s, b, n, d]`.
            key: `[s, b, g, d]`; `g` divides `n`.
            value: `[s, b, g, d]`.
            attention_mask: `[b, 1, s, s]` or a shape that broadcasts to it, True where a score is masked. None: the
                mask of the mask type.
            attn_mask_type: Mask type of this call. None: that of the constructor.
            attention_bias: `[b, n, s, s]` or a shape that broadcasts to it, added to the scores. None: nothing.
            packed_seq_params: Must be None.
            **extra: Must be None: arguments of other core attentions of the engine.

        Returns:
            `[s, b, n * d]`.

        Raises:
            ModelwrightError: Packed sequences, or an argument that this attention does not support.
        """
        if packed_seq_params is not None or any(item is not None for item in extra.values()):
            raise ModelwrightError(
                f"`SdpaCoreAttention` does not support packed sequences or {sorted(extra)}; use another core attention."
            )
        causal = (attn_mask_type or self.mask_type).name in ("causal", "padding_causal") and query.size(0) > 1
        if self.context_group is not None:
            key, value = (_gathered(part, self.context_group) for part in (key, value))
            attention_mask = _masked(attention_mask, self.context_group, key.size(0), causal=causal)
            causal = False
        with_dropout = self.training and self.dropout > 0
        mask = _additive(attention_mask, attention_bias, query, key, causal=causal, dense=with_dropout)
        query, key, value = (part.permute(1, 2, 0, 3) for part in (query, key, value))
        if with_dropout:
            context = self._attend_with_dropout(query, key, value, mask)
        else:
            context = scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                is_causal=causal and mask is None,
                scale=self.softmax_scale,
                enable_gqa=query.size(1) != key.size(1),
            )
        return context.permute(2, 0, 1, 3).flatten(2)

    def _attend_with_dropout(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attend with the weights in memory, because the kernels of torch draw masks that depend on the layout.

        Args:
            query: `[b, n, s, d]`.
            key: `[b, g, s, d]`.
            value: `[b, g, s, d]`.
            mask: Added to the scores. None: nothing.

        Returns:
            `[b, n, s, d]`.
        """
        batch, heads, queries, size = query.shape
        key, value = (part.repeat_interleave(heads // part.size(1), dim=1) for part in (key, value))
        scores = (query @ key.mT) * (size**-0.5 if self.softmax_scale is None else self.softmax_scale)
        weights = (scores if mask is None else scores + mask).softmax(-1, dtype=torch.float32).to(value.dtype)
        device = query.device
        rank, ranks = self.context
        positions = context_positions(queries * ranks, rank=rank, size=ranks) + key.size(2) - queries * ranks
        keep = keep_mask(
            self.place,
            self.dropout,
            batch,
            torch.arange(batch, device=device)[:, None, None, None],
            torch.arange(self.tensor_rank * heads, (self.tensor_rank + 1) * heads, device=device)[:, None, None],
            positions.to(device)[:, None],
            torch.arange(key.size(2), device=device),
        )
        return dropped(weights, keep, self.dropout) @ value


def _gathered(part: Tensor, group: "ProcessGroup") -> Tensor:
    """Return the full sequence in order, from the parts of the context ranks; its gradient is scattered back."""
    gathered: Tensor = tensor_parallel.gather_from_sequence_parallel_region(
        part, tensor_parallel_output_grad=True, group=group
    )
    positions = [context_positions(gathered.size(0), rank=r, size=group.size()) for r in range(group.size())]
    return gathered[torch.cat(positions).argsort().to(gathered.device)]


def _masked(mask: Tensor | None, group: "ProcessGroup", length: int, *, causal: bool) -> Tensor | None:
    """Return the mask for the queries of this context rank, `[s / ranks, s]`, True where a score is masked."""
    if mask is not None:
        raise ModelwrightError("`attention_mask` must be None under context parallelism; use a causal mask type.")
    if not causal:
        return None
    queries = context_positions(length, rank=group.rank(), size=group.size())
    return (torch.arange(length) > queries[:, None]).to(torch.cuda.current_device())


def _additive(
    masked: Tensor | None, bias: Tensor | None, query: Tensor, key: Tensor, *, causal: bool, dense: bool
) -> Tensor | None:
    """Return one mask to add to the scores; None if no mask is enough, or plain causal masking unless `dense`."""
    if masked is None and bias is None and (not causal or (query.size(0) == key.size(0) and not dense)):
        return None
    mask = torch.zeros(query.size(0), key.size(0), dtype=query.dtype, device=query.device)
    if causal:
        later = torch.ones_like(mask, dtype=torch.bool).triu(key.size(0) - query.size(0) + 1)
        mask = mask.masked_fill(later, float("-inf"))
    if masked is not None:
        mask = mask.masked_fill(masked, float("-inf"))
    return mask if bias is None else mask + bias
