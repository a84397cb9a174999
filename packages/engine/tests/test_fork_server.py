"""The process that ranks are forked from: it has the engine, is reused, and is not used where there is a GPU."""

import os
import sys
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

import modelwright.engine.fork_server as fork_server
from modelwright.engine import rank_environment, start_fork_server, start_method

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
    start_fork_server(rank_environment(1))
    context = get_context(start_method())
    answers = context.SimpleQueue()
    process = context.Process(target=report, args=(answers,))
    process.start()
    found: State = answers.get()
    process.join()
    assert process.exitcode == 0
    return found


@pytest.mark.skipif(start_method() == "spawn", reason="a GPU does not survive a fork")
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


def test_a_gpu_means_new_interpreters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fork_server, "_GPU_DEVICES", (str(tmp_path / "none"),))
    assert start_method() == "forkserver"
    assert "MALLOC_MMAP_MAX_" in rank_environment(2)
    (tmp_path / "gpu").touch()
    monkeypatch.setattr(fork_server, "_GPU_DEVICES", (str(tmp_path / "none"), str(tmp_path / "gpu")))
    assert start_method() == "spawn"
    assert rank_environment(2) == {"OMP_NUM_THREADS": "2", "PYTHONSAFEPATH": "1"}
