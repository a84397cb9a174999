"""Composite models on two real ranks: what a module trains there is what it trains alone."""

import os
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelwright.builders import Hook
from modelwright.config import MegatronDDP, Parallelism, TorchFSDP2
from modelwright.testing import RankPool
from tests.integration.jobs import TINY, quiet
from tests.integration.modules import Place, assert_modules_agree

if TYPE_CHECKING:
    from modelwright.distributed import ModulePlan

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "two_tower.py"
STEPS = 40
BOTH = range(2)
SHARED: dict[str, Place] = {
    "tensor": (BOTH, Parallelism(tensor=2, sequence=True), MegatronDDP()),
    "data": (BOTH, Parallelism(data=2), MegatronDDP(distributed_optimizer=True)),
    "sharded": (BOTH, Parallelism(data=2), TorchFSDP2()),
    "sharded_again": (BOTH, Parallelism(data=2), TorchFSDP2()),
    "pipeline": (BOTH, Parallelism(pipeline=2), MegatronDDP()),
    "virtual": (BOTH, Parallelism(pipeline=2, virtual_pipeline=2), MegatronDDP()),
    "context": (BOTH, Parallelism(context=2), MegatronDDP()),
}


def train_towers(steps: int) -> tuple[str, list[dict[str, float]], set[str], set[str]]:
    """Train as one of two ranks. Return its tower, the records, the parameters that changed, and those that did not."""
    quiet()
    example = runpy.run_path(str(EXAMPLE))
    tower, bridge = example["build"]()
    before = {name: parameter.detach().clone() for name, parameter in tower.stage.named_parameters()}
    records = [tower.step(bridge, step) for step in range(steps)]
    same = {name for name, parameter in tower.stage.named_parameters() if parameter.equal(before[name])}
    return type(tower).__name__, records, before.keys() - same, same


def train_in_one_process(steps: int) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """The reference: both towers built alone, one calling the other."""
    quiet()
    from modelwright.builders import builder_for
    from modelwright.distributed import BuiltModule, initialize

    example = runpy.run_path(str(EXAMPLE))
    groups = initialize(Parallelism())

    def tower(name: str) -> Any:
        plan: ModulePlan = example["MODULES"][name]
        stages = builder_for(plan.config, builder=plan.builder).build_distributed_models(
            groups, parallelism=plan.parallelism, precision=plan.precision, wrap=plan.wrap, seed=plan.seed
        )
        return example["Tower"](BuiltModule(stages=stages, pg_collection=groups))

    encoder, decoder = tower("encoder"), tower("gpt")
    encoded, decoded = list[dict[str, float]](), list[dict[str, float]]()
    for step in range(steps):
        cipher_BS, clear_BS = example["letters"](step)
        loss = decoder.loss(encoder.encode(cipher_BS), clear_BS)
        loss.backward()
        encoded.append({"grad_norm": encoder.update()})
        decoded.append({"loss": loss.item(), "grad_norm": decoder.update()})
    return encoded, decoded


def test_the_two_towers_train_as_in_one_process(two_ranks: RankPool) -> None:
    """The losses of random letters fall below the uniform baseline, so the encoder is trained across the bridge."""
    (first, encoded, changed, same), (second, decoded, also_changed, also_same) = two_ranks.run(train_towers, STEPS)
    assert (first, second) == ("Encoder", "Decoder")
    assert decoded[0]["loss"] == pytest.approx(3.466, abs=0.1)
    assert decoded[-1]["loss"] < 0.1
    assert all(record["grad_norm"] > 0 for record in encoded)
    assert changed
    assert also_changed
    assert same | also_same == set()
    expected_encoded, expected_decoded = two_ranks.run(train_in_one_process, STEPS, ranks=1)[0]
    for found, expected in ((encoded, expected_encoded), (decoded, expected_decoded)):
        for here, there in zip(found, expected, strict=True):
            assert here == pytest.approx(there, abs=1e-4)


def test_the_bridge_of_a_job_ends_with_it(two_ranks: RankPool) -> None:
    """The engine keeps the groups of bridges by their ranks, in a table that outlives the job."""
    once, again = (two_ranks.run(train_towers, 2) for _ in range(2))
    assert once == again


def test_modules_that_share_their_ranks_train_as_on_one_rank(two_ranks: RankPool) -> None:
    """Clear the engine's globals, so that every group that it uses is the module's own."""
    first, second = assert_modules_agree(two_ranks, SHARED)
    assert list(first) == list(second) == list(SHARED)


def test_ranks_may_hold_different_numbers_of_modules(two_ranks: RankPool) -> None:
    """One on the first and two on the second; the engine compares an optimizer's groups on every rank of the job."""
    alone = {"one": range(1), "two": range(1, 2), "three": range(1, 2)}
    places: dict[str, Place] = {name: (ranks, Parallelism(), MegatronDDP()) for name, ranks in alone.items()}
    assert [list(curves) for curves in assert_modules_agree(two_ranks, places)] == [["one"], ["two", "three"]]


def build_with_a_fault(fault: str) -> str:
    """Return the error of one of two ranks, of which the second has a fault."""
    quiet()
    from modelwright.builders import HookError
    from modelwright.distributed import BuildError, CompositeModelBuilder, ModulePlan

    second = os.environ["RANK"] == "1"

    def fail(*_: object) -> None:
        raise ValueError("no such weights")

    hooks = [Hook(name="load", phase="before_wrap", function=fail)] if fault == "hook" else []
    modules = {
        "one": ModulePlan(config=TINY, ranks=range(1)),
        "two": ModulePlan(config=TINY, ranks=range(1, 2), hooks=hooks),
    }
    if fault == "plans" and second:
        modules = {"both": ModulePlan(config=TINY, ranks=range(2), parallelism=Parallelism(tensor=2))}
    builder = CompositeModelBuilder(modules)
    try:
        builder.build_distributed_models(builder.initialize())
    except (BuildError, HookError) as error:
        return f"{type(error).__name__}: {error}"
    return "built"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            "hook",
            [
                (
                    "BuildError: another rank failed in build phase `modules`: rank 1: HookError: hook `load` failed "
                    "in phase before_wrap on rank 1: ValueError: no such weights"
                ),
                "HookError: hook `load` failed in phase before_wrap on rank 1: ValueError: no such weights",
            ],
        ),
        ("plans", ["BuildError: on rank 1: modules is not the same on every rank"] * 2),
    ],
)
def test_ranks_of_other_modules_learn_of_a_failure(fault: str, told: list[str], two_ranks: RankPool) -> None:
    assert two_ranks.run(build_with_a_fault, fault) == told
