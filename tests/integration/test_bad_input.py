"""Everything that a user can get wrong: one clear error on stderr, exit code 2, nothing started and nothing lost."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.integration.command import TINY, modelwright, settings, six_steps, tiny_file
from tests.messages import facts


@pytest.fixture
def run_dir(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a run of six steps that is done."""
    return shutil.copytree(six_steps(tmp_path_factory.getbasetemp())[1], tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file with its content, without the mark that says which process looked into a run folder last."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".modelwright"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(folder: Path, *words: str, **env: str) -> str:
    """Return the facts that `train` reports about bad input, after checking that every file is as it was."""
    before = contents(folder)
    done = modelwright("train", *words, cwd=folder, env=dict(os.environ) | env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error")
    assert done.stderr.endswith("\n")
    assert contents(folder) == before
    return facts(done.stderr[:-1]).removeprefix("error ")


FILES = {
    "unknown field": (
        TINY.replace("hidden_size", "hiden_size"),
        ("tiny.yaml:3:1 `model.hidden_size` `gpt`\ntiny.yaml:6:3 `model.hiden_size` `gpt` `hidden_size`"),
    ),
    "wrong type": (
        TINY.replace("num_layers: 2", "num_layers: two"),
        'tiny.yaml:5:15 `model.num_layers` "two"',
    ),
    "unknown kind": (
        TINY.replace("kind: gpt", "kind: gtp"),
        "tiny.yaml:4:9 `model.kind` `gpt` `mamba` `moe` `gtp` `gpt`",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file(case: str, tmp_path: Path) -> None:
    text, message = FILES[case]
    (tmp_path / "tiny.yaml").write_text(text)
    assert refused(tmp_path, "tiny.yaml") == message


OVERRIDES = {
    "indivisible heads": (
        ["model.num_query_groups=3"],
        "--set model.num_query_groups=3 `num_query_groups` `num_attention_heads` 3 4 1 2 4",
    ),
    "heads of a layout": (
        ["parallelism.tensor=4"],
        "--set parallelism.tensor=4 `num_query_groups` `tensor` 2 4 4 2 `tensor`",
    ),
    "vocabulary of a layout": (
        ["parallelism.tensor=2", "model.vocab_multiple=257"],
        "--set model.vocab_multiple=257 `vocab_multiple` 257 257 `tensor` 2 2",
    ),
    "vocabulary of bytes": (
        ["model.vocab_size=100"],
        "`model.vocab_size` 256 100 256",
    ),
    "missing data file": (
        ["train.data=no.txt"],
        "`train.data` 'no.txt'",
    ),
    "data file that is a folder": (
        ["train.data=."],
        "`train.data` '.'",
    ),
    "short data file": (
        ["train.data=short.txt"],
        "`train.data` `model.seq_length` 32 short.txt 5 `seq_length` `train.validation_fraction`",
    ),
    "no wrap": (
        ["wrap.kind=none", "parallelism.data=2"],
        "`wrap.kind`",
    ),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_what_does_not_fit_together(case: str, tmp_path: Path) -> None:
    changes, message = OVERRIDES[case]
    tiny_file(tmp_path)
    (tmp_path / "short.txt").write_bytes(bytes(100))
    assert refused(tmp_path, "tiny.yaml", *settings(*changes)) == message


def test_a_world_size_that_does_not_fit(tmp_path: Path) -> None:
    tiny_file(tmp_path)
    options = settings("parallelism.tensor=2")
    assert (
        refused(tmp_path, "tiny.yaml", *options, RANK="1", WORLD_SIZE="3", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
        == "(rank 1) `tensor` 2 `pipeline` 1 `context` 1 2 3 2"
    )


def test_half_a_job_in_the_environment(tmp_path: Path) -> None:
    tiny_file(tmp_path)
    said = refused(tmp_path, "tiny.yaml", RANK="1", WORLD_SIZE="3")
    assert "`MASTER_PORT`" in said
    assert "`MASTER_ADDR`" in said


def test_an_unknown_stack(tmp_path: Path) -> None:
    tiny_file(tmp_path)
    assert refused(tmp_path, "tiny.yaml", *settings("stack=mine")) == "`stack` 'mine' `register_stack` `--import`"


def test_an_unknown_preset() -> None:
    done = modelwright("config", "show", "--preset", "llama3_8")
    assert (done.returncode, done.stdout) == (2, "")
    assert facts(done.stderr) == (
        "error `deepseek_v3` `gpt2_124m` `gpt_tiny` `hybrid_tiny` `llama31_405b` `llama3_70b` `llama3_8b` "
        "`mamba2_130m` `mamba2_2_7b` `mamba_tiny` `mixtral_8x7b` `moe_tiny` `nemotron_h_8b` "
        "`olmoe_1b_7b` `qwen3_30b_a3b` `llama3_8` `llama3_8b`\n"
    )


def test_resume_of_nothing(tmp_path: Path) -> None:
    assert refused(tmp_path, "--resume", "no") == "`no` `train`"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path, "--resume", "empty") == "`empty` `checkpoints/` `train.checkpoint_interval`"


def test_a_finished_run(run_dir: Path) -> None:
    assert refused(run_dir.parent, "--resume", "run") == "`train.steps` 6 `run` 6 12"


def test_a_checkpoint_of_another_config(run_dir: Path) -> None:
    tiny_file(run_dir.parent)
    options = settings("model.hidden_size=64", "model.num_layers=4")
    assert (
        refused(run_dir.parent, "tiny.yaml", "--resume", "run", "--steps", "9", *options)
        == "`run/checkpoints/step-00000006` `model.hidden_size` 32 64 `model.num_layers` 2 4"
    )


def test_a_checkpoint_that_was_cut_off(run_dir: Path) -> None:
    newest = run_dir / "checkpoints" / "step-00000006"
    next(newest.glob("weights-*.safetensors")).unlink()
    said = refused(run_dir.parent, "--resume", "run", "--steps", "9")
    assert said.startswith("`run/checkpoints/step-00000006` `weights-00000.safetensors`")
    assert said.endswith("`step-00000003` `--resume run --fall-back`")
    done = modelwright("generate", run_dir)
    assert (done.returncode, done.stdout) == (2, "")
    assert facts(done.stderr).startswith(f"error `{newest}` `weights-00000.safetensors`")


@pytest.mark.parametrize("name", ["weights", "optimizer"])
def test_a_checkpoint_whose_data_was_cut_short(run_dir: Path, name: str) -> None:
    newest = run_dir / "checkpoints" / "step-00000006"
    for data in newest.glob(f"{name}-*.safetensors"):
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    before = contents(run_dir)
    done = modelwright("train", "--resume", run_dir, "--steps", "9")
    assert (done.returncode, done.stdout) == (2, "")
    assert facts(done.stderr).startswith(f"error `{newest}")
    assert "Traceback" not in done.stderr
    assert contents(run_dir) == before


def test_a_damaged_config_of_a_checkpoint(run_dir: Path) -> None:
    file = run_dir / "checkpoints" / "step-00000006" / "modelwright.json"
    content = json.loads(file.read_text())
    file.write_text(file.read_text()[:100])
    said = refused(run_dir.parent, "--resume", "run", "--steps", "9")
    assert said.startswith("`run/checkpoints/step-00000006/modelwright.json`")
    file.write_text(json.dumps(content | {"config": content["config"].replace('"gpt"', '"gtp"')}))
    said = refused(run_dir.parent, "--resume", "run", "--steps", "9")
    assert said.startswith("`run/checkpoints/step-00000006/modelwright.json`")
    said = refused(run_dir.parent, "--resume", "run", "--steps", "9", "--no-verify")
    assert "`model.kind` `gpt` `mamba` `moe` `gtp` `gpt`" in said


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    tiny_file(tmp_path)
    done = modelwright("train", "tiny.yaml", "--debug", *settings("train.data=no.txt"), cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback (most recent call last):\n" in done.stderr
    assert facts(done.stderr.splitlines()[-1]) == f"error {OVERRIDES['missing data file'][1]}"
