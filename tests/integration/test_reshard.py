"""A checkpoint of one layout, loaded on the next and the next: the losses stay those of the unbroken run."""

import shutil
from pathlib import Path

import pytest

from modelwright.config import Parallelism, RunConfig, TrainConfig, replace
from modelwright.testing import RankPool
from modelwright.training import checkpoint_path, checkpoints
from tests.integration.jobs import TINY

RUN = RunConfig(
    model=TINY,
    parallelism=Parallelism(tensor=2),
    train=TrainConfig(steps=6, micro_batch=2, global_batch=4, lr=1e-2, checkpoint_interval=2),
)


def go_on(run: RunConfig, out: Path, resume: Path | None) -> list[tuple[int, float, float]]:
    """Train as one rank: step, loss and gradient norm of each step."""
    from modelwright.training import train

    return [(record.step, record.loss, record.grad_norm) for record in train(run, out=out, resume=resume)]


def test_tensor_2_then_pipeline_2_then_one_rank(two_ranks: RankPool, tmp_path: Path) -> None:
    unbroken = two_ranks.run(go_on, RUN, tmp_path / "unbroken", None)[0]
    before, out = tmp_path / "unbroken", tmp_path
    found = unbroken[:2]
    layouts = {2: Parallelism(pipeline=2), 4: Parallelism()}
    for step, parallelism in layouts.items():
        out = tmp_path / f"from-{step}"
        shutil.copytree(checkpoint_path(before, step), checkpoint_path(out, step))
        run = replace(RUN, parallelism=parallelism)
        steps = two_ranks.run(go_on, run, out, out, ranks=parallelism.world_size())[0]
        assert [of for of, _, _ in steps] == list(range(step + 1, 7))
        found = found[:step] + steps
        before = out
    assert [step for step, _ in checkpoints(out)] == [4, 6]
    for here, there in zip(found, unbroken, strict=True):
        assert here == pytest.approx(there, abs=1e-4)
