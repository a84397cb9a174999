"""A rank that dies in a build, a step or a checkpoint: the command ends, says which, and nothing saved is lost."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from modelwright.distributed import finalize
from modelwright.engine import device_runtime
from modelwright.training import checkpoints, generate, latest_checkpoint, load_for_inference
from tests.integration.command import COMMAND, modelwright, settings, tiny_file


@pytest.fixture
def training(tmp_path: Path) -> tuple[subprocess.Popen[str], Path]:
    """A run on two ranks that would go on for hours, with its first checkpoint saved."""
    out = tmp_path / "run"
    options = settings("parallelism.tensor=2", "train.keep_checkpoints=2")
    words = [*COMMAND, "train", str(tiny_file(tmp_path)), "--steps", "100000", "--out", str(out), *options]
    process = subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 600
    while not checkpoints(out):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process, out


def ranks(process: psutil.Process) -> list[psutil.Process]:
    """Its ranks, in the order in which they were started."""
    servers = [child for child in process.children() if "forkserver" in " ".join(child.cmdline())]
    children = [rank for server in servers for rank in server.children()]
    return sorted(children, key=lambda child: child.create_time())


def left(started: list[psutil.Process]) -> list[list[str]]:
    """Those that still run."""
    _, alive = psutil.wait_procs(started, timeout=300)
    return [process.cmdline() for process in alive]


def test_a_rank_is_killed(training: tuple[subprocess.Popen[str], Path]) -> None:
    process, out = training
    started = psutil.Process(process.pid).children(recursive=True)
    os.kill(ranks(psutil.Process(process.pid))[1].pid, signal.SIGKILL)
    _, stderr = process.communicate(timeout=300)
    assert stderr == "error: rank 1 was killed by SIGKILL; the other ranks have been ended.\n"
    assert process.returncode == 1
    assert left(started) == []
    step, _ = latest_checkpoint(out)
    assert step % 3 == 0
    with device_runtime():
        assert len("".join(generate(load_for_inference(out), "The ", tokens=5)).encode()) >= 5
        finalize()


def test_control_c(training: tuple[subprocess.Popen[str], Path]) -> None:
    process, out = training
    started = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert (process.returncode, stderr) == (130, "error: interrupted\n")
    assert left(started) == []
    latest_checkpoint(out)


def test_the_command_is_killed(training: tuple[subprocess.Popen[str], Path]) -> None:
    """Nobody is left who would end the ranks, so they end themselves."""
    process, out = training
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(ranks(psutil.Process(process.pid))) == 2
    process.kill()
    process.communicate(timeout=300)
    assert left(started) == []
    latest_checkpoint(out)


# Imported by every rank as a user's parts are; kills rank 1 while the model is built, or while a file is written.
KILLER = """
import os, signal
from modelwright.layers import StackSpec, TorchNorm, register_stack
from modelwright.training.checkpoint import save_load

writes = 0

def die():
    if os.environ.get("RANK") == "1":
        os.kill(os.getpid(), signal.SIGKILL)

def dying_norm(**slot):
    die()
    return TorchNorm(**slot)

def write(*args, **kwargs):
    global writes
    writes += 1
    if writes > 4:  # the two files of the trial and of the first checkpoint
        die()
    return before(*args, **kwargs)

register_stack("dying", lambda config: StackSpec(final_norm=dying_norm))
before, save_load.write_tensors = save_load.write_tensors, write
"""


@pytest.mark.parametrize(
    ("changes", "saved"),
    [
        pytest.param(["stack=dying"], [], id="build", marks=pytest.mark.proof),
        pytest.param(["train.checkpoint_interval=1"], [1], id="checkpoint"),
    ],
)
def test_a_rank_is_killed_elsewhere(changes: list[str], saved: list[int], tmp_path: Path) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    options = ["--import", "killer", "--out", tmp_path / "run", *settings("parallelism.tensor=2", *changes)]
    done = modelwright("train", tiny_file(tmp_path), *options, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (
        1,
        "error: rank 1 was killed by SIGKILL; the other ranks have been ended.\n",
    )
    assert [step for step, _ in checkpoints(tmp_path / "run")] == saved
    if saved:
        again = modelwright("train", "--resume", tmp_path / "run", "--steps", "3")
        assert (again.returncode, again.stderr) == (0, "")
        assert again.stdout.startswith("step 2/3  loss ")
