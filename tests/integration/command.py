"""The command, run as a user runs it, on a model that is small enough to train in seconds."""

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

TINY = """\
modelwright: 1
name: tiny
model:
  kind: gpt
  num_layers: 2
  hidden_size: 32
  num_attention_heads: 4
  num_query_groups: 2
  vocab_size: 256
  seq_length: 32
train:
  steps: 6
  micro_batch: 2
  global_batch: 4
  lr: 1.0e-2
  lr_schedule: {kind: cosine, warmup_steps: 2, min_lr: 1.0e-3}
  eval_interval: 3
  checkpoint_interval: 3
"""
COMMAND = (sys.executable, "-m", "modelwright.cli")

# A script that starts the tests with `&` lets them ignore Ctrl-C, and so all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def tiny_file(folder: Path) -> Path:
    """Write the tiny run's file."""
    path = folder / "tiny.yaml"
    path.write_text(TINY)
    return path


def settings(*changes: str) -> list[str]:
    """Changes as options."""
    return [word for change in changes for word in ("--set", change)]


def modelwright(*args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, at most fifteen minutes."""
    words = [*COMMAND, *map(str, args)]
    options["env"] = options.get("env", os.environ) | {"COLUMNS": "120"}
    return subprocess.run(words, capture_output=True, text=True, timeout=900, check=False, **options)


@functools.cache
def six_steps(base: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The tiny run with tensor 2, trained once for all tests of a session; nobody changes it.

    Args:
        base: The temporary folder of the session.

    Returns:
        What the command said, and the folder of the run.
    """
    folder = base / "six-steps"
    folder.mkdir()
    options = settings("train.steps=100", "parallelism.tensor=2")
    return modelwright("train", tiny_file(folder), "--steps", "6", "--out", folder / "run", *options), folder / "run"


def metrics(run_dir: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl`."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
