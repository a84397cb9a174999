"""The cells of the checkpoint matrix: what is saved, where from, and where it is resumed.

`CELLS` is a pairwise covering design: every two values of two factors that can occur together do so in at least one
cell. A cell's id names its values, so any cell can be run by it, also one that is not in the design.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modelwright.config import (
    MegatronDDP,
    ModelConfig,
    Parallelism,
    Precision,
    RunConfig,
    TorchFSDP2,
    TrainConfig,
    Wrap,
)
from modelwright.gpt import GPTModelConfig
from modelwright.mamba import MambaModelConfig
from modelwright.moe import MoeModelConfig

SIZES: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 256, "seq_length": 16}
EXPERTS: dict[str, Any] = {"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": 32}
SCAN: dict[str, Any] = {"mamba_state_dim": 8, "mamba_head_dim": 16, "mamba_num_groups": 2, "chunk_size": 8}
FAMILIES: dict[str, ModelConfig] = {
    "gpt": GPTModelConfig(num_layers=2, num_query_groups=2, **SIZES),
    "moe": MoeModelConfig(num_layers=2, **SIZES, **EXPERTS),
    "hybrid": MambaModelConfig(pattern="M*E*", **SIZES, **EXPERTS, **SCAN),
}
WRAPS: dict[str, Wrap] = {
    "ddp": MegatronDDP(),
    "distributed": MegatronDDP(distributed_optimizer=True),
    "fsdp2": TorchFSDP2(),
}
LAYOUTS = {
    "tensor": Parallelism(tensor=2, sequence=True),
    "pipeline": Parallelism(pipeline=2),
    "data": Parallelism(data=2),
    "expert": Parallelism(expert=2, data=2),
    "one": Parallelism(data=1),
}
FACTORS: dict[str, tuple[str, ...]] = {
    "family": tuple(FAMILIES),
    "dtype": ("float32", "bfloat16", "float16"),
    "trained": ("all", "lora", "frozen"),
    "model": ("alone", "composite"),
    "wrap": tuple(WRAPS),
    "layout": tuple(LAYOUTS),
    "to_wrap": tuple(WRAPS),
    "to_layout": tuple(LAYOUTS),
}


@dataclass(frozen=True)
class Cell:
    """One cell; its fields are the factors."""

    family: str
    dtype: str
    trained: str
    model: str
    wrap: str
    layout: str
    to_wrap: str
    to_layout: str

    @property
    def id(self) -> str:
        return "-".join(dataclasses.astuple(self))

    @property
    def occurs(self) -> bool:
        """False if a model without experts is to be split by experts."""
        return not (self.family == "gpt" and "expert" in (self.layout, self.to_layout))

    def run(self, *, target: bool) -> RunConfig:
        """The run of one side."""
        return RunConfig(
            model=FAMILIES[self.family],
            parallelism=LAYOUTS[self.to_layout if target else self.layout],
            wrap=WRAPS[self.to_wrap if target else self.wrap],
            precision=Precision(params=self.dtype),  # type: ignore[arg-type] # one of the literals
            train=TrainConfig(steps=4, micro_batch=1, global_batch=4, lr=1e-2),
        )


def cell_of(cell_id: str) -> Cell:
    """The cell with an id."""
    return Cell(*cell_id.split("-"))


type Pair = tuple[tuple[str, str], tuple[str, str]]


def pairs_of(cell: Cell) -> Iterator[Pair]:
    yield from itertools.combinations(zip(FACTORS, dataclasses.astuple(cell), strict=True), 2)


def possible_pairs() -> set[Pair]:
    """Every pair of values that some cell has."""
    return {pair for values in itertools.product(*FACTORS.values()) for pair in _pairs_if_possible(Cell(*values))}


def _pairs_if_possible(cell: Cell) -> Iterator[Pair]:
    return pairs_of(cell) if cell.occurs else iter(())


def covering_design() -> list[Cell]:
    """Choose cells greedily: each is the best of some random ones that contain a pair that is still missing."""
    draw = random.Random(0)
    missing, chosen = sorted(possible_pairs()), list[Cell]()
    while missing:
        left = set(missing)
        candidates = [_with(draw.choice(missing), draw) for _ in range(60)]
        best = max(candidates, key=lambda cell: len(left.intersection(pairs_of(cell))))
        chosen.append(best)
        missing = [pair for pair in missing if pair not in set(pairs_of(best))]
    return chosen


def _with(pair: Pair, draw: random.Random) -> Cell:
    """A random cell that occurs and contains a pair."""
    while True:
        cell = Cell(**({name: draw.choice(values) for name, values in FACTORS.items()} | dict(pair)))
        if cell.occurs:
            return cell


CELLS = covering_design()


def first_of_each() -> list[Cell]:
    """A cell of each wrap and family, for the default suite; of a model alone where there is one."""
    found: dict[tuple[str, str], Cell] = {}
    for cell in sorted(CELLS, key=lambda cell: cell.model):
        found.setdefault((cell.wrap, cell.family), cell)
    return list(found.values())
