"""`modelwright train` and `build` on two real ranks: what they leave, and that a resumed run is the unbroken one."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modelwright.config import RunConfig, dumps, load, replace
from modelwright.training import checkpoints
from tests.integration.command import metrics, modelwright, settings, six_steps, tiny_file
from tests.messages import facts


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Return the output of the command for six steps on two ranks, and the folder of the run."""
    return six_steps(tmp_path_factory.getbasetemp())


@pytest.fixture
def cut_off(unbroken: tuple[object, Path], tmp_path: Path) -> Path:
    """A copy of that run as a machine that failed after step 6, before it was saved, would have left it."""
    copy = shutil.copytree(unbroken[1], tmp_path / "cut-off")
    (copy / "checkpoints" / "step-00000006").rename(copy / "checkpoints" / ".step-00000006.partial")
    return copy


def close(ours: list[dict[str, float]], theirs: list[dict[str, float]], tolerance: float) -> None:
    """Two runs gave the same numbers, the clock aside."""
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a | {"tokens_per_s": 0} == pytest.approx(b | {"tokens_per_s": 0}, abs=tolerance)


def test_train_says_how_it_goes(unbroken: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, out = unbroken
    assert (done.returncode, done.stderr) == (0, "")
    lines = metrics(out)
    told = [f"step {line['step']}/6  loss {line['loss']:.4f}  {line['tokens_per_s']:,.0f} tokens/s" for line in lines]
    for place, step in ((3, 3), (7, 6)):
        told.insert(place, f"step {step}: validation loss {lines[step - 1]['val_loss']:.4f}")
    next_step = f'next: modelwright generate {out} --prompt "The " --tokens 200'
    assert done.stdout.splitlines() == [*told, f"run folder: {out}", next_step]


def test_the_config_it_leaves_is_the_whole_resolved_one(unbroken: tuple[object, Path]) -> None:
    saved = load(unbroken[1] / "config.yaml")
    file = load(unbroken[1].parent / "tiny.yaml")
    assert isinstance(saved, RunConfig)
    assert isinstance(file, RunConfig)
    assert saved == replace(file, parallelism=replace(file.parallelism, tensor=2, data=1))
    assert (unbroken[1] / "config.yaml").read_text() == dumps(saved, format="yaml", full=True)


def test_one_line_of_metrics_a_step(unbroken: tuple[object, Path]) -> None:
    lines = metrics(unbroken[1])
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    always = {"step", "loss", "grad_norm", "lr", "tokens_per_s"}
    assert [set(line) - always for line in lines] == [set(), set(), {"val_loss"}, set(), set(), {"val_loss"}]
    assert [line["lr"] for line in lines[:3]] == pytest.approx([0, 0.005, 0.01])
    assert 5.4 < lines[0]["loss"] < 5.7
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.2


def test_a_plot_and_the_checkpoints(unbroken: tuple[object, Path]) -> None:
    out = unbroken[1]
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert [step for step, _ in checkpoints(out)] == [3, 6]
    assert sorted(path.name for path in out.iterdir()) == [
        ".modelwright",
        "checkpoints",
        "config.yaml",
        "loss.png",
        "metrics.jsonl",
    ]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000003", "step-00000006"]


def test_a_folder_that_holds_a_run_is_refused(unbroken: tuple[object, Path]) -> None:
    out = unbroken[1]
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    done = modelwright("train", out.parent / "tiny.yaml", "--out", out)
    assert (done.returncode, done.stdout) == (2, "")
    assert facts(done.stderr) == f"error `--out` `{out}` {out}\n"
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_resumed_run_is_the_unbroken_run(unbroken: tuple[object, Path], cut_off: Path) -> None:
    done = modelwright("train", "--resume", cut_off)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("step 4/6  loss ")
    assert metrics(cut_off)[:3] == metrics(unbroken[1])[:3]
    close(metrics(cut_off), metrics(unbroken[1]), 1e-6)
    assert [step for step, _ in checkpoints(cut_off)] == [3, 6]


@pytest.mark.parametrize("axes", [{"tensor": 1, "data": 2}, {"tensor": 1, "data": 1}], ids=["data 2", "one rank"])
def test_a_run_is_resumed_on_another_layout(axes: dict[str, int], unbroken: tuple[object, Path], cut_off: Path) -> None:
    done = modelwright("train", "--resume", cut_off, *settings(*(f"parallelism.{a}={n}" for a, n in axes.items())))
    assert (done.returncode, done.stderr) == (0, "")
    close(metrics(cut_off), metrics(unbroken[1]), 1e-4)
    resumed = load(cut_off / "config.yaml")
    assert isinstance(resumed, RunConfig)
    assert (resumed.parallelism.tensor, resumed.parallelism.data) == (axes["tensor"], axes["data"])


def test_a_launcher_starts_the_same_job(unbroken: tuple[object, Path], tmp_path: Path) -> None:
    """Without --out too: the ranks agree on a folder."""
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "modelwright.cli"]
    options = [*settings("parallelism.tensor=2"), "--steps", "3"]
    done = subprocess.run(
        [sys.executable, *words, "train", str(tiny_file(tmp_path)), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name.startswith("tiny-")
    lines = metrics(out)
    assert [line["step"] for line in lines] == [1, 2, 3]
    expected = [line["loss"] for line in metrics(unbroken[1])[:2]]
    assert [line["loss"] for line in lines[:2]] == pytest.approx(expected, abs=1e-6)
    assert [step for step, _ in checkpoints(out)] == [3]


def rows(printed: str) -> list[list[str]]:
    """Words of each line under the header of the first table; columns are two or more spaces apart."""
    table, _, _ = printed.partition("┏")
    return [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()[1:]]


def test_build_prints_what_every_rank_holds(tmp_path: Path) -> None:
    options = settings("parallelism.pipeline=2", "parallelism.virtual_pipeline=2", "model.num_layers=4")
    done = modelwright("build", tiny_file(tmp_path), *options, "--svg", tmp_path / "split.svg")
    assert (done.returncode, done.stderr) == (0, "")
    table = rows(done.stdout)
    assert [row[:4] for row in table] == [
        ["0", "0", "0-1", "*-"],
        ["0", "2", "4-5", "*-"],
        ["1", "1", "2-3", "*-"],
        ["1", "3", "6-7", "*-"],
    ]
    block = 32 + 32 * 64 + 32 * 32 + 32 + 32 * 256 + 128 * 32
    ends = {"0": 256 * 32, "3": 32 + 256 * 32}
    assert [row[4] for row in table] == [f"{block + ends.get(row[1], 0):,}" for row in table]
    assert {row[6] for row in table} == {"DistributedDataParallel"}
    *_, picture, _, last = done.stdout.splitlines()
    assert picture.split("│")[1:-1] == [" 1             ", " 1: *-           ", " 3: *- output "]
    assert re.fullmatch(r"one forward and backward ran: loss 5\.\d{4} on random tokens", last)
    assert "stage 3: layers 6-7" in (tmp_path / "split.svg").read_text(encoding="utf-8")


def test_a_drawing_that_could_not_be_written(tmp_path: Path) -> None:
    """Known before any process starts."""
    missing = tmp_path / "missing" / "split.svg"
    done = modelwright("build", tiny_file(tmp_path), "--svg", missing)
    assert (done.returncode, done.stdout) == (2, "")
    assert facts(done.stderr) == f"error `--svg` `{missing}`\n"


def test_build_cuts_every_matrix(tmp_path: Path) -> None:
    done = modelwright("build", tiny_file(tmp_path), *settings("parallelism.tensor=2", "wrap.kind=none"))
    assert (done.returncode, done.stderr) == (0, "")
    half = 2 * (32 + 32 * 32 + 16 * 32 + 32 + 32 * 128 + 64 * 32) + 2 * 128 * 32 + 32
    assert [[*row[:5], row[6]] for row in rows(done.stdout)] == [
        [rank, "0", "0-3", "*-*-", f"{half:,}", "nothing"] for rank in ("0", "1")
    ]
