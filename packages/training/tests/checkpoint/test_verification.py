"""A damaged newest checkpoint is named with what is wrong, the newest whole one too, and falling back takes it."""

from pathlib import Path

import pytest

from modelwright.training import (
    CheckpointError,
    DamagedCheckpointError,
    checkpoints,
    fall_back,
    latest_checkpoint,
    newest_whole,
    train,
    verify_checkpoint,
)
from packages.training.tests.tiny import bigram_run
from tests.messages import facts

pytestmark = pytest.mark.usefixtures("engine")


def damage(path: Path) -> None:
    file = path / "weights-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 1 to 4, of which 3 and 4 are damaged."""
    train(bigram_run(4, checkpoint_interval=1), out=tmp_path)
    for _, path in checkpoints(tmp_path):
        verify_checkpoint(path)
    for _, path in checkpoints(tmp_path)[2:]:
        damage(path)
        with pytest.raises(DamagedCheckpointError):
            verify_checkpoint(path)
    return tmp_path


def test_the_newest_whole_one_is_named(run_dir: Path) -> None:
    assert newest_whole(run_dir) == checkpoints(run_dir)[1]
    with pytest.raises(DamagedCheckpointError) as caught:
        train(bigram_run(6), resume=run_dir)
    file = checkpoints(run_dir)[-1][1] / "weights-00000.safetensors"
    assert facts(caught.value).startswith(f"`{file}`")
    assert facts(caught.value).endswith(f"`step-00000002` `--resume {run_dir} --fall-back`")


def test_falling_back(run_dir: Path) -> None:
    told = fall_back(run_dir)
    assert [facts(line).split()[0] for line in told] == ["`damaged-step-00000004`", "`damaged-step-00000003`"]
    assert latest_checkpoint(run_dir)[0] == 2
    assert fall_back(run_dir) == []
    records = train(bigram_run(6), resume=run_dir, out=run_dir)
    assert [record.step for record in records] == [3, 4, 5, 6]
    kept = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert kept == ["damaged-step-00000003", "damaged-step-00000004", "step-00000001", "step-00000002", "step-00000006"]


def test_nothing_to_fall_back_to(run_dir: Path) -> None:
    for _, path in checkpoints(run_dir)[:2]:
        damage(path)
    with pytest.raises(CheckpointError) as caught:
        fall_back(run_dir)
    assert facts(caught.value).startswith(f"`{run_dir}`")
    assert len(checkpoints(run_dir)) == 4  # nothing was moved
    with pytest.raises(DamagedCheckpointError, match="`--no-verify`"):
        train(bigram_run(6), resume=run_dir)
    assert [record.step for record in train(bigram_run(6), resume=run_dir, verify=False)] == [5, 6]
