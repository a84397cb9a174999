"""`modelwright train` on a model of experts: the example, made small, and what its metrics say of the routers."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.command import metrics, modelwright, settings

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "moe-tiny.yaml"
SMALL = settings(
    "model.hidden_size=48",
    "model.num_attention_heads=4",
    "model.num_query_groups=2",
    "model.expert_ffn_hidden_size=32",
    "model.num_layers=2",
    "model.seq_length=64",
    "train.lr=1e-2",
    "train.lr_schedule.warmup_steps=2",
    "train.global_batch=8",
)
CHOICES = 8 * 64 * 2
"""Assignments in a step: sequences × tokens × experts of a token."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Twelve steps with expert 2."""
    out = tmp_path_factory.mktemp("moe") / "run"
    return modelwright("train", EXAMPLE, *SMALL, "--steps", "12", "--out", out), out


def test_it_learns(trained: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, out = trained
    assert done.returncode == 0, done.stderr
    lines = metrics(out)
    assert lines[-1]["loss"] < lines[0]["loss"] - 1
    assert sorted(path.name for path in out.iterdir()) == [
        ".modelwright",
        "checkpoints",
        "config.yaml",
        "expert_load.png",
        "loss.png",
        "metrics.jsonl",
    ]
    assert (out / "expert_load.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_every_choice_is_counted(trained: tuple[object, Path]) -> None:
    lines: list[dict[str, Any]] = metrics(trained[1])
    for line in lines:
        assert list(line["expert_load"]) == ["2", "4"]
        assert [len(load) for load in line["expert_load"].values()] == [8, 8]
        assert [sum(load) for load in line["expert_load"].values()] == [CHOICES, CHOICES]
        assert line["dropped_tokens"] == 0
        assert 0 < line["router_entropy"] <= math.log(2)
    assert lines[0]["expert_load"]["2"] != lines[-1]["expert_load"]["2"]


def test_a_run_goes_on_with_another_dispatcher_and_with_experts_on_other_ranks(trained: tuple[object, Path]) -> None:
    changes = settings("model.dispatcher=alltoall", "parallelism.expert=1")
    again = modelwright("train", "--resume", trained[1], "--steps", "13", *changes)
    assert again.returncode == 0, again.stderr
    numbers = [json.loads(line)["step"] for line in (trained[1] / "metrics.jsonl").read_text().splitlines()]
    assert numbers == list(range(1, 14))


def test_dropped_tokens_are_counted_and_what_was_routed_does_not_depend_on_the_layout(tmp_path: Path) -> None:
    """One step of the same model: half of what experts could take, on two ranks and on one."""
    told: list[dict[str, Any]] = []
    for name, layout in (("two", "parallelism.expert=2"), ("one", "parallelism.expert=1")):
        capacity = settings("model.capacity_factor=0.5", layout)
        done = modelwright("train", EXAMPLE, *SMALL, *capacity, "--steps", "1", "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        told += metrics(tmp_path / name)
    two, one = told
    assert two["dropped_tokens"] >= CHOICES  # of two layers: at least half in each
    kept = sum(sum(load) for load in two["expert_load"].values())
    assert kept + two["dropped_tokens"] == 2 * CHOICES
    assert (two["expert_load"], two["dropped_tokens"]) == (one["expert_load"], one["dropped_tokens"])
    assert two["router_entropy"] == pytest.approx(one["router_entropy"], abs=1e-6)


def test_a_model_without_experts_says_nothing_of_them(tmp_path: Path) -> None:
    gpt = EXAMPLE.with_name("gpt-tiny.yaml")
    small = settings("model.hidden_size=32", "model.num_layers=1", "model.seq_length=32", "parallelism.tensor=1")
    done = modelwright("train", gpt, *small, "--steps", "1", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert not json.loads((tmp_path / "run" / "metrics.jsonl").read_text()).keys() & {"expert_load", "dropped_tokens"}
    assert not (tmp_path / "run" / "expert_load.png").exists()
