"""A user's own part in the GPT: the example trains, and the same example with a wrong signature is refused early."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modelwright.protocols import ConformanceError
from modelwright.testing import RankPool
from tests.messages import facts

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "custom_mlp.py"


def train_example() -> tuple[float, float, list[str]]:
    """First and last loss, and what fills the MLP slot."""
    from modelwright.distributed import initialize
    from modelwright.training import builder_of

    example = runpy.run_path(str(EXAMPLE))
    records = example["main"](steps=10)
    run = example["RunConfig"](model=example["MODEL"], stack="low_rank")
    model = builder_of(run).build_model(initialize(run.parallelism))
    return records[0].loss, records[-1].loss, [type(layer.mlp).__name__ for layer in model.decoder.layers]


def test_the_example_trains_and_its_mlp_is_in_the_slot(two_ranks: RankPool) -> None:
    first, last, mlps = two_ranks.run(train_example, ranks=1)[0]
    assert last < first - 0.5
    assert mlps == ["IdentityOp", "LowRankMlp"] * 2


@pytest.fixture
def wrong_example(tmp_path: Path) -> Path:
    """The example without the argument `is_mtp_layer`."""
    text = EXAMPLE.read_text()
    assert text.count("        is_mtp_layer: bool,\n") == 1
    path = tmp_path / "wrong_mlp.py"
    path.write_text(text.replace("        is_mtp_layer: bool,\n", ""))
    return path


def test_at_run_time_the_missing_argument_is_named_before_anything_exists(wrong_example: Path) -> None:
    with pytest.raises(ConformanceError) as refused:
        runpy.run_path(str(wrong_example))["low_rank_stack"](runpy.run_path(str(EXAMPLE))["MODEL"])
    assert facts(refused.value) == (
        '`LowRankMlp` `MlpBuilder` `is_mtp_layer` `is_mtp_layer: bool` `**kwargs` `adapt(..., drop=("is_mtp_layer",))`'
    )
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_refuse_it(checker: str, wrong_example: Path) -> None:
    options = {
        "mypy": ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")],
        "pyright": ["--pythonpath", sys.executable],
    }[checker]

    def check(path: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", checker, *options, str(path)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    refused = check(wrong_example)
    assert refused.returncode == 1
    assert "MlpBuilder" in refused.stdout
    assert "is_mtp_layer" in refused.stdout
    accepted = check(EXAMPLE)
    assert accepted.returncode == 0, accepted.stdout
