"""Core attention through `torch.nn.functional.scaled_dot_product_attention`: flash kernels on CPU and GPU.

Grouped queries stay grouped: the keys are never repeated in memory. Under context parallelism every rank gathers the
keys and values of the whole sequence and attends from its own queries, with a mask that knows where those stand.
"""

from typing import TYPE_CHECKING, Any

import torch
from megatron.core import tensor_parallel
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from modelwright.distributed import context_positions
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
        layer_number: From 1.
        attn_mask_type: What is hidden when no mask is passed.
        attention_type: "self" or "cross".
        cp_comm_type: How the engine's own attention exchanges keys and values; gathered here whatever it says.
        softmax_scale: Factor on the scores; 1 / sqrt(head size) when None.
        k_channels: Head size of the keys, where it is not the config's (latent attention).
        v_channels: Head size of the values, likewise.
        pg_collection: The process groups of this rank.
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
        """Attend.

        Args:
            query: [s, b, n, d].
            key: [s, b, g, d], g dividing n.
            value: [s, b, g, d].
            attention_mask: True where a score is hidden; None leaves it to the mask type.
            attn_mask_type: Overrides the mask type of construction.
            attention_bias: Added to the scores.
            packed_seq_params: Must be None.
            **extra: Must be empty or None: what other attentions of the engine are passed.

        Returns:
            [s, b, n * d].

        Raises:
            ModelwrightError: Packed sequences, or an argument that this attention does not have.
        """
        if packed_seq_params is not None or any(item is not None for item in extra.values()):
            raise ModelwrightError(
                f"`SdpaCoreAttention` does not take packed sequences or {sorted(extra)}; use another core attention."
            )
        causal = (attn_mask_type or self.mask_type).name in ("causal", "padding_causal") and query.size(0) > 1
        if self.context_group is not None:
            key, value = (_gathered(part, self.context_group) for part in (key, value))
            attention_mask = _hidden(attention_mask, self.context_group, key.size(0), causal=causal)
            causal = False
        mask = _additive(attention_mask, attention_bias, query, key, causal=causal)
        context = scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),
            key.permute(1, 2, 0, 3),
            value.permute(1, 2, 0, 3),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal and mask is None,
            scale=self.softmax_scale,
            enable_gqa=query.size(2) != key.size(2),
        )
        return context.permute(2, 0, 1, 3).flatten(2)


def _gathered(part: Tensor, group: "ProcessGroup") -> Tensor:
    """The whole sequence, in order, from what each context rank holds; gradients go back to where they came from."""
    gathered: Tensor = tensor_parallel.gather_from_sequence_parallel_region(
        part, tensor_parallel_output_grad=True, group=group
    )
    held = [context_positions(gathered.size(0), rank=r, size=group.size()) for r in range(group.size())]
    return gathered[torch.cat(held).argsort().to(gathered.device)]


def _hidden(mask: Tensor | None, group: "ProcessGroup", length: int, *, causal: bool) -> Tensor | None:
    """What the queries of this context rank must not see, [s / ranks, s]."""
    if mask is not None:
        raise ModelwrightError("`attention_mask` must be None under context parallelism; use a causal mask type.")
    if not causal:
        return None
    queries = context_positions(length, rank=group.rank(), size=group.size())
    return (torch.arange(length) > queries[:, None]).to(torch.cuda.current_device())


def _additive(hidden: Tensor | None, bias: Tensor | None, query: Tensor, key: Tensor, *, causal: bool) -> Tensor | None:
    """One mask to add to the scores, or None when causality says it all."""
    if hidden is None and bias is None and (not causal or query.size(0) == key.size(0)):
        return None
    mask = torch.zeros(query.size(0), key.size(0), dtype=query.dtype, device=query.device)
    if causal:
        later = torch.ones_like(mask, dtype=torch.bool).triu(key.size(0) - query.size(0) + 1)
        mask = mask.masked_fill(later, float("-inf"))
    if hidden is not None:
        mask = mask.masked_fill(hidden, float("-inf"))
    return mask if bias is None else mask + bias
