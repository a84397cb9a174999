"""A run folder belongs to one run at a time, and what a dead run leaves there is cleared."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelwright.training import CheckpointError, check_unlocked, is_run_folder, train
from modelwright.training.checkpoint.run_lock import MARK, locked
from packages.training.tests.tiny import bigram_run
from tests.messages import facts

HOLD = """
import sys, time
from pathlib import Path
from modelwright.training.checkpoint.run_lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    try:
        for refused in (lambda: check_unlocked(tmp_path), lambda: locked(tmp_path).__enter__()):
            with pytest.raises(CheckpointError) as caught:
                refused()
            assert facts(caught.value).startswith(f"`{tmp_path}` {holder.pid} ")
    finally:
        holder.kill()
        holder.wait()
    check_unlocked(tmp_path)  # the lock died with its process
    with locked(tmp_path):
        pass


def test_a_folder_that_nobody_made_is_left_alone(tmp_path: Path) -> None:
    check_unlocked(tmp_path / "no")
    assert not is_run_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        assert is_run_folder(tmp_path / "a" / "b")


def test_leftovers_of_a_dead_run_are_cleared(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for name in (
        ".step-00000002.partial",
        ".step-00000002.replaced",
        ".step-00000001.deleted",
        "mine",
        "step-00000003",
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    (folder / ".step-00000004.partial").symlink_to(tmp_path / "elsewhere")
    with locked(tmp_path):
        assert sorted(path.name for path in folder.iterdir()) == ["mine", "step-00000003"]
    assert (tmp_path / "elsewhere").is_dir()


def test_a_hard_link_in_the_place_of_the_mark(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / MARK).hardlink_to(tmp_path / "victim")
    with pytest.raises(CheckpointError, match="a file of its own"):
        locked(tmp_path / "run").__enter__()
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_something_else_in_the_place_of_the_mark(kind: str, tmp_path: Path) -> None:
    mark = tmp_path / MARK
    if kind == "link":
        mark.symlink_to(tmp_path / "victim")
    elif kind == "folder":
        mark.mkdir()
    else:
        os.mkfifo(mark)
    if kind == "pipe":
        with pytest.raises(CheckpointError):
            locked(tmp_path).__enter__()
    else:
        with pytest.raises(CheckpointError, match=r"must be a folder that can be written"):
            locked(tmp_path).__enter__()
    assert not (tmp_path / "victim").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="Permission denied"):
        locked(tmp_path / "run").__enter__()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("change", ["renamed", "deleted", "replaced"])
def test_a_folder_that_goes_away_during_the_run(change: str, tmp_path: Path) -> None:
    run_dir, moved = tmp_path / "run", tmp_path / "moved"

    class Mover:
        def on_start(self, *_: object) -> None: ...

        def on_step(self, record: object) -> None: ...

        def on_checkpoint(self, path: Path, step: int) -> None:
            if step == 2:
                run_dir.rename(moved)
                if change == "replaced":
                    run_dir.mkdir()

    with pytest.raises(CheckpointError) as caught:
        train(bigram_run(4, checkpoint_interval=1), out=run_dir, callback=Mover())
    assert facts(caught.value) == f"`{run_dir}`"
    assert [path.name for path in sorted((moved / "checkpoints").iterdir())] == ["step-00000001", "step-00000002"]
    assert not (run_dir / "checkpoints").exists()
