"""Local ranks: they run, and when one fails the others end and one readable error says which and how."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from modelwright.engine import can_fork
from modelwright.protocols import ModelwrightError
from modelwright.training import LaunchError, launch, launcher
from modelwright.training.report_folder import report_folder
from packages.training.tests import jobs
from tests.messages import facts


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)


def test_a_rank_of_a_job_starts_no_other_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs would share the variables of a launcher, and each rank would wait for ranks of the other."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ModelwrightError) as caught:
        launch(jobs.user_error, Path(), ranks=2)
    assert facts(caught.value) == "`launch` 1 4 `RANK` `WORLD_SIZE`"


def failure_of(job: Callable[[Path], None], folder: Path) -> LaunchError:
    """Return the error of a launch of two ranks, which comes in time and leaves no process."""
    start = time.monotonic()
    with pytest.raises(LaunchError) as caught:
        launch(job, folder, ranks=2)
    assert time.monotonic() - start < 500  # the other rank sleeps for 600
    pids = [int(path.read_text()) for path in folder.glob("pid-*")]
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert str(caught.value) == caught.value.failures[0].message
    return caught.value


def test_every_rank_runs_once_with_its_share_of_the_threads(tmp_path: Path) -> None:
    """Also in a second job of the process, whose ranks are forked from the server of the first."""
    for threads in (3, 2):
        launch(jobs.tell, tmp_path, "hello", ranks=2, threads=threads)
        expected = f"hello 2 {threads} {threads}"
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": expected, "1": expected}


def test_a_rank_keeps_the_memory_that_it_freed(tmp_path: Path) -> None:
    """`bench_memory` counts the page faults that this saves."""
    launch(jobs.tell_allocator, tmp_path, ranks=1)
    assert (tmp_path / "0").read_text() == f"0 {2**40} kept"


def test_what_the_user_says_of_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "65536")
    launch(jobs.tell_allocator, tmp_path, ranks=1)
    assert (tmp_path / "0").read_text() == f"65536 {2**40} mapped"


def test_a_rank_with_something_to_mend(tmp_path: Path) -> None:
    (failure,) = failure_of(jobs.user_error, tmp_path).failures
    assert (failure.rank, failure.message, failure.user_error) == (1, "`x` must be 1, but is 2.", True)
    assert failure.trace.startswith("Traceback")


def test_a_rank_with_a_defect(tmp_path: Path) -> None:
    (failure,) = failure_of(jobs.defect, tmp_path).failures
    assert (failure.rank, failure.message, failure.user_error) == (1, "ZeroDivisionError: of the test", False)
    assert "in defect\n" in failure.trace


def test_a_rank_that_leaves_without_a_word(tmp_path: Path) -> None:
    (failure,) = failure_of(jobs.leave, tmp_path).failures
    assert failure.message == "rank 1 ended with exit code 3 and no message; the other ranks have been ended."
    assert (failure.rank, failure.trace, failure.user_error) == (1, "", False)


def test_a_rank_that_can_write_no_report(tmp_path: Path) -> None:
    (failure,) = failure_of(jobs.speechless, tmp_path).failures
    assert failure.message == "rank 1 ended with exit code 1 and no message; the other ranks have been ended."
    assert (tmp_path / "stderr").read_text().startswith("rank 1: `x` must be 1, but is 2. ")


@pytest.mark.skipif(not can_fork(), reason="ranks are not forked where there is a GPU")
def test_ranks_end_with_the_process_that_forked_them(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"^rank [01] was lost"):
        launch(jobs.orphaned, tmp_path, ranks=2)
    pids = [int(path.read_text()) for path in tmp_path.glob("pid-*")]
    deadline = time.monotonic() + 120
    while (left := [pid for pid in pids if psutil.pid_exists(pid)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
    launch(jobs.tell, tmp_path, "again", ranks=1)
    assert (tmp_path / "0").read_text().startswith("again")


def test_a_rank_that_exits(tmp_path: Path) -> None:
    """Exit code 0 of one rank is no success while the others wait for it."""
    (failure,) = failure_of(jobs.exits, tmp_path).failures
    assert (failure.rank, failure.message, failure.user_error) == (
        1,
        "a rank must return when it is done, but called `sys.exit(0)`",
        False,
    )


def test_a_rank_that_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_STOPPED_SECONDS", 2.0)
    monkeypatch.setattr(launcher, "_LOOK_SECONDS", 1.0)
    (failure,) = failure_of(jobs.stopped, tmp_path).failures
    assert (failure.rank, failure.user_error) == (1, False)
    assert facts(failure.message) == "1 2 SIGSTOP SIGTSTP"


def test_folders_of_dead_launchers_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("modelwright-launch-dead", "modelwright-launch-empty", "modelwright-other"):
        (tmp_path / name).mkdir()
    (tmp_path / "modelwright-launch-dead" / "lock").touch()
    (tmp_path / "modelwright-launch-link").symlink_to(tmp_path / "modelwright-other")
    with report_folder() as first, report_folder() as second:
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {
            "modelwright-launch-empty",
            "modelwright-launch-link",
            "modelwright-other",
            Path(first).name,
            Path(second).name,
        }


@pytest.mark.parametrize("job", [jobs.killed_in_collective, jobs.killed_beside_a_sleeper])
def test_a_rank_that_is_killed(job: Callable[[Path], None], tmp_path: Path) -> None:
    failure = failure_of(job, tmp_path).failures[0]
    assert failure.message == "rank 1 was killed by SIGKILL; the other ranks have been ended."
    assert (failure.rank, failure.user_error) == (1, False)
