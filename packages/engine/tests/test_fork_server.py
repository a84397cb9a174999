"""The process that ranks are forked from: it has the engine, is reused, and is not used where there is a GPU."""

import os
import sys
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

import modelwright.engine.fork_server as fork_server
from modelwright.engine import can_fork, rank_environment, start_fork_server

type State = tuple[int, bool, int, str | None, bool]


def report(answers: "Queue[State]") -> None:
    """What a new process finds before it imports anything."""
    parent = os.getppid()
    engine = "megatron.core" in sys.modules
    compiler = "torch._inductor" in sys.modules
    threads = len(list(Path("/proc/self/task").iterdir()))
    answers.put((parent, engine, threads, os.environ.get("PYTHONSAFEPATH"), compiler))


def started() -> State:
    """Start one process as ranks are started."""
    context = get_context(start_fork_server(rank_environment(1)))
    answers = context.SimpleQueue()
    process = context.Process(target=report, args=(answers,))
    process.start()
    found: State = answers.get()
    process.join()
    assert process.exitcode == 0
    return found


@pytest.mark.skipif(not can_fork(), reason="a GPU does not survive a fork")
def test_ranks_are_forked_from_one_process_that_has_the_engine() -> None:
    first, second = started(), started()
    parent, engine, threads, safe_path, compiler = first
    assert first == second
    assert parent != os.getpid()
    assert int(Path(f"/proc/{parent}/stat").read_text().split()[3]) == os.getpid()
    assert engine
    assert not compiler
    assert threads == 1
    assert safe_path == "1"
    assert "PYTHONSAFEPATH" not in os.environ


@pytest.mark.skipif(not can_fork(), reason="a GPU does not survive a fork")
def test_ranks_with_other_variables_are_new_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """glibc reads its settings when a program starts; a fork would have those of the server."""
    assert start_fork_server(rank_environment(1)) == "forkserver"
    assert start_fork_server(rank_environment(7)) == "forkserver"
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "65536")
    assert start_fork_server(rank_environment(1)) == "spawn"


def test_a_gpu_means_new_interpreters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fork_server, "_GPU_DEVICES", (str(tmp_path / "none"),))
    assert can_fork()
    assert "MALLOC_MMAP_MAX_" in rank_environment(2)
    (tmp_path / "gpu").touch()
    monkeypatch.setattr(fork_server, "_GPU_DEVICES", (str(tmp_path / "none"), str(tmp_path / "gpu")))
    assert start_fork_server(rank_environment(2)) == "spawn"
    assert "MALLOC_MMAP_MAX_" not in rank_environment(2)
