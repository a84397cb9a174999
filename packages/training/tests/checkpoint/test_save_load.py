"""A checkpoint is whole or not there, and what was saved before stays."""

import errno
import json
import os
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from modelwright.config import Parallelism, RunConfig, replace
from modelwright.distributed import initialize, unwrapped
from modelwright.training import (
    CheckpointError,
    DamagedCheckpointError,
    StepRecord,
    TrainState,
    builder_of,
    checkpoint_config,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    train,
)
from modelwright.training.checkpoint import save_load
from packages.training.tests.tiny import BigramConfig, bigram_run
from tests.messages import facts

pytestmark = pytest.mark.usefixtures("engine")


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


def test_a_failure_in_the_middle_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails after the tensors, before the manifest."""
    run = bigram_run()
    state = built(run)
    saved = weights(state)
    older = save_checkpoint(state, run, tmp_path, 1)
    (tmp_path / "checkpoints" / ".step-00000002.partial").mkdir()
    monkeypatch.setattr(save_load, "write_durably", unwritable)
    with pytest.raises(CheckpointError, match="Input/output error"):
        save_checkpoint(state, run, tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path != older] == [".step-00000002.partial"]
    assert latest_checkpoint(tmp_path) == (1, older)
    load_checkpoint(scaled(state, 2.0), older)
    assert same(weights(state), saved)

    newer = save_checkpoint(state, run, tmp_path, 2)
    assert latest_checkpoint(tmp_path) == (2, newer)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]


def unwritable(path: Path, content: bytes) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


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
    with pytest.raises(CheckpointError) as caught, full_disk():
        save_checkpoint(state, run, tmp_path, 1)
    folder = tmp_path / "checkpoints" / ".step-00000001.partial"
    assert facts(caught.value).startswith(f"`{folder}/weights-00000.safetensors`")
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
    with pytest.raises(CheckpointError, match=rf"^`{path}` "):
        load_checkpoint(other, path)
    assert same(weights(other), before)


def test_a_model_with_more_parameters(tmp_path: Path) -> None:
    path = save_checkpoint(built(bigram_run()), bigram_run(), tmp_path, 1)
    other = built(bigram_run())
    module: Any = unwrapped(other.stages[0])
    module.extra = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=rf"^`{path}` "):
        load_checkpoint(other, path)


@pytest.mark.parametrize("name", ["weights-*", "modelwright.json"])
def test_a_file_that_was_cut_short(name: str, tmp_path: Path) -> None:
    path = save_checkpoint(built(bigram_run()), bigram_run(), tmp_path, 1)
    file = max(path.glob(name), key=lambda found: found.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DamagedCheckpointError, match=rf"^`{path}"):
        latest_checkpoint(tmp_path)
    with pytest.raises(DamagedCheckpointError, match=rf"^`{path}"):
        load_checkpoint(built(bigram_run()), path)


def test_a_save_starts_no_process(tmp_path: Path) -> None:
    children = set(psutil.Process().children())
    save_checkpoint(built(bigram_run()), bigram_run(), tmp_path, 1)
    assert set(psutil.Process().children()) == children


def test_every_file_is_in_the_safetensors_format(tmp_path: Path) -> None:
    """Read the file by the definition of the format: a length, a JSON header, and bytes without gaps."""
    state = built(bigram_run())
    path = save_checkpoint(state, bigram_run(), tmp_path, 1)
    content = (path / "weights-00000.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]
    expected = weights(state)
    assert header.keys() == expected.keys()
    for name, entry in header.items():
        low, high = entry["data_offsets"]
        assert entry["dtype"] == "F32"
        values = torch.frombuffer(bytearray(content[8 + length + low : 8 + length + high]), dtype=torch.float32)
        assert torch.equal(values.view(entry["shape"]), expected[name])


def damaged(file: Path, damage: Callable[[bytearray], None]) -> None:
    content = bytearray(file.read_bytes())
    damage(content)
    file.write_bytes(content)


def flip_a_bit(content: bytearray) -> None:
    content[-1001] ^= 4


def flip_exponents(content: bytearray) -> None:
    for index in range(16):
        content[-1001 - 4 * index] ^= 64


def zero_a_block(content: bytearray) -> None:
    content[-4096:-512] = bytes(4096 - 512)


def exchange_rows(content: bytearray) -> None:
    content[-8192:-4096], content[-4096:] = content[-4096:], content[-8192:-4096]


@pytest.mark.parametrize("damage", [flip_a_bit, flip_exponents, zero_a_block, exchange_rows])
@pytest.mark.parametrize("kind", ["weights", "optimizer"])
def test_damage_is_found_and_named(damage: Callable[[bytearray], None], kind: str, tmp_path: Path) -> None:
    run = bigram_run(2)
    train(run, out=tmp_path)
    _, path = latest_checkpoint(tmp_path)
    file = path / f"{kind}-00000.safetensors"
    damaged(file, damage)
    with pytest.raises(DamagedCheckpointError, match=rf"^`{file}` .*`"):
        train(bigram_run(4), resume=tmp_path)
    if kind == "weights":
        with pytest.raises(DamagedCheckpointError):
            load_checkpoint(built(run), path)
    else:
        load_checkpoint(built(run), path)  # which reads no optimizer state
    load_checkpoint(built(run), path, verify=False)


def test_a_file_of_another_step(tmp_path: Path) -> None:
    train(bigram_run(2, checkpoint_interval=1), out=tmp_path)
    (_, older), (_, newer) = checkpoints(tmp_path)
    shutil.copy(older / "weights-00000.safetensors", newer)
    with pytest.raises(DamagedCheckpointError, match="its checksum is another"):
        load_checkpoint(built(bigram_run()), newer)


def test_a_run_that_cannot_be_saved_is_refused_before_its_first_step(tmp_path: Path) -> None:
    steps: list[int] = []

    class Count(Nothing):
        def on_step(self, record: StepRecord) -> None:
            steps.append(record.step)

    with pytest.raises(CheckpointError, match="cannot be written: File too large"), full_disk():
        train(bigram_run(2), out=tmp_path, callback=Count())
    assert steps == []


class Nothing:
    """A callback that does nothing."""

    def on_start(self, run: RunConfig, stages: list[nn.Module], first_step: int) -> None: ...

    def on_step(self, record: StepRecord) -> None: ...

    def on_checkpoint(self, path: Path, step: int) -> None: ...
