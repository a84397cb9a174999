"""`modelwright explain` shows every slot of a model that a file describes, and builds nothing."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from modelwright.cli.app import app

ROOT = Path(__file__).parents[2]
FILE = str(ROOT / "docs" / "examples" / "gpt-tiny.yaml")


def printed(*arguments: str) -> str:
    ran = CliRunner().invoke(app, ["explain", *arguments])
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def test_it_prints_the_tree_of_slots_and_where_every_argument_comes_from() -> None:
    lines = printed(FILE).splitlines()
    assert lines[:3] == ["gpt, stack pattern *-*-*-*-", "StackSpec fills StackBuilder", "  config           slot"]
    start = lines.index("    mlp: MlpSpec fills MlpBuilder")
    assert lines[start + 1 : start + 8] == [
        "      config         slot",
        "      pg_collection  slot",
        "      is_mtp_layer   slot",
        "      name           slot",
        "      linear_fc1: ColumnParallelLinear fills LinearFc1Builder",
        "        input_size                    slot",
        "        output_size                   slot",
    ]
    assert "        keep_master_weight_for_test   default  False" in lines
    assert "  output_layer: not set" in lines
    assert "missing" not in " ".join(lines)
    assert not torch.distributed.is_initialized()


def test_a_part_of_ones_own_is_shown_in_its_slot() -> None:
    lines = printed(FILE, "--import", "docs.examples.custom_mlp", "--set", "stack=low_rank").splitlines()
    start = lines.index("    mlp: LowRankMlp fills MlpBuilder")
    assert lines[start + 5] == "      rank           default  16"


def test_a_model_without_a_spec_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    file = tmp_path / "bigram.yaml"
    file.write_text("modelwright: 1\nmodel:\n  kind: bigram\n  vocab_size: 256\n  seq_length: 64\n")
    ran = CliRunner().invoke(app, ["explain", str(file), "--import", "custom_builders"])
    assert ran.exit_code == 2
    assert (
        "`bigram` must be built from a stack spec to be explained, but `BigramBuilder` builds it without one"
        in " ".join(ran.stderr.split())
    )
