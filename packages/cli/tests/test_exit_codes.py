"""User errors: one message on stderr, exit code 2, no traceback without `--debug`."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from packages.cli.tests.command import BYTES, modelwright

FILES = {
    "unknown field": (
        BYTES.replace("seq_length", "seq_lenght"),
        ["{file}:4:3: `model.seq_lenght` is not a field of `bytes`; did you mean `seq_length`?"],
    ),
    "unknown field of a section": (
        BYTES + "train:\n  stepz: 5\n",
        ["{file}:6:3: `train.stepz` is not a field of `TrainConfig`; did you mean `steps`?"],
    ),
    "wrong type": (
        BYTES + 'train:\n  steps: "5"\n',
        ['{file}:6:10: `train.steps` must be an integer, but the string "5" was given.'],
    ),
    "all at once": (
        BYTES + "train: {steps: 0, lr: -1}\n",
        [
            "{file}:5:16: `train.steps` must be at least 1, but 0 was given.",
            "{file}:5:23: `train.lr` must be above 0.0, but -1 was given.",
        ],
    ),
    "a model alone": (
        "kind: bytes\n",
        [
            (
                "`{file}` must describe a run, but contains a `bytes` model alone; put it under `model:` in a file "
                "that begins with `modelwright: 1`."
            )
        ],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file(case: str, folder: Path) -> None:
    text, problems = FILES[case]
    (folder / "bad.yaml").write_text(text)
    for command in ("train", "build"):
        done = modelwright(command, "bad.yaml", "--import", "my_parts", cwd=folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: " + "\n".join(problems).format(file="bad.yaml") + "\n"


def test_a_family_that_is_not_installed(folder: Path) -> None:
    """`gpt` is an extra of the command; `moe` stands in for it where that is installed."""
    kind = "gpt" if find_spec("modelwright.gpt") is None else "moe"
    (folder / "bad.yaml").write_text(BYTES.replace("kind: bytes", f"kind: {kind}"))
    done = modelwright("train", "bad.yaml", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: bad.yaml:3:9: `model.kind` `{kind}` is the family of `modelwright-{kind}`, which is not installed; "
        f"run `pip install modelwright-{kind}`.\n"
    )


def test_a_missing_file(folder: Path) -> None:
    done = modelwright("train", "no.yaml", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "no.yaml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.stepz=3",
            "--set train.stepz=3: `train.stepz` is not a field of `TrainConfig`; did you mean `steps`?",
        ),
        ("train.steps=x", '--set train.steps=x: `train.steps` must be an integer, but the string "x" was given.'),
        ("train", "--set train: an override must be `path=value`, as in `train.steps=5`, but `train` was given."),
    ],
)
def test_a_bad_override(override: str, message: str, folder: Path) -> None:
    done = modelwright("train", "bytes.yaml", "--import", "my_parts", "--set", override, cwd=folder)
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")


def test_neither_a_file_nor_a_run(folder: Path) -> None:
    done = modelwright("train", cwd=folder)
    assert done.returncode == 2
    assert done.stderr == "error: `FILE` must be given unless `--resume` is; name a config file.\n"


def test_resume_goes_on_in_its_own_folder(folder: Path) -> None:
    words = ("bytes.yaml", "--import", "my_parts", "--resume", "old", "--out", "new")
    done = modelwright("train", *words, cwd=folder)
    assert done.returncode == 2
    assert done.stderr == ("error: `--out` must be left out with `--resume`: a run is resumed in its own folder.\n")


def test_an_error_of_a_rank_says_which(folder: Path) -> None:
    done = modelwright("train", "no.yaml", cwd=folder, RANK="3", WORLD_SIZE="4")
    assert done.returncode == 2
    assert done.stderr.startswith("error (rank 3): ")


def test_debug_shows_the_traceback(folder: Path) -> None:
    done = modelwright("train", "bytes.yaml", "--debug", cwd=folder)
    *trace, last = done.stderr.rstrip().splitlines()
    assert done.returncode == 2
    assert trace[0] == "Traceback (most recent call last):"
    assert last.startswith("error: bytes.yaml:3:9: `model.kind` must be ")


def test_nothing_is_left_behind(folder: Path) -> None:
    before = sorted(folder.iterdir())
    modelwright("train", "bytes.yaml", "--import", "my_parts", "--set", "train.data=no.txt", cwd=folder)
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before
