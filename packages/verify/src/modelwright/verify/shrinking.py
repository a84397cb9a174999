"""`shrunk`: a small model with every kind of layer, option and divisibility of a large one.

A size is replaced by the smallest one that the same numbers of ranks divide. So a layout that is legal for the large
model is legal for the small one, and the other way round. A change that the config refuses is left out.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from modelwright.config import STAGE_BOUNDARY, ConfigError, DecoderConfig, ExpertsConfig, RunConfig, diff, replace

_HEAD: Final = 16
"""Size of a head of the small model."""
_SEQUENCE: Final = 32
"""Shortest sequence of the small model."""
_BYTES: Final = 256
"""Smallest vocabulary, because the data is bytes."""

type Change = Mapping[str, Any]


def shrunk(run: RunConfig, ranks: int) -> tuple[RunConfig, list[str]]:
    """Return a small run, and what was changed, in words.

    Args:
        run: The run on one rank.
        ranks: Largest number of ranks of a layout.

    Returns:
        The run. A model that is not of a known family keeps its size.
    """
    small = run
    if isinstance(run.model, DecoderConfig):
        small = replace(run, model=_shrunk_model(run.model, ranks))
    train = run.train
    micro = min(train.micro_batch, 2)
    batch = micro * smallest(train.global_batch // train.micro_batch, _stages(ranks), at_least=2 * ranks)
    if batch < train.global_batch:
        small = replace(small, train=replace(train, micro_batch=micro, global_batch=batch))
    return small, [f"`{change.path}` {change.left} → {change.right}" for change in diff(run, small)]


def _shrunk_model(model: DecoderConfig, ranks: int) -> DecoderConfig:
    small = model
    for change in _model_changes(model, ranks):
        candidate = _replaced(small, change)
        if candidate is not None and candidate.symbols == model.symbols:
            small = candidate
    return small


def smallest(size: int, divisors: Collection[int], *, at_least: int) -> int:
    """Return the smallest size that the same numbers divide.

    Args:
        size: The given size, returned if there is no smaller one.
        divisors: The numbers.
        at_least: Smallest size to return.
    """
    wanted = [size % divisor == 0 for divisor in divisors]
    sizes = range(at_least, size)
    return next((small for small in sizes if [small % divisor == 0 for divisor in divisors] == wanted), size)


def _axes(ranks: int) -> range:
    """Return the sizes that an axis may have."""
    return range(2, ranks + 1)


def _stages(ranks: int) -> list[int]:
    """Return the numbers of stages, and of chunks of a sequence, that there may be."""
    return [*_axes(ranks), *(2 * axis for axis in _axes(ranks))]


def _replaced(model: DecoderConfig, change: Change) -> DecoderConfig | None:
    """Return the changed model. None: the config refuses the change."""
    try:
        return replace(model, **dict(change))
    except ConfigError:
        return None


def _model_changes(model: DecoderConfig, ranks: int) -> Iterator[Change]:
    """Yield changes in the order in which they are tried; fields that depend on each other change together."""
    yield from _depth(model, ranks)
    yield _width(model, ranks)
    if model.ffn_hidden_size is not None:
        yield {"ffn_hidden_size": smallest(model.ffn_hidden_size, _axes(ranks), at_least=4 * _HEAD)}
    yield {"seq_length": smallest(model.seq_length, _stages(ranks), at_least=_SEQUENCE)}
    if model.sliding_window is not None and model.sliding_window < model.seq_length:
        yield {"sliding_window": min(model.sliding_window, _SEQUENCE // 4)}
    if model.vocab_size > _BYTES:
        yield {"vocab_size": _BYTES + model.vocab_size % model.vocab_multiple}
    if isinstance(model, ExpertsConfig):
        yield from _experts(model, ranks)
    yield from _mixers(model, ranks)


def _mixers(model: DecoderConfig, ranks: int) -> Iterator[Change]:
    """Yield the changes of Mamba-2 layers and of MLA, which only some families have."""
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    for name in ("mamba_state_dim", "mamba_head_dim", "chunk_size"):
        if name in fields:
            yield {name: min(fields[name], _HEAD)}
    if "mamba_num_groups" in fields:
        yield {"mamba_num_groups": smallest(fields["mamba_num_groups"], _axes(ranks), at_least=1)}
    latent = fields.get("latent_attention")
    if latent is not None:
        sizes = ("query_rank", "key_value_rank", "head_dim", "rotary_head_dim", "value_head_dim")
        yield {"latent_attention": replace(latent, **{name: min(getattr(latent, name), _HEAD) for name in sizes})}


def _depth(model: DecoderConfig, ranks: int) -> Iterator[Change]:
    """Yield the change of the number of layers, so that as many stages divide it as before."""
    pattern: Any = getattr(model, "pattern", None)
    if isinstance(pattern, str):
        if STAGE_BOUNDARY not in pattern:
            yield {"pattern": _short_pattern(pattern, model.block_size, _stages(ranks))}
    elif model.num_layers is not None:
        intervals = [every for every in (model.full_attention_every, model.no_rope_every) if every]
        least = max(2, math.lcm(*intervals), getattr(model, "first_dense_layers", 0) + getattr(model, "moe_every", 1))
        yield {"num_layers": smallest(model.num_layers, _stages(ranks), at_least=least)}


def _short_pattern(pattern: str, unit: int, divisors: Collection[int]) -> str:
    """Return a shorter pattern with the first block of each kind, and as many others as divisibility requires."""
    blocks = [pattern[i : i + unit] for i in range(0, len(pattern), unit)]
    kept = {blocks.index(block) for block in blocks}
    count = smallest(len(blocks), divisors, at_least=max(2, len(kept)))
    for index in range(len(blocks)):
        if len(kept) < count:
            kept.add(index)
    return "".join(blocks[index] for index in sorted(kept))


def _width(model: DecoderConfig, ranks: int) -> Change:
    """Return the change of heads and hidden size, with initial values that keep the size of outputs."""
    change: dict[str, Any] = {}
    heads, groups = model.num_attention_heads, model.num_query_groups
    few = smallest(heads or 2, _axes(ranks), at_least=2)
    if heads is not None:
        if groups is not None and groups != heads:
            shared = smallest(groups, _axes(ranks), at_least=1)
            few = shared * min(heads // groups, 2)
            change["num_query_groups"] = shared
        change["num_attention_heads"] = few
        if model.head_dim is not None:
            change["head_dim"] = min(model.head_dim, _HEAD)
    change["hidden_size"] = min(model.hidden_size, max(few * _HEAD, 2 * _HEAD))
    wider = model.init_std * math.sqrt(model.hidden_size / change["hidden_size"])
    change["init_std"] = float(f"{wider:.3g}")
    return change


def _experts(model: ExpertsConfig, ranks: int) -> Iterator[Change]:
    if model.num_experts and model.top_k and model.router_groups is None:
        few = min(model.top_k, 2)
        yield {"num_experts": smallest(model.num_experts, _axes(ranks), at_least=2 * few), "top_k": few}
    for name in ("expert_ffn_hidden_size", "shared_expert_ffn_hidden_size"):
        width: int | None = getattr(model, name)
        if width is not None:
            yield {name: smallest(width, _axes(ranks), at_least=2 * _HEAD)}
