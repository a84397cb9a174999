"""Weight maps: how the weights of the engine's model correspond to another library's, as data, in both directions.

A map is a tuple of entries. Each names one weight of the engine, the weights of the other model it is made of, and how:
the same tensor, several stacked along the rows, queries, keys and values interleaved by query group, or a vocabulary
that the engine pads; or several weights of the engine that are the rows of one, as a checkpoint keeps Mamba's
projection. Names may hold `{i}` (index of the other model's block), `{a}` and `{b}` (first and second engine layer of
that block); such an entry stands for every block.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from modelwright.config import ModelConfig
from modelwright.protocols import ModelwrightError

type State = Mapping[str, Tensor]


class WeightMapError(ModelwrightError):
    """Weights that a map names are missing, or weights are left that it does not name."""


def check_mapped(config: ModelConfig, needed: Mapping[str, object], model: str) -> None:
    """Refuse a config whose weights would fit the other model, which then computes something else.

    Args:
        config: Of the engine's model.
        needed: Fields and the one value of each that the other model has.
        model: The other model's name.

    Raises:
        WeightMapError: A field has another value.
    """
    for name, only in needed.items():
        given = getattr(config, name)
        if given != only:
            rule = f"`{name}` must be `{_written(only)}` for `{model}`, which has nothing else"
            raise WeightMapError(f"{rule}, but is `{_written(given)}`; change it, or use a map of your own.")


def _written(value: object) -> str:
    """As a file has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Entry:
    """One weight of the engine, or several that are rows of one of the other model."""

    engine: str
    """Its name in the whole model; what the names of several begin with."""
    other: tuple[str, ...]
    """The names of what it is made of."""
    layout: Literal["same", "rows", "qkv", "vocab"] = "same"
    """How: one tensor, stacked rows, interleaved query groups, padded rows."""
    parts: tuple[tuple[str, int], ...] = ()
    """How the names of several weights of the engine end, and the rows of each."""

    @property
    def engine_names(self) -> list[str]:
        """The weights of the engine."""
        return [f"{self.engine}.{part}" for part, _ in self.parts] or [self.engine]


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What the `qkv` layout needs to know."""

    heads: int
    groups: int
    head_dim: int


@dataclass(frozen=True, kw_only=True)
class WeightMap:
    """Entries with what it takes to apply them."""

    entries: tuple[Entry, ...]
    blocks: int
    """How many blocks the other model has."""
    heads: Heads
    vocab_size: int
    """Rows of the other model's embedding."""
    padded_vocab_size: int
    """Rows of the engine's."""
    layers_per_block: int = 2
    """How many engine layers a block is."""

    def expanded(self) -> Iterator[Entry]:
        """Every entry with its indices filled in."""
        for entry in self.entries:
            per_block = "{" in entry.engine
            for i in range(self.blocks if per_block else 1):
                index = {"i": i, "a": i * self.layers_per_block, "b": i * self.layers_per_block + 1}
                names = tuple(name.format(**index) for name in entry.other)
                yield replace(entry, engine=entry.engine.format(**index), other=names)

    def to_engine(self, other: State) -> dict[str, Tensor]:
        """The engine's weights, whole, from the other model's.

        Args:
            other: All weights of the other model.

        Returns:
            Weights by the engine's names in the whole model.

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
        """The other model's weights from the engine's, whole.

        Args:
            engine: Weights by the engine's names in the whole model.

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
        """The engine's weights of an entry, from the other model's."""
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

    def _split(self, entry: Entry, wholes: list[Tensor]) -> list[Tensor]:
        """The other model's weights of an entry, from the engine's."""
        whole = torch.cat(wholes) if entry.parts else wholes[0]
        match entry.layout:
            case "same":
                return [whole]
            case "rows":
                return list(whole.chunk(len(entry.other)))
            case "vocab":
                return [whole[: self.vocab_size]]
            case "qkv":
                d = self.heads.head_dim
                sizes = [self.heads.heads // self.heads.groups * d, d, d]
                grouped = whole.reshape(self.heads.groups, -1, *whole.shape[1:])
                parts = torch.split(grouped, sizes, dim=1)
                return [part.flatten(0, 1) for part in parts]


def _check_names(state: State, wanted: set[str]) -> None:
    missing, left = sorted(wanted - set(state)), sorted(set(state) - wanted)
    if missing or left:
        raise WeightMapError(
            f"the weights must be exactly those of the map, but {len(missing)} are missing ({', '.join(missing[:4])}) "
            f"and {len(left)} are left over ({', '.join(left[:4])}); is the config the one of this checkpoint?"
        )
