"""A user's own router and experts: the examples train, and with a wrong signature they are refused early."""

import os
import runpy
from pathlib import Path

import pytest
import torch

from modelwright.protocols import ConformanceError
from modelwright.testing import RankPool
from tests.integration.command import metrics, modelwright, settings
from tests.messages import facts

FOLDER = Path(__file__).parents[2] / "docs" / "examples"
PARTS = {
    "router": ("custom_router", "cosine", "CosineRouter"),
    "experts": ("custom_expert", "bottleneck", "BottleneckExperts"),
}
WRONG = {
    "router": (
        "        is_mtp_layer: bool,\n",
        (
            "`CosineRouter` `RouterBuilder` `is_mtp_layer` `is_mtp_layer: bool` `**kwargs` "
            '`adapt(..., drop=("is_mtp_layer",))`'
        ),
    ),
    "experts": (
        "        name: str | None = None,\n",
        ('`BottleneckExperts` `ExpertsBuilder` `name` `name: str | None` `**kwargs` `adapt(..., drop=("name",))`'),
    ),
}


def train_example(path: Path, stack: str, slot: str) -> tuple[float, float, list[str]]:
    """First and last loss, and what fills the slot."""
    from modelwright.distributed import initialize
    from modelwright.training import builder_of

    example = runpy.run_path(str(path))
    records = example["main"](steps=10)
    run = example["RunConfig"](model=example["MODEL"], stack=stack)
    model = builder_of(run).build_model(initialize(run.parallelism))
    return (
        records[0].loss,
        records[-1].loss,
        [type(getattr(model.decoder.layers[i].mlp, slot)).__name__ for i in (1, 3)],
    )


@pytest.mark.parametrize("slot", PARTS)
def test_the_example_trains_and_its_part_is_in_the_slot(slot: str, two_ranks: RankPool) -> None:
    file, stack, part = PARTS[slot]
    first, last, found = two_ranks.run(train_example, FOLDER / f"{file}.py", stack, slot, ranks=1)[0]
    assert last < first - 0.5
    assert found == [part, part]


@pytest.mark.parametrize("slot", PARTS)
def test_a_missing_argument_is_named_before_anything_exists(slot: str, tmp_path: Path) -> None:
    file, stack, _ = PARTS[slot]
    line, message = WRONG[slot]
    text = (FOLDER / f"{file}.py").read_text()
    assert text.count(line) == 1
    (tmp_path / "wrong.py").write_text(text.replace(line, ""))
    example = runpy.run_path(str(tmp_path / "wrong.py"))
    with pytest.raises(ConformanceError) as refused:
        example[f"{stack}_stack"](example["MODEL"])
    assert facts(refused.value) == message
    assert not torch.distributed.is_initialized()


@pytest.mark.proof
def test_the_command_line_trains_the_example_of_the_docs_with_my_router(tmp_path: Path) -> None:
    """It runs on two ranks, and its routing is counted like that of the engine's router."""
    small = settings(
        "stack=cosine", "model.hidden_size=48", "model.num_attention_heads=4", "model.num_query_groups=2",
        "model.num_layers=2", "model.expert_ffn_hidden_size=32", "model.seq_length=64", "train.lr=1e-2",
    )  # fmt: skip
    words = ("train", FOLDER / "moe-tiny.yaml", "--import", "custom_router", *small, "--steps", "8")
    done = modelwright(*words, "--out", tmp_path / "run", env=os.environ | {"PYTHONPATH": str(FOLDER)})
    assert done.returncode == 0, done.stderr
    next_step = f'next: modelwright generate {tmp_path / "run"} --import custom_router --prompt "The " --tokens 200'
    assert done.stdout.splitlines()[-1] == next_step
    lines = metrics(tmp_path / "run")
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    assert sum(map(sum, lines[-1]["expert_load"].values())) == 2 * 16 * 64 * 2  # type: ignore[attr-defined]
