"""Weight maps: tables of which weights of Megatron-Core's model correspond to which of another library, both ways.

A map is a tuple of entries. Each entry names a weight of the engine, the weights of the other model that it consists
of, and a layout: the same tensor, several tensors stacked by rows, queries, keys and values interleaved by query group,
or a vocabulary that the engine pads. An entry may also join several weights of the engine into one of the other model,
as in Mamba's projection. Names may contain `{i}` (index of the other model's block), `{a}` and `{b}` (indices of the
first and second engine layer of that block). Such an entry applies to every block.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from modelwright.config import DecoderConfig, ModelConfig
from modelwright.layers.engine_fields.table import VERDICTS
from modelwright.layers.engine_fields.verdict import Honored, Owned, Verdict
from modelwright.protocols import ModelwrightError

type State = Mapping[str, Tensor]

_VARIANTS = (
    "zero_centered_norm",
    "softmax_scale",
    "attention_softcap",
    "logits_softcap",
    "attention_sinks",
    "sliding_window",
    "full_attention_every",
    "no_rope_every",
)
"""Fields of a decoder that change what it computes, and not its weights."""


class WeightMapError(ModelwrightError):
    """A weight of a map is missing, a weight is not in the map, or the two models compute different things."""


def check_mapped(config: ModelConfig, needed: Mapping[str, object], model: str) -> None:
    """Refuse a config whose weights would fit the other model, although that model would compute something else.

    Args:
        config: Config of the engine's model.
        needed: For each field, the only value that the other model supports. Windows, sinks, bounds, scales and norms
            of a decoder must have their defaults where this says nothing else.
        model: Name of the other model.

    Raises:
        WeightMapError: A field has another value, or `engine:` changes what the model computes.
    """
    variants = {name: _default_of(DecoderConfig, name) for name in _VARIANTS if isinstance(config, DecoderConfig)}
    for name, only in {**variants, **needed}.items():
        given = getattr(config, name)
        if given != only:
            rule = f"`{name}` must be `{_written(only)}` for `{model}`, which supports nothing else"
            raise WeightMapError(f"{rule}, but is `{_written(given)}`; change it, or write a custom map.")
    changing = [name for name in config.engine if _changes_values(VERDICTS.get(name))]
    if changing:
        rule = f"`engine.{changing[0]}` must be left out for `{model}`, because it changes what the model computes"
        raise WeightMapError(f"{rule}; leave it out, or write a custom map.")


def _changes_values(verdict: Verdict | None) -> bool:
    return isinstance(verdict, Owned) or (isinstance(verdict, Honored) and verdict.effect in {"values", "shapes"})


def _default_of(cls: type[ModelConfig], name: str) -> object:
    """Return the default of a field of a config class."""
    return next(field.default for field in fields(cls) if field.name == name)


def _written(value: object) -> str:
    """Return a value as it is written in a run file."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Entry:
    """One weight of the engine, or several that are rows of one weight of the other model."""

    engine: str
    """Name in the full model; for several weights, the prefix of their names."""
    other: tuple[str, ...]
    """Names in the other model, in order."""
    layout: Literal["same", "rows", "qkv", "vocab"] = "same"
    """Layout: one equal tensor, tensors stacked by rows, interleaved query groups, or padded rows."""
    parts: tuple[tuple[str, int], ...] = ()
    """For several weights of the engine: the suffix of each name, and its number of rows."""

    @property
    def engine_names(self) -> list[str]:
        """Names of the engine's weights."""
        return [f"{self.engine}.{part}" for part, _ in self.parts] or [self.engine]


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Attention heads, for the layout `qkv`."""

    heads: int
    """Number of query heads."""
    groups: int
    """Number of query groups."""
    head_dim: int
    """Size of one head."""


@dataclass(frozen=True, kw_only=True)
class WeightMap:
    """Entries, with the sizes that their layouts need."""

    entries: tuple[Entry, ...]
    """Entries of the map."""
    blocks: int
    """Number of blocks in the other model."""
    heads: Heads
    """Attention heads."""
    vocab_size: int
    """Number of rows of the other model's embedding."""
    padded_vocab_size: int
    """Number of rows of the engine's embedding."""
    layers_per_block: int = 2
    """Number of engine layers in a block."""

    def expanded(self) -> Iterator[Entry]:
        """Yield every entry for every block, with the indices in its names."""
        for entry in self.entries:
            per_block = "{" in entry.engine
            for i in range(self.blocks if per_block else 1):
                index = {"i": i, "a": i * self.layers_per_block, "b": i * self.layers_per_block + 1}
                names = tuple(name.format(**index) for name in entry.other)
                yield replace(entry, engine=entry.engine.format(**index), other=names)

    def to_engine(self, other: State) -> dict[str, Tensor]:
        """Convert the other model's weights to the engine's full state dict.

        Args:
            other: All weights of the other model, by name.

        Returns:
            Unsharded weights by the engine's names.

        Raises:
            WeightMapError: A weight is missing or left over.
        """
        entries = list(self.expanded())
        _check_names(other, {name for entry in entries for name in entry.other})
        return {
            name: part
            for entry in entries
            for name, part in zip(entry.engine_names, self._joined(entry, [other[n] for n in entry.other]), strict=True)
        }

    def from_engine(self, engine: State) -> dict[str, Tensor]:
        """Convert the engine's full state dict to the other model's weights.

        Args:
            engine: Unsharded weights by the engine's names.

        Returns:
            Weights by the other model's names.

        Raises:
            WeightMapError: A weight is missing or left over.
        """
        entries = list(self.expanded())
        _check_names(engine, {name for entry in entries for name in entry.engine_names})
        return {
            name: part
            for entry in entries
            for name, part in zip(entry.other, self._split(entry, [engine[n] for n in entry.engine_names]), strict=True)
        }

    def _joined(self, entry: Entry, parts: list[Tensor]) -> list[Tensor]:
        """Return the engine's weights of an entry from the other model's."""
        match entry.layout:
            case "same":
                return list(torch.split(parts[0], [rows for _, rows in entry.parts])) if entry.parts else parts
            case "rows":
                return [torch.cat(parts)]
            case "vocab":
                missing = self.padded_vocab_size - self.vocab_size
                return [torch.cat([parts[0], parts[0].new_zeros(missing, *parts[0].shape[1:])])]
            case "qkv":
                grouped = [part.reshape(self.heads.groups, -1, *part.shape[1:]) for part in parts]
                return [torch.cat(grouped, dim=1).flatten(0, 1)]

    def _split(self, entry: Entry, parts: list[Tensor]) -> list[Tensor]:
        """Return the other model's weights of an entry from the engine's."""
        joined = torch.cat(parts) if entry.parts else parts[0]
        match entry.layout:
            case "same":
                return [joined]
            case "rows":
                return list(joined.chunk(len(entry.other)))
            case "vocab":
                return [joined[: self.vocab_size]]
            case "qkv":
                d = self.heads.head_dim
                sizes = [self.heads.heads // self.heads.groups * d, d, d]
                grouped = joined.reshape(self.heads.groups, -1, *joined.shape[1:])
                return [part.flatten(0, 1) for part in torch.split(grouped, sizes, dim=1)]


def _check_names(state: State, wanted: set[str]) -> None:
    missing, left = sorted(wanted - set(state)), sorted(set(state) - wanted)
    if missing or left:
        raise WeightMapError(
            f"the weights must be exactly those of the map, but {len(missing)} are missing ({', '.join(missing[:4])}) "
            f"and {len(left)} are left over ({', '.join(left[:4])}); check that the config is that of this checkpoint."
        )
