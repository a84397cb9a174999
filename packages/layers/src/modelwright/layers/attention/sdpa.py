"""Core attention through `torch.nn.functional.scaled_dot_product_attention`: flash kernels on CPU and GPU.

With grouped queries the keys are never repeated in memory. Under context parallelism every rank gathers the keys and
values of the full sequence. It attends from its own queries, with a mask for their positions. A sliding window is part
of the mask. Bounded scores, attention sinks and, in training, dropout need `explicit_attention`, which stores all
scores: torch's kernels draw dropout masks that depend on the layout.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from megatron.core import tensor_parallel
from megatron.core.transformer.utils import (
    is_layer_window_attention,  # pyright: ignore[reportUnknownVariableType]
    make_sharded_tensors_for_checkpoint,
)
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from modelwright.distributed import context_positions
from modelwright.layers.attention.explicit_softmax import explicit_attention
from modelwright.layers.dropout import dropped, keep_mask
from modelwright.layers.engine_fields.extended_config import DecoderExtension
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from collections.abc import Callable

    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.enums import AttnMaskType
    from torch.distributed import ProcessGroup


class SdpaCoreAttention(nn.Module):
    """Softmax attention over the heads of this tensor rank.

    Vaswani et al. 2017, arXiv 1706.03762; grouped queries: Ainslie et al. 2023, arXiv 2305.13245.

    Args:
        config: The engine's config. `window_size`, `window_attn_skip_freq` and `softmax_type` have the engine's
            meaning; `attention_softcap` is a field of a `DecoderExtension`.
        layer_number: Number of the layer in the model, from 1. It decides whether the layer has the window,
            and the masks of dropout.
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
        self.tensor_group = None if pg_collection is None else pg_collection.tp
        self.place = f"decoder.layers.{layer_number - 1}.core_attention"
        self.mask_type = attn_mask_type
        self.dropout = config.attention_dropout
        self.softmax_scale = softmax_scale
        self.softcap = config.attention_softcap if isinstance(config, DecoderExtension) else None
        # Declared without None, which means every layer.
        skipped = cast("int", config.window_attn_skip_freq)
        self.window = (
            config.window_size if is_layer_window_attention(config.window_size, skipped, layer_number) else None
        )
        self.softmax_offset = _sinks(config)

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
            if attention_mask is not None:
                raise ModelwrightError(
                    "`attention_mask` must be None under context parallelism; use a causal mask type."
                )
        positions = _query_positions(query.size(0), key.size(0), self.context_group)
        last = causal or query.size(0) == 1
        window = self.window if self.window is not None and _is_within(self.window, key.size(0), last=last) else None
        plain = causal and window is None and self.context_group is None and query.size(0) == key.size(0)
        hidden = None if plain else _hidden(positions.to(query.device), key.size(0), causal=causal, window=window)
        mask = _additive(hidden, attention_mask, attention_bias, query, key, causal=plain)
        parts = [part.permute(1, 2, 0, 3) for part in (query, key, value)]
        context = self._attend(*parts, mask=mask, causal=plain, positions_S=positions.to(query.device))
        return context.permute(2, 0, 1, 3).flatten(2)

    def _attend(
        self,
        query_BNSD: Tensor,
        key_BGSD: Tensor,
        value_BGSD: Tensor,
        *,
        mask: Tensor | None,
        causal: bool,
        positions_S: Tensor,
    ) -> Tensor:
        """Attend with a kernel of torch, or where it cannot compute the same, step by step.

        Args:
            query_BNSD: Queries.
            key_BGSD: Keys.
            value_BGSD: Values.
            mask: Added to the scores. None: nothing.
            causal: With plain causal attention, which a kernel needs no mask for, if `mask` is None.
            positions_S: Positions of the queries.

        Returns:
            `[b, n, s, d]`.
        """
        with_dropout = self.training and self.dropout > 0
        if self.softcap is None and self.softmax_offset is None and not with_dropout:
            return scaled_dot_product_attention(
                query_BNSD,
                key_BGSD,
                value_BGSD,
                attn_mask=mask,
                is_causal=causal and mask is None,
                scale=self.softmax_scale,
                enable_gqa=query_BNSD.size(1) != key_BGSD.size(1),
            )
        return explicit_attention(
            query_BNSD,
            key_BGSD,
            value_BGSD,
            scale=query_BNSD.size(-1) ** -0.5 if self.softmax_scale is None else self.softmax_scale,
            mask=_causal_mask(query_BNSD, query_BNSD.size(2), key_BGSD.size(2)) if causal and mask is None else mask,
            softcap=self.softcap,
            sinks_N=self.softmax_offset,
            dropout=partial(self._with_dropout, positions_S) if with_dropout else None,
        )

    def _with_dropout(self, positions_S: Tensor, weights_BNSK: Tensor) -> Tensor:
        """Apply dropout to the attention weights of the queries at the given positions."""
        batch, heads, _, keys = weights_BNSK.shape
        device = weights_BNSK.device
        first = heads * self.tensor_group.rank() if self.tensor_group is not None else 0
        keep = keep_mask(
            self.place,
            self.dropout,
            batch,
            torch.arange(batch, device=device)[:, None, None, None],
            torch.arange(first, first + heads, device=device)[:, None, None],
            positions_S[:, None],
            torch.arange(keys, device=device),
        )
        return dropped(weights_BNSK, keep, self.dropout)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the sharded state dict: learned sinks are split over the tensor ranks, as the heads are.

        Args:
            prefix: Name of this module in the model, with a final dot.
            sharded_offsets: Position of the layer among layers of one tensor.
            metadata: The engine's metadata of a checkpoint.

        Returns:
            Sharded tensors by name; empty without learned sinks.
        """
        if not isinstance(self.softmax_offset, nn.Parameter):
            return {}
        return cast(
            "dict[str, Any]",
            make_sharded_tensors_for_checkpoint(
                {"softmax_offset": self.softmax_offset},
                prefix,
                {"softmax_offset": 0},
                sharded_offsets,
                tp_group=self.tensor_group,
                dp_cp_group=(metadata or {})["dp_cp_group"],
            ),
        )


def _sinks(config: "TransformerConfig") -> Tensor | None:
    """Return the logit of each head of this rank beside its scores. None: none.

    Its name `softmax_offset`, its shape and its initial values are those of the engine's own attention.
    """
    if config.softmax_type == "vanilla":
        return None
    heads, device = config.num_attention_heads // config.tensor_model_parallel_size, torch.cuda.current_device()
    if config.softmax_type == "off-by-one":
        return torch.zeros(heads, device=device)
    sinks = nn.Parameter(torch.empty(heads, dtype=config.params_dtype, device=device))
    cast("Callable[[Tensor], None]", config.init_method)(sinks)
    tensor_parallel.set_tensor_model_parallel_attributes(sinks, is_parallel=True, dim=0, stride=1)
    return sinks


def _query_positions(queries: int, keys: int, context: "ProcessGroup | None") -> Tensor:
    """Return the positions of the queries among the keys. Without context ranks the queries are the last of them."""
    if context is None:
        return torch.arange(keys - queries, keys)
    return context_positions(keys, rank=context.rank(), size=context.size())


def _is_within(window: tuple[int, int], keys: int, *, last: bool) -> bool:
    """Return True if a window hides a key from any query; `last` if no query sees a later key anyway."""
    left, right = window
    return 0 <= left < keys - 1 or (not last and 0 <= right < keys - 1)


def _hidden(positions_S: Tensor, keys: int, *, causal: bool, window: tuple[int, int] | None) -> Tensor | None:
    """Return which keys each query must not see, `[s, k]`; None if it may see all."""
    distance_SK = torch.arange(keys, device=positions_S.device) - positions_S[:, None]  # above 0: a later key
    left, right = window or (-1, -1)
    rules = [distance_SK > 0] if causal else []
    rules += [distance_SK < -left] if left >= 0 else []
    rules += [distance_SK > right] if right >= 0 else []
    if not rules:
        return None
    return torch.stack(rules).any(dim=0)


def _gathered(part: Tensor, group: "ProcessGroup") -> Tensor:
    """Return the full sequence in order, from the parts of the context ranks; its gradient is scattered back."""
    gathered: Tensor = tensor_parallel.gather_from_sequence_parallel_region(
        part, tensor_parallel_output_grad=True, group=group
    )
    positions = [context_positions(gathered.size(0), rank=r, size=group.size()) for r in range(group.size())]
    return gathered[torch.cat(positions).argsort().to(gathered.device)]


def _additive(
    hidden: Tensor | None, masked: Tensor | None, bias: Tensor | None, query: Tensor, key: Tensor, *, causal: bool
) -> Tensor | None:
    """Return one mask to add to the scores; None if plain causal masking, or no mask, is enough."""
    if hidden is None and masked is None and bias is None:
        return None
    mask = _causal_mask(query, query.size(0), key.size(0)) if causal else query.new_zeros(query.size(0), key.size(0))
    for part in (hidden, masked):
        if part is not None:
            mask = mask.masked_fill(part, float("-inf"))
    return mask if bias is None else mask + bias


def _causal_mask(like: Tensor, queries: int, keys: int) -> Tensor:
    """Return the additive mask of plain causal attention, `[s, k]`, in the dtype and on the device of a tensor."""
    return like.new_full((queries, keys), float("-inf")).triu(keys - queries + 1)
