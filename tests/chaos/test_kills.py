"""A run that is killed again and again, anywhere, ends with the metrics of the unbroken run."""

import contextlib
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from modelwright.training import verify_checkpoint
from modelwright.training.checkpoint.run_folder import checkpoints
from tests.chaos.conftest import Row
from tests.integration.command import COMMAND, tiny_file
from tests.integration.test_faults import ranks

KILLS = int(os.environ.get("MODELWRIGHT_KILLS", "20"))
STEPS = 6000
OPTIONS = [
    "--set",
    "parallelism.tensor=2",
    "--set",
    "train.checkpoint_interval=20",
    "--set",
    "train.eval_interval=null",
]
OPTIONS += ["--set", "train.keep_checkpoints=2", "--set", "train.lr_schedule.warmup_steps=0", "--set", "train.lr=1e-3"]


def started(*words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "train", *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )


def lines(run_dir: Path) -> list[dict[str, float]]:
    """The complete lines of the metrics. A killed run may leave the last one incomplete."""
    file = run_dir / "metrics.jsonl"
    found: list[dict[str, float]] = []
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def everyone(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of a run: the command first, then its ranks."""
    with contextlib.suppress(psutil.NoSuchProcess):
        command = psutil.Process(process.pid)
        return [command, *ranks(command)]
    return []


def test_kills(tmp_path: Path, table: list[Row]) -> None:
    draw = random.Random(0)
    file, out = tiny_file(tmp_path), tmp_path / "run"
    kills, died = 0, {"command": 0, "rank": 0}
    process = started(file, "--steps", STEPS, "--out", out, *OPTIONS)
    while kills < KILLS:
        before = len(lines(out))
        while process.poll() is None and len(lines(out)) == before:
            time.sleep(0.1)
        time.sleep(draw.uniform(0.0, 1.5))
        processes = everyone(process)
        if process.poll() is not None or len(processes) < 3:
            break
        victim = draw.choice(processes)
        died["command" if victim == processes[0] else "rank"] += 1
        victim.kill()
        kills += 1
        process.wait(timeout=60)
        _, alive = psutil.wait_procs(processes[1:], timeout=30)
        assert alive == [], "a rank outlived its run"
        for _, path in checkpoints(out):
            verify_checkpoint(path)
        resume = ["--resume", out] if checkpoints(out) else [file, "--out", out, *OPTIONS]
        process = started(*resume, "--steps", STEPS)
    reached = lines(out)[-1]["step"]
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    assert kills == KILLS
    unbroken = tmp_path / "unbroken"
    reference = started(file, "--steps", STEPS, "--out", unbroken, *OPTIONS)
    while reference.poll() is None and (not lines(unbroken) or lines(unbroken)[-1]["step"] < reached):
        time.sleep(0.5)
    reference.send_signal(signal.SIGINT)
    reference.wait(timeout=60)
    expected = {line["step"]: (line["loss"], line["grad_norm"]) for line in lines(unbroken)}
    found = [(line["step"], (line["loss"], line["grad_norm"])) for line in lines(out) if line["step"] <= reached]
    assert [step for step, _ in found] == list(range(1, int(reached) + 1))
    assert [step for step, values in found if expected[step] != values] == []
    left = [path for path in Path(tempfile.gettempdir()).glob("modelwright-launch-*") if path.stat().st_size >= 0]
    assert len(left) <= died["command"] + 1
    table.append(
        (f"kills of {died['rank']} ranks and {died['command']} commands", kills, f"{reached} steps, equal in every bit")
    )
