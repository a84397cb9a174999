"""Everything that a user can get wrong: one clear error on stderr, exit code 2, nothing started and nothing lost."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.integration.command import TINY, modelwright, settings, six_steps, tiny_file


@pytest.fixture
def run_dir(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a run of six steps that is done."""
    return shutil.copytree(six_steps(tmp_path_factory.getbasetemp())[1], tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, *words: str, **env: str) -> str:
    """What `train` says of bad input, having left every file as it was."""
    before = contents(folder)
    done = modelwright("train", *words, cwd=folder, env=dict(os.environ) | env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error")
    assert done.stderr.endswith("\n")
    assert contents(folder) == before
    return done.stderr[:-1]


FILES = {
    "unknown field": (
        TINY.replace("hidden_size", "hiden_size"),
        (
            "tiny.yaml:3:1: `model.hidden_size` is missing; `gpt` needs it.\n"
            "tiny.yaml:6:3: `model.hiden_size` is not a field of `gpt`; did you mean `hidden_size`?"
        ),
    ),
    "wrong type": (
        TINY.replace("num_layers: 2", "num_layers: two"),
        'tiny.yaml:5:15: `model.num_layers` must be an integer, but the string "two" was given.',
    ),
    "unknown kind": (
        TINY.replace("kind: gpt", "kind: gtp"),
        "tiny.yaml:4:9: `model.kind` must be `gpt`, `mamba` or `moe`, but `gtp` was given; did you mean `gpt`?",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file(case: str, tmp_path: Path) -> None:
    text, message = FILES[case]
    (tmp_path / "tiny.yaml").write_text(text)
    assert refused(tmp_path, "tiny.yaml") == f"error: {message}"


OVERRIDES = {
    "indivisible heads": (
        ["model.num_query_groups=3"],
        (
            "error: --set model.num_query_groups=3: `num_query_groups` must divide `num_attention_heads`, but 3 does "
            "not divide 4; use 1, 2 or 4."
        ),
    ),
    "heads of a layout": (
        ["parallelism.tensor=4"],
        (
            "error: --set parallelism.tensor=4: `num_query_groups` must be a multiple of `tensor`, but 2 is not a "
            "multiple of 4; use 4, or 2 for `tensor`."
        ),
    ),
    "vocabulary of a layout": (
        ["parallelism.tensor=2", "model.vocab_multiple=257"],
        (
            "error: --set model.vocab_multiple=257: `vocab_multiple` 257 pads the vocabulary to 257, which must be a "
            "multiple of `tensor`, but is not a multiple of 2; use a multiple of 2."
        ),
    ),
    "vocabulary of bytes": (
        ["model.vocab_size=100"],
        "error: `model.vocab_size` must be at least 256 to train on bytes, but is 100; use 256.",
    ),
    "missing data file": (
        ["train.data=no.txt"],
        "error: `train.data` must be a text that can be read, but 'no.txt' cannot: No such file or directory.",
    ),
    "data file that is a folder": (
        ["train.data=."],
        "error: `train.data` must be a text that can be read, but '.' cannot: Is a directory.",
    ),
    "short data file": (
        ["train.data=short.txt"],
        (
            "error: `train.data` must have more than `model.seq_length` = 32 bytes for validation, but short.txt has "
            "5; use a longer text, a shorter `seq_length`, or another `train.validation_fraction`."
        ),
    ),
    "no wrap": (
        ["wrap.kind=none", "parallelism.data=2"],
        (
            "error: `wrap.kind` must keep the gradients that the engine's optimizer reads, but is none; use ddp to "
            "train, on one rank too."
        ),
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
    assert refused(tmp_path, "tiny.yaml", *options, RANK="1", WORLD_SIZE="3") == (
        "error (rank 1): the number of processes must be a multiple of `tensor` 2 × `pipeline` 1 × `context` 1 = 2, "
        "but 3 were launched; launch 2, or change an axis."
    )


def test_an_unknown_stack(tmp_path: Path) -> None:
    tiny_file(tmp_path)
    assert refused(tmp_path, "tiny.yaml", *settings("stack=mine")) == (
        "error: `stack` must name a registered stack, but 'mine' is not one (registered: none); import the module that "
        "calls `register_stack` with `--import`."
    )


def test_an_unknown_preset() -> None:
    done = modelwright("config", "show", "--preset", "llama3_8")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the preset must be `deepseek_v3`, `gpt2_124m`, `gpt_tiny`, `hybrid_tiny`, `llama31_405b`, "
        "`llama3_70b`, `llama3_8b`, `mamba2_130m`, `mamba2_2_7b`, `mamba_tiny`, `mixtral_8x7b`, `moe_tiny`, "
        "`nemotron_h_8b`, `olmoe_1b_7b` or `qwen3_30b_a3b`, but `llama3_8` was given; did you mean `llama3_8b`?\n"
    )


def test_resume_of_nothing(tmp_path: Path) -> None:
    assert refused(tmp_path, "--resume", "no") == (
        "error: `no` must be the folder of a run, but there is no such folder."
    )
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path, "--resume", "empty") == (
        "error: `empty` must contain a checkpoint, but there is none under `checkpoints/`; a run saves one at its "
        "end and "
        "every `train.checkpoint_interval` steps."
    )


def test_a_finished_run(run_dir: Path) -> None:
    assert refused(run_dir.parent, "--resume", "run") == (
        "error: `train.steps` must be above the 6 steps that `run` has done, but is 6; raise it, for example with "
        "--steps 12."
    )


def test_a_checkpoint_of_another_config(run_dir: Path) -> None:
    tiny_file(run_dir.parent)
    options = settings("model.hidden_size=64", "model.num_layers=4")
    assert refused(run_dir.parent, "tiny.yaml", "--resume", "run", "--steps", "9", *options) == (
        "error: `run/checkpoints/step-00000006` is a checkpoint of another model: `model.hidden_size` is 64 here and "
        "32 there; `model.num_layers` is 4 here and 2 there. Use the config it was made with."
    )


def test_a_checkpoint_that_was_cut_off(run_dir: Path) -> None:
    newest = run_dir / "checkpoints" / "step-00000006"
    (newest / ".metadata").unlink()
    assert refused(run_dir.parent, "--resume", "run", "--steps", "9") == (
        "error: `run/checkpoints/step-00000006` must be a complete checkpoint, but .metadata is missing: it was cut "
        "off "
        "or changed; delete that folder to resume from an older one (the one before it is `step-00000003`)."
    )
    done = modelwright("generate", run_dir)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: `{newest}` must be a complete checkpoint, but .metadata is missing: ")


def test_a_checkpoint_whose_data_was_cut_short(run_dir: Path) -> None:
    newest = run_dir / "checkpoints" / "step-00000006"
    for data in newest.glob("*.distcp"):
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    before = contents(run_dir)
    done = modelwright("train", "--resume", run_dir, "--steps", "9")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: `{newest}` cannot be loaded into this model: ")
    assert "Traceback" not in done.stderr
    assert contents(run_dir) == before


def test_a_damaged_config_of_a_checkpoint(run_dir: Path) -> None:
    file = run_dir / "checkpoints" / "step-00000006" / "modelwright.json"
    content = json.loads(file.read_text())
    file.write_text(file.read_text()[:100])
    said = refused(run_dir.parent, "--resume", "run", "--steps", "9")
    assert said.startswith("error: `run/checkpoints/step-00000006/modelwright.json` cannot be read: ")
    assert said.endswith("; the checkpoint is damaged.")
    file.write_text(json.dumps(content | {"config": content["config"].replace('"gpt"', '"gtp"')}))
    said = refused(run_dir.parent, "--resume", "run", "--steps", "9")
    assert "`model.kind` must be `gpt`, `mamba` or `moe`, but `gtp` was given; did you mean `gpt`?" in said


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    tiny_file(tmp_path)
    done = modelwright("train", "tiny.yaml", "--debug", *settings("train.data=no.txt"), cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback (most recent call last):\n" in done.stderr
    assert done.stderr.splitlines()[-1] == OVERRIDES["missing data file"][1]
