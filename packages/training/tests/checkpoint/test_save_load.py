"""A checkpoint is whole or not there, and what was saved before stays."""

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from megatron.core.dist_checkpointing.strategies import filesystem_async
from torch import nn

from modelwright.config import Parallelism, RunConfig, replace
from modelwright.distributed import initialize, unwrapped
from modelwright.training import (
    CheckpointError,
    TrainState,
    builder_of,
    checkpoint_config,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    train,
)
from packages.training.tests.tiny import BigramConfig, bigram_run

pytestmark = pytest.mark.usefixtures("engine")


class Unsavable:
    """State that the engine fails on when it has written part of the checkpoint."""

    def state_dict(self) -> dict[str, object]:
        return {"lock": threading.Lock()}


def built(run: RunConfig, seed: int = 1) -> TrainState:
    """The stages of a run without an optimizer."""
    groups = initialize(Parallelism())
    stages = builder_of(run).build_distributed_models(
        groups, parallelism=run.parallelism, precision=run.precision, wrap=run.wrap, seed=seed
    )
    return TrainState(stages, groups)


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in unwrapped(state.stages[0]).state_dict().items()}


def scaled(state: TrainState, factor: float) -> TrainState:
    with torch.no_grad():
        for parameter in state.stages[0].parameters():
            parameter.mul_(factor)
    return state


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    run = bigram_run()
    state = built(run)
    saved = weights(state)
    path = save_checkpoint(state, run, tmp_path, 7)
    assert path == tmp_path / "checkpoints" / "step-00000007"
    assert latest_checkpoint(tmp_path) == (7, path)
    assert checkpoint_config(path) == run
    assert not same(weights(scaled(state, 2.0)), saved)
    load_checkpoint(state, path)
    assert same(weights(state), saved)


def test_a_failure_in_the_middle_leaves_the_older_one(tmp_path: Path) -> None:
    run = bigram_run()
    state = built(run)
    saved = weights(state)
    older = save_checkpoint(state, run, tmp_path, 1)
    with pytest.raises(TypeError, match="pickle"):
        save_checkpoint(TrainState(state.stages, state.pg_collection, None, Unsavable()), run, tmp_path, 2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path != older] == [".step-00000002.partial"]
    assert latest_checkpoint(tmp_path) == (1, older)
    load_checkpoint(scaled(state, 2.0), older)
    assert same(weights(state), saved)

    newer = save_checkpoint(state, run, tmp_path, 2)
    assert latest_checkpoint(tmp_path) == (2, newer)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond a few kilobytes; pytest's own output, which may go to a file, is written after it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    run = bigram_run()
    state = built(run)
    with pytest.raises(RuntimeError) as caught, full_disk():
        save_checkpoint(state, run, tmp_path, 1)
    path = tmp_path / "checkpoints" / "step-00000001"
    assert str(caught.value).startswith(f"`{path}` cannot be written: ")
    assert str(caught.value).endswith("; older checkpoints are untouched.")
    assert "\n" not in str(caught.value)
    assert checkpoints(tmp_path) == []


def test_a_step_that_is_done_again_is_saved_again(tmp_path: Path) -> None:
    run = bigram_run()
    state = built(run)
    path = save_checkpoint(state, run, tmp_path, 1)
    (path / "left-over").touch()
    saved = weights(scaled(state, 2.0))
    assert save_checkpoint(state, run, tmp_path, 1) == path
    assert not (path / "left-over").exists()
    load_checkpoint(scaled(state, 3.0), path)
    assert same(weights(state), saved)


def test_old_checkpoints_are_forgotten(tmp_path: Path) -> None:
    train(bigram_run(7, checkpoint_interval=2, keep_checkpoints=2), out=tmp_path)
    assert [step for step, _ in checkpoints(tmp_path)] == [6, 7]


def test_a_model_of_another_shape(tmp_path: Path) -> None:
    path = save_checkpoint(built(bigram_run()), bigram_run(), tmp_path, 1)
    other = built(replace(bigram_run(), model=BigramConfig(width=8)))
    before = weights(other)
    with pytest.raises(CheckpointError, match=rf"^`{path}` cannot be loaded into this model: "):
        load_checkpoint(other, path)
    assert same(weights(other), before)


def test_a_model_with_more_parameters(tmp_path: Path) -> None:
    path = save_checkpoint(built(bigram_run()), bigram_run(), tmp_path, 1)
    other = built(bigram_run())
    module: Any = unwrapped(other.stages[0])
    module.extra = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=rf"^`{path}` cannot be loaded into this model: "):
        load_checkpoint(other, path)


@pytest.mark.parametrize("name", ["*.distcp", ".metadata", "metadata.json"])
def test_a_file_that_was_cut_short(name: str, tmp_path: Path) -> None:
    path = save_checkpoint(built(bigram_run()), bigram_run(), tmp_path, 1)
    file = max(path.glob(name), key=lambda found: found.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=rf"^`{path}` cannot be loaded into this model: "):
        load_checkpoint(built(bigram_run()), path)


def test_a_save_starts_no_manager_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine would keep one for the life of the process, and leave it behind when the rank is killed."""
    monkeypatch.setattr(filesystem_async, "_results_queue", None)
    children = set(psutil.Process().children())
    save_checkpoint(built(bigram_run()), bigram_run(), tmp_path, 1)
    assert filesystem_async._results_queue is None
    assert set(psutil.Process().children()) == children
