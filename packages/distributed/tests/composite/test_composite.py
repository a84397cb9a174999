"""Modules on ranges of ranks: which groups each rank has in each of them, and what is refused before any is made.

Eight ranks of torch's fake process group stand in for a job: it makes groups and communicates nothing. What the engine
makes of a whole job of a module's size is the reference for the module's groups.
"""

import itertools
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from typing import Any, ClassVar, override

import pytest
import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import DistributedDataParallel
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from modelwright.builders import BuildContext, Hook, ModelBuilder
from modelwright.config import (
    ModelConfig,
    NoWrap,
    Parallelism,
    Precision,
    Problem,
    TorchFSDP2,
    Wrap,
    config_class,
)
from modelwright.distributed import (
    BuiltModule,
    CompositeError,
    CompositeModelBuilder,
    ModuleGroups,
    ModulePlan,
    build_stages,
    finalize,
    initialize,
)
from modelwright.engine import device_runtime
from packages.distributed.tests.tiny import TinyStage
from tests.messages import facts

WORLD = 8


@config_class
class TinyConfig(ModelConfig):
    """A linear layer of sixteen outputs."""

    kind: ClassVar[str] = "composite_tiny"
    builder: ClassVar[str] = "packages.distributed.tests.composite.test_composite:TinyBuilder"

    @override
    def layout_problems(self, parallelism: Parallelism) -> Iterator[Problem]:
        if 16 % parallelism.tensor:
            yield Problem("", f"`tensor` 16 {parallelism.tensor} 2")


class TinyBuilder(ModelBuilder[TinyStage, TinyConfig]):
    """One such layer, whatever the stage."""

    @override
    def build_model(self, pg_collection: ProcessGroupCollection, **options: Any) -> TinyStage:
        stage = TinyStage(pg_collection)
        stage.tp_group = pg_collection.tp
        return stage

    @override
    def build_distributed_models(
        self,
        pg_collection: ProcessGroupCollection,
        *,
        parallelism: Parallelism,
        precision: Precision,
        wrap: Wrap,
        seed: int = 1234,
    ) -> list[nn.Module]:
        return build_stages(
            lambda vp_stage: self.build_model(pg_collection),
            config=self.config,
            pg_collection=pg_collection,
            parallelism=parallelism,
            precision=precision,
            wrap=wrap,
            hooks=self.hooks,
            seed=seed,
        )


class DoubledBuilder(TinyBuilder):
    """Takes an option."""

    def __init__(self, config: TinyConfig, *, factor: int = 1, hooks: Any = ()) -> None:
        super().__init__(config, hooks=hooks)
        self.factor = factor

    @override
    def build_model(self, pg_collection: ProcessGroupCollection, **options: Any) -> TinyStage:
        stage = super().build_model(pg_collection, **options)
        with torch.no_grad():
            stage.scale.mul_(self.factor)
        return stage


def plan(*ranks: int, **options: Any) -> ModulePlan:
    axes = {name: options.pop(name) for name in ("tensor", "pipeline", "context", "data", "expert") if name in options}
    return ModulePlan(config=TinyConfig(), ranks=range(*ranks), parallelism=Parallelism(**axes), **options)


THREE = {
    "vision": plan(0, 2, tensor=2),
    "audio": plan(2, 4),
    "language": plan(4, 8, tensor=2, pipeline=2),
}


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with device_runtime():
        yield
        finalize()


def join_as(rank: int, world_size: int = WORLD) -> None:
    finalize()
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)


def members(pg_collection: ProcessGroupCollection) -> dict[str, list[int]]:
    """The ranks of each group that is set."""
    groups = {field.name: getattr(pg_collection, field.name) for field in fields(ProcessGroupCollection)}
    return {
        name: torch.distributed.get_process_group_ranks(group) for name, group in groups.items() if group is not None
    }


def test_three_modules_over_eight_ranks() -> None:
    """Every rank is in one module here, and each axis of the module groups the ranks as written down."""
    axes = ("tp", "pp", "dp", "cp", "mp", "embd", "pos_embd", "intra_dist_opt")
    written = {
        0: ("vision", [0, 1], [0], [0], [0], [0, 1], [0], [0], [0, 1]),
        1: ("vision", [0, 1], [1], [1], [1], [0, 1], [1], [1], [0, 1]),
        2: ("audio", [2], [2], [2, 3], [2], [2], [2], [2], [2, 3]),
        3: ("audio", [3], [3], [2, 3], [3], [3], [3], [3], [2, 3]),
        4: ("language", [4, 5], [4, 6], [4], [4], [4, 5, 6, 7], [4, 6], [4], [4, 5, 6, 7]),
        5: ("language", [4, 5], [5, 7], [5], [5], [4, 5, 6, 7], [5, 7], [5], [4, 5, 6, 7]),
        6: ("language", [6, 7], [4, 6], [6], [6], [4, 5, 6, 7], [4, 6], None, [4, 5, 6, 7]),
        7: ("language", [6, 7], [5, 7], [7], [7], [4, 5, 6, 7], [5, 7], None, [4, 5, 6, 7]),
    }
    for rank, (name, *expected) in written.items():
        join_as(rank)
        groups = CompositeModelBuilder(THREE).initialize()
        held = {name: place.pg_collection for name, place in groups.items() if place.pg_collection is not None}
        assert list(held) == [name]
        found = members(held[name])
        assert [found.get(axis) for axis in axes] == expected
        assert {name: place.grid.rank_offset for name, place in groups.items()} == {
            "vision": 0,
            "audio": 2,
            "language": 4,
        }


@pytest.mark.parametrize(
    "parallelism",
    [
        Parallelism(tensor=2, pipeline=2),
        Parallelism(tensor=2, context=2),
        Parallelism(pipeline=2),
        Parallelism(context=2),
        Parallelism(expert=2, tensor=2),
        Parallelism(expert=2, expert_tensor=1, tensor=2, pipeline=2),
        Parallelism(expert=4, expert_tensor=1),
    ],
    ids=str,
)
def test_the_groups_of_a_module_are_those_of_a_job_of_its_size(parallelism: Parallelism) -> None:
    """Moved by where the module begins; all groups that the engine makes of four ranks, but its axes of one rank."""
    for rank in range(4):
        join_as(rank, world_size=4)
        expected = members(initialize(parallelism))
        join_as(rank + 3)
        edges = {"before": plan(0, 3), "module": replaced(parallelism), "after": plan(7, 8)}
        collection = CompositeModelBuilder(edges).initialize()["module"].pg_collection
        assert collection is not None
        unused = {"gtp_remat", "expt_gtp_remat", "hcp", "inter_dist_opt"}
        assert members(collection) == {
            name: [other + 3 for other in ranks] for name, ranks in expected.items() if name not in unused
        }


def replaced(parallelism: Parallelism) -> ModulePlan:
    return ModulePlan(config=TinyConfig(), ranks=range(3, 7), parallelism=parallelism)


def test_modules_on_the_same_ranks_have_groups_of_their_own() -> None:
    join_as(5)
    modules = {"split": plan(4, 8, tensor=4), "copied": plan(4, 8), "other": plan(0, 4)}
    groups = CompositeModelBuilder(modules).initialize()
    assert groups["other"].pg_collection is None
    split, copied = (groups[name].pg_collection for name in ("split", "copied"))
    assert split is not None
    assert copied is not None
    assert (members(split)["tp"], members(split)["dp"]) == ([4, 5, 6, 7], [5])
    assert (members(copied)["tp"], members(copied)["dp"]) == ([5], [4, 5, 6, 7])


def test_the_globals_of_the_engine_are_empty() -> None:
    """A path that reads them fails, instead of communicating with ranks of another module."""
    join_as(0, world_size=1)
    initialize(Parallelism())
    CompositeModelBuilder({"one": plan(0, 1)}).initialize()
    assert not parallel_state.model_parallel_is_initialized()
    with pytest.raises(AssertionError, match="tensor model parallel group is not initialized"):
        parallel_state.get_tensor_model_parallel_group()
    assert parallel_state.get_global_memory_buffer() is not None


def build(rank: int, modules: dict[str, ModulePlan]) -> dict[str, BuiltModule]:
    join_as(rank)
    builder = CompositeModelBuilder(modules)
    return builder.build_distributed_models(builder.initialize())


def test_each_module_is_built_where_it_stands_by_its_own_plan() -> None:
    seen: list[tuple[list[nn.Module], BuildContext]] = []
    hook = Hook(name="look", phase="before_wrap", function=lambda *given: seen.append(given))
    modules = {
        "vision": plan(0, 2, tensor=2, hooks=[hook]),
        "audio": plan(2, 4, wrap=NoWrap()),
        "language": plan(4, 8, tensor=2, pipeline=2, builder=partial(DoubledBuilder, factor=2), seed=5),
    }
    built = {rank: build(rank, modules) for rank in (1, 3, 7)}
    assert {rank: list(models) for rank, models in built.items()} == {1: ["vision"], 3: ["audio"], 7: ["language"]}
    (vision,), (audio,), (language,) = (module.stages for models in built.values() for module in models.values())
    assert [type(stage) for stage in (vision, audio, language)] == [
        DistributedDataParallel,
        TinyStage,
        DistributedDataParallel,
    ]
    assert [tuple(p.shape) for p in (vision.module.linear.weight, audio.linear.weight)] == [(8, 8), (16, 8)]
    assert torch.equal(language.module.scale, torch.full((16,), 2.0))
    # Of one seed, the second tensor rank of `vision` holds the second half of what `audio` holds.
    assert torch.equal(vision.module.linear.weight, audio.linear.weight[8:])
    assert not torch.equal(language.module.linear.weight, audio.linear.weight[8:])
    (((stage,), context),) = seen
    assert stage is vision.module
    assert (context.parallelism, context.rank) == (Parallelism(tensor=2), 1)


def test_a_module_that_leaves_its_tensor_group_to_the_globals_fails() -> None:
    """Follow the documentation of custom modules: the engine describes their shards by `tp_group`."""

    class Forgetful(TinyBuilder):
        @override
        def build_model(self, pg_collection: ProcessGroupCollection, **options: Any) -> TinyStage:
            return TinyStage(pg_collection)

    with pytest.raises(AssertionError, match="tensor model parallel group is not initialized"):
        build(0, {"one": plan(8, builder=Forgetful)})


def test_random_states_are_those_of_the_place_in_the_module() -> None:
    def draw() -> torch.Tensor:
        with tensor_parallel.get_cuda_rng_tracker().fork():
            return torch.rand(4)

    drawn = {}
    for rank in range(4, 8):
        build(rank, THREE)
        drawn[rank] = draw()
    assert torch.equal(drawn[4], drawn[6])  # the same tensor rank of two pipeline stages
    assert torch.equal(drawn[5], drawn[7])
    assert not torch.equal(drawn[4], drawn[5])


def test_groups_of_another_composite_are_refused() -> None:
    join_as(0)
    groups: dict[str, ModuleGroups] = CompositeModelBuilder(THREE).initialize()
    with pytest.raises(CompositeError) as caught:
        CompositeModelBuilder({"whole": plan(0, 8)}).build_distributed_models(groups)
    assert facts(caught.value) == "`groups` `initialize` `whole` `vision` `audio` `language` `initialize`"


def refusal(modules: dict[str, ModulePlan], monkeypatch: pytest.MonkeyPatch, world_size: int = WORLD) -> list[str]:
    """Return the refusal, with no process in a job yet."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    with pytest.raises(CompositeError) as caught:
        CompositeModelBuilder(modules).initialize()
    assert not torch.distributed.is_initialized()
    return facts(caught.value).splitlines()


@pytest.mark.parametrize(
    ("modules", "problem"),
    [
        ({}, "`modules` `ModulePlan`"),
        (
            {"my gpt": plan(8)},
            "'my gpt' `_`",
        ),
        (
            {"a": plan(8), "b": plan(0)},
            "`ranks` `b` 0 0 `range(first, last + 1)`",
        ),
        (
            {"a": plan(0, 8), "b": plan(8, 9)},
            "`ranks` `b` 0 8",
        ),
        (
            {"a": plan(3, tensor=2), "b": plan(3, 8)},
            "`ranks` `a` 2 `parallelism` 3 0",
        ),
        (
            {"a": plan(8, tensor=2, data=2)},
            "`ranks` `a` 4 `parallelism` 8 0",
        ),
        (
            {"a": plan(6, expert=4), "b": plan(6, 8)},
            "`ranks` `a` 4 `parallelism` 6 0",
        ),
        (
            {"a": plan(0, 6), "b": plan(4, 8)},
            "`a` `b` 4 0 4",
        ),
        (
            {"a": plan(1, 3), "b": plan(4, 6)},
            "0 3 6 0 `ranks`",
        ),
        (
            {"a": plan(7)},
            "7 0 `ranks`",
        ),
        ({"a": plan(6, tensor=3), "b": plan(6, 8)}, "`a` `tensor` 16 3 2"),
        (
            {"a": plan(8, wrap=TorchFSDP2(), precision=Precision(params="bfloat16", keep_float32=("*",)))},
            "`a` `wrap.kind: fsdp2` `precision.keep_float32` `ddp`",
        ),
    ],
)
def test_what_is_refused(modules: dict[str, ModulePlan], problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(modules, monkeypatch) == [problem]


def test_all_problems_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"1st": plan(0, 3, tensor=2), "2nd": plan(2, 4), "third": plan(6, 9), "odd": plan(1, 7, 2)}
    assert refusal(modules, monkeypatch) == [
        "'1st' `_`",
        "`ranks` `1st` 2 `parallelism` 3 0",
        "'2nd' `_`",
        "`ranks` `third` 0 6",
        "`ranks` `odd` 1 7 2 `range(first, last + 1)`",
        "`1st` `2nd` 2 0 2",
        "`1st` `odd` 1 0 1",
        "`2nd` `odd` 3 2 1",
        "4 0 `ranks`",
    ]


@pytest.mark.parametrize("size", [3, pytest.param(4, marks=pytest.mark.proof)])
def test_the_ranges_that_tile_a_job_are_exactly_those_that_are_accepted(size: int) -> None:
    """Every pair of ranges over a few ranks, against the rule written with sets."""
    ranges = [range(a, b) for a, b in itertools.combinations(range(size + 1), 2)]
    for first, second in itertools.product(ranges, ranges):
        join_as(0, world_size=size)
        builder = CompositeModelBuilder({"a": plan(first.start, first.stop), "b": plan(second.start, second.stop)})
        fits = set(first) | set(second) == set(range(size)) and (first == second or not set(first) & set(second))
        try:
            builder.initialize()
        except CompositeError:
            assert not fits, (first, second)
        else:
            assert fits, (first, second)
