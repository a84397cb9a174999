"""User errors: one message on stderr, exit code 2, no traceback without `--debug`."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from packages.cli.tests.command import BYTES, modelwright
from tests.messages import facts

FILES = {
    "unknown field": (
        BYTES.replace("seq_length", "seq_lenght"),
        ["{file}:4:3 `model.seq_lenght` `bytes` `seq_length`"],
    ),
    "unknown field of a section": (
        BYTES + "train:\n  stepz: 5\n",
        ["{file}:6:3 `train.stepz` `TrainConfig` `steps`"],
    ),
    "wrong type": (
        BYTES + 'train:\n  steps: "5"\n',
        ['{file}:6:10 `train.steps` "5"'],
    ),
    "all at once": (
        BYTES + "train: {steps: 0, lr: -1}\n",
        [
            "{file}:5:16 `train.steps` 1 0",
            "{file}:5:23 `train.lr` 0.0 -1",
        ],
    ),
    "a model alone": (
        "kind: bytes\n",
        ["`{file}` `bytes` `model:` `modelwright: 1`"],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file(case: str, folder: Path) -> None:
    text, problems = FILES[case]
    (folder / "bad.yaml").write_text(text)
    for command in ("train", "build"):
        done = modelwright(command, "bad.yaml", "--import", "my_parts", cwd=folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert facts(done.stderr) == "error " + "\n".join(problems).format(file="bad.yaml") + "\n"


def test_a_family_that_is_not_installed(folder: Path) -> None:
    """`gpt` is an extra of the command; `moe` stands in for it where that is installed."""
    kind = "gpt" if find_spec("modelwright.gpt") is None else "moe"
    (folder / "bad.yaml").write_text(BYTES.replace("kind: bytes", f"kind: {kind}"))
    done = modelwright("train", "bad.yaml", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        facts(done.stderr)
        == f"error bad.yaml:3:9 `model.kind` `{kind}` `modelwright-{kind}` `pip install modelwright-{kind}`\n"
    )


def test_a_missing_file(folder: Path) -> None:
    done = modelwright("train", "no.yaml", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "no.yaml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "train.stepz=3",
            "--set train.stepz=3 `train.stepz` `TrainConfig` `steps`",
        ),
        ("train.steps=x", '--set train.steps=x `train.steps` "x"'),
        ("train", "--set train `path=value` `train.steps=5` `train`"),
    ],
)
def test_a_bad_override(override: str, expected: str, folder: Path) -> None:
    done = modelwright("train", "bytes.yaml", "--import", "my_parts", "--set", override, cwd=folder)
    assert (done.returncode, facts(done.stderr)) == (2, f"error {expected}\n")


def test_neither_a_file_nor_a_run(folder: Path) -> None:
    done = modelwright("train", cwd=folder)
    assert done.returncode == 2
    assert facts(done.stderr) == "error `FILE` `--resume`\n"


def test_resume_goes_on_in_its_own_folder(folder: Path) -> None:
    words = ("bytes.yaml", "--import", "my_parts", "--resume", "old", "--out", "new")
    done = modelwright("train", *words, cwd=folder)
    assert done.returncode == 2
    assert facts(done.stderr) == "error `--out` `--resume`\n"


def test_an_error_of_a_rank_says_which(folder: Path) -> None:
    done = modelwright("train", "no.yaml", cwd=folder, RANK="3", WORLD_SIZE="4")
    assert done.returncode == 2
    assert done.stderr.startswith("error (rank 3): ")


def test_debug_shows_the_traceback(folder: Path) -> None:
    done = modelwright("train", "bytes.yaml", "--debug", cwd=folder)
    *trace, last = done.stderr.rstrip().splitlines()
    assert done.returncode == 2
    assert trace[0] == "Traceback (most recent call last):"
    assert facts(last).startswith("error bytes.yaml:3:9 `model.kind`")


def test_nothing_is_left_behind(folder: Path) -> None:
    before = sorted(folder.iterdir())
    modelwright("train", "bytes.yaml", "--import", "my_parts", "--set", "train.data=no.txt", cwd=folder)
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before
