"""`modelwright train` and `generate` on the examples of the Mamba family, made small."""

from pathlib import Path

import pytest

from tests.integration.command import metrics, modelwright, settings

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SMALL = settings(
    "model.hidden_size=64",
    "model.mamba_head_dim=16",
    "model.mamba_state_dim=16",
    "model.seq_length=64",
    "train.lr=1e-2",
    "train.lr_schedule.warmup_steps=2",
    "train.global_batch=8",
)


@pytest.mark.parametrize("example", ["hybrid-tiny", pytest.param("mamba-tiny", marks=pytest.mark.proof)])
def test_it_learns_and_goes_on(example: str, tmp_path: Path) -> None:
    """Two processes train, by tensor and by pipeline; one generates from what they saved, and trains further."""
    out = tmp_path / "run"
    done = modelwright("train", EXAMPLES / f"{example}.yaml", *SMALL, "--steps", "12", "--out", out)
    assert done.returncode == 0, done.stderr
    lines = metrics(out)
    assert lines[-1]["loss"] < lines[0]["loss"] - 1
    assert (out / "expert_load.png").exists() is (example == "hybrid-tiny")
    told = modelwright("generate", out, "--prompt", "The ", "--tokens", "80")
    assert told.returncode == 0, told.stderr
    assert len(told.stdout) >= 40
    more = modelwright("train", "--resume", out, "--steps", "14")
    assert more.returncode == 0, more.stderr
    assert metrics(out)[-1]["step"] == 14
