"""Weight maps: each layout against its definition, there and back, and what is said when names do not match."""

import pytest
import torch
from torch import Tensor

from modelwright.layers import Entry, Heads, WeightMap, WeightMapError
from tests.messages import facts

HEADS, GROUPS, D, HIDDEN = 4, 2, 3, 5
MAP = WeightMap(
    entries=(
        Entry("embedding", ("embed",), "vocab"),
        Entry("layers.{a}.qkv", ("blocks.{i}.q", "blocks.{i}.k", "blocks.{i}.v"), "qkv"),
        Entry("layers.{a}.bias", ("blocks.{i}.qb", "blocks.{i}.kb", "blocks.{i}.vb"), "qkv"),
        Entry("layers.{b}.fc1", ("blocks.{i}.gate", "blocks.{i}.up"), "rows"),
        Entry("norm", ("last",)),
    ),
    blocks=2,
    heads=Heads(heads=HEADS, groups=GROUPS, head_dim=D),
    vocab_size=7,
    padded_vocab_size=8,
)


@pytest.fixture
def other() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = {"embed": torch.randn(7, HIDDEN), "last": torch.randn(HIDDEN)}
    for block in range(2):
        for name, rows in (("q", HEADS * D), ("k", GROUPS * D), ("v", GROUPS * D)):
            state[f"blocks.{block}.{name}"] = torch.randn(rows, HIDDEN)
            state[f"blocks.{block}.{name}b"] = torch.randn(rows)
        state |= {f"blocks.{block}.{name}": torch.randn(6, HIDDEN) for name in ("gate", "up")}
    return state


def test_names(other: dict[str, Tensor]) -> None:
    assert list(MAP.to_engine(other)) == [
        *("embedding", "layers.0.qkv", "layers.2.qkv", "layers.0.bias", "layers.2.bias"),
        *("layers.1.fc1", "layers.3.fc1", "norm"),
    ]


def test_the_same_tensor(other: dict[str, Tensor]) -> None:
    assert torch.equal(MAP.to_engine(other)["norm"], other["last"])


def test_stacked_rows(other: dict[str, Tensor]) -> None:
    assert torch.equal(MAP.to_engine(other)["layers.3.fc1"], torch.cat([other["blocks.1.gate"], other["blocks.1.up"]]))


def test_padded_rows_are_zero(other: dict[str, Tensor]) -> None:
    table = MAP.to_engine(other)["embedding"]
    assert torch.equal(table[:7], other["embed"])
    assert torch.equal(table[7:], torch.zeros(1, HIDDEN))


@pytest.mark.parametrize(("engine", "suffix"), [("qkv", ""), ("bias", "b")])
def test_interleaved_query_groups(other: dict[str, Tensor], engine: str, suffix: str) -> None:
    """For each group: its queries, its key, its value."""
    q, k, v = (other[f"blocks.1.{name}{suffix}"] for name in "qkv")
    expected, per_group = [], HEADS // GROUPS * D
    for group in range(GROUPS):
        expected += [
            q[group * per_group : (group + 1) * per_group],
            k[group * D : (group + 1) * D],
            v[group * D : (group + 1) * D],
        ]
    assert torch.equal(MAP.to_engine(other)[f"layers.2.{engine}"], torch.cat(expected))


def test_there_and_back(other: dict[str, Tensor]) -> None:
    back = MAP.from_engine(MAP.to_engine(other))
    assert back.keys() == other.keys()
    for name, tensor in other.items():
        assert torch.equal(back[name], tensor), name


def test_names_that_do_not_match(other: dict[str, Tensor]) -> None:
    del other["last"], other["blocks.0.q"]
    other["rotary"] = torch.ones(1)
    with pytest.raises(WeightMapError) as caught:
        MAP.to_engine(other)
    assert facts(caught.value) == "2 blocks.0.q 1"
    assert "last)" in str(caught.value)
    assert "(rotary)" in str(caught.value)


def test_names_of_the_engine_that_do_not_match(other: dict[str, Tensor]) -> None:
    engine = MAP.to_engine(other)
    del engine["norm"]
    with pytest.raises(WeightMapError) as caught:
        MAP.from_engine(engine)
    assert facts(caught.value) == "1 0"
    assert "(norm)" in str(caught.value)
