"""Failures of one rank in a build: the other ranks learn its number and the phase, and soon."""

import datetime
import multiprocessing
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Literal

import pytest

from modelwright.builders import Hook, Phase
from modelwright.config import MegatronDDP, Parallelism, Precision, replace
from modelwright.gpt import GPTModelConfig
from modelwright.testing import RankPool
from tests.messages import facts

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from torch import nn

MODEL = GPTModelConfig(num_layers=2, hidden_size=16, num_attention_heads=2, vocab_size=32, seq_length=8)
TENSOR_2 = Parallelism(tensor=2)
PATIENCE = datetime.timedelta(seconds=5)
LONG = datetime.timedelta(seconds=600)
HOOKED: tuple[Phase, ...] = ("before_wrap", "after_wrap")
type Fault = Literal["raise", "late", "die", "other config", "other groups", "none"]


def misbehave(fault: Fault) -> None:
    """Fault of the second rank in a phase."""
    if fault == "raise":
        raise ValueError("no such weights")
    if fault == "late":
        time.sleep(2 * PATIENCE.total_seconds())
    if fault == "die":
        os.kill(os.getpid(), signal.SIGKILL)


def build_here(phase: str, fault: Fault, timeout: datetime.timedelta) -> None:
    """Build as one of two ranks."""
    from megatron.core.process_groups_config import ProcessGroupCollection

    from modelwright.distributed import build_stages, initialize
    from modelwright.gpt import GPTModelBuilder

    groups, config = initialize(TENSOR_2), MODEL
    if fault == "other config":
        config = replace(MODEL, norm_epsilon=1e-3)
    if fault == "other groups":
        groups = ProcessGroupCollection(**{name: getattr(groups, name) for name in ("tp", "pp", "cp", "ep", "dp_cp")})
    builder = GPTModelBuilder(config)

    def build_stage(vp_stage: int | None) -> "nn.Module":
        if phase == "build":
            misbehave(fault)
        return builder.build_model(groups, vp_stage=vp_stage)

    build_stages(
        build_stage,
        config=config,
        pg_collection=groups,
        parallelism=TENSOR_2,
        precision=Precision(),
        wrap=MegatronDDP(),
        hooks=[Hook(name="load", phase=at, function=lambda *_: misbehave(fault)) for at in HOOKED if at == phase],
        timeout=timeout,
    )


def build(phase: str, fault: Fault, timeout: datetime.timedelta = LONG) -> str:
    """Return the error on a rank, of which the second has a fault."""
    from modelwright.builders import HookError
    from modelwright.distributed import BuildError

    try:
        build_here(phase, fault if os.environ["RANK"] == "1" else "none", timeout)
    except (BuildError, HookError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "built"


def run_alone(rank: int, port: int, told: "Connection") -> None:
    """Run a rank that no other rank waits for at its end."""
    from modelwright.engine import device_runtime

    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port))
    with device_runtime():
        told.send(build("build", "die", PATIENCE))


def test_nobody_fails(two_ranks: RankPool) -> None:
    assert two_ranks.run(build, "build", "none") == ["built", "built"]


@pytest.mark.parametrize(
    ("phase", "own"),
    [
        ("build", "ValueError"),
        *((phase, f"HookError `load` {phase} 1 ValueError") for phase in HOOKED),
    ],
)
def test_a_rank_that_raises(two_ranks: RankPool, phase: str, own: str) -> None:
    """Its own error stays what it is; the other rank has it as well, and does not wait for the timeout."""
    first, second = two_ranks.run(build, phase, "raise")
    assert facts(first) == f"BuildError `{phase}` 1 {own}"
    assert facts(second) == own
    assert first.endswith("no such weights")
    assert second.endswith("no such weights")


def test_a_rank_that_does_not_come(two_ranks: RankPool) -> None:
    first, _ = two_ranks.run(build, "before_wrap", "late", PATIENCE)
    assert facts(first) == "BuildError `before_wrap` 5 1 `timeout`"


def test_a_rank_that_is_killed() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    ranks = [context.Process(target=run_alone, args=(rank, port, theirs)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    assert ours.poll(600)
    told = ours.recv()
    for rank in ranks:
        rank.join(timeout=300)
    assert ranks[1].exitcode == -signal.SIGKILL
    assert facts(told) == "BuildError `build` 5 1 `timeout`"


def test_ranks_that_build_different_models(two_ranks: RankPool) -> None:
    """The same words on both, and neither has built anything."""
    first, second = two_ranks.run(build, "build", "other config")
    assert first == second
    assert facts(first) == "BuildError 1"
    assert "config" in first


def test_groups_that_are_wrong_on_one_rank(two_ranks: RankPool) -> None:
    first, second = two_ranks.run(build, "build", "other groups")
    assert first == second
    assert facts(first).startswith("BuildError 1 `pg_collection` `dp`")


def build_in_bfloat16(pattern: str) -> str:
    """Build two stages with some parameters in float32: what is in float32 on this rank, or the error."""
    import torch

    from modelwright.distributed import PrecisionError, initialize, unwrapped
    from modelwright.gpt import GPTModelBuilder

    parallelism, precision = Parallelism(pipeline=2), Precision(params="bfloat16", keep_float32=(pattern,))
    groups = initialize(parallelism)
    try:
        (stage,) = GPTModelBuilder(MODEL).build_distributed_models(
            groups, parallelism=parallelism, precision=precision, wrap=MegatronDDP()
        )
    except PrecisionError as error:
        return str(error)
    return " ".join(name for name, p in unwrapped(stage).named_parameters() if p.dtype == torch.float32)


def test_a_pattern_may_match_on_another_stage(two_ranks: RankPool) -> None:
    assert two_ranks.run(build_in_bfloat16, "output_layer.*") == ["", "output_layer.weight"]


def test_a_pattern_that_matches_on_no_stage(two_ranks: RankPool) -> None:
    first, second = two_ranks.run(build_in_bfloat16, "outptu_layer.*")
    assert first == second
    assert facts(first).startswith("`precision.keep_float32` 'outptu_layer.*'")
