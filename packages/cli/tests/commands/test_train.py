"""`modelwright train`: where a run is written, and what is written for each step."""

import json
import math
import pickle
from pathlib import Path

import pytest

from modelwright.cli.commands.train import run_folder
from modelwright.cli.reports.run_log import RunLog
from modelwright.cli.run_file import METRICS, load_run
from modelwright.config import ModelConfig, RunConfig, config_class, register_config
from modelwright.protocols import ModelwrightError
from modelwright.training import StepRecord
from tests.messages import facts


@register_config
@config_class
class TrainToyConfig(ModelConfig):
    """A family of the tests."""

    kind = "cli-train-toy"


def test_the_config_of_a_command_is_validated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither `--set`, nor the job that is pickled for the ranks, nor the size of the job validates it again."""
    checked: list[str] = []
    for cls in (RunConfig, TrainToyConfig):
        monkeypatch.setattr(cls, "__post_init__", lambda self: checked.append(type(self).__name__))
    file = tmp_path / "run.yaml"
    file.write_text("modelwright: 1\nmodel: {kind: cli-train-toy}\n")
    run = load_run(file, ["train.steps=7", "parallelism.tensor=1"], None)
    arrived: RunConfig = pickle.loads(pickle.dumps(run))  # noqa: S301
    assert (arrived.train.steps, arrived.with_data_size(2).parallelism.data) == (7, 2)
    assert sorted(checked) == ["RunConfig", "TrainToyConfig"]


def written(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / METRICS).write_text("")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stand in a folder of its own, as a rank of torchrun without `--rdzv-id`."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("launched")
def test_a_second_run_under_torchrun_without_an_id_gets_a_new_folder() -> None:
    first = run_folder("tiny", None, None)
    assert run_folder("tiny", None, None) == first == Path("runs/tiny-1")
    written(first)
    assert run_folder("tiny", None, None) == Path("runs/tiny-2")


@pytest.mark.usefixtures("launched")
def test_the_id_of_torchrun_names_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job7")
    assert run_folder("tiny", None, None) == Path("runs/tiny-job7")
    written(Path("runs/tiny-job7"))
    with pytest.raises(ModelwrightError, match=r"`--out` .*`runs/tiny-job7`"):
        run_folder("tiny", None, None)


def test_a_folder_with_a_run_is_refused_and_resumed(tmp_path: Path) -> None:
    written(tmp_path / "a")
    with pytest.raises(ModelwrightError, match=r"^`--out` .*/a`"):
        run_folder("tiny", tmp_path / "a", None)
    assert run_folder("tiny", None, tmp_path / "a") == tmp_path / "a"


def test_a_metrics_callback_cannot_replace_the_loss(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.on_start(RunConfig(model=TrainToyConfig()), [], 1)
    more = {"loss": 0.0, "step": 9, "load": [1, 2]}
    log.on_step(StepRecord(step=1, loss=2.5, grad_norm=1.0, lr=0.1, tokens_per_s=10.0, more=more))
    (line,) = (tmp_path / METRICS).read_text().splitlines()
    assert json.loads(line) == {
        "step": 1, "loss": 2.5, "grad_norm": 1.0, "lr": 0.1, "tokens_per_s": 10.0, "load": [1, 2],
    }  # fmt: skip


def test_a_number_that_is_not_finite_is_written_as_null(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.on_start(RunConfig(model=TrainToyConfig()), [], 1)
    more = {"router_entropy": [math.inf, 1.0], "load": {"layer 1": math.nan}}
    log.on_step(
        StepRecord(step=1, loss=math.nan, grad_norm=math.nan, lr=0.1, skipped=True, tokens_per_s=10.0, more=more)
    )
    (line,) = (tmp_path / METRICS).read_text().splitlines()

    def refuse(constant: str) -> float:
        raise ValueError(constant)

    assert json.loads(line, parse_constant=refuse) == {
        "step": 1, "loss": None, "grad_norm": None, "lr": 0.1, "skipped": True, "tokens_per_s": 10.0,
        "router_entropy": [None, 1.0], "load": {"layer 1": None},
    }  # fmt: skip
    log.close()
    assert (tmp_path / "loss.png").is_file()


DAMAGED = {
    "cut off": b'{"step": 2, "loss": 1.',
    "no object": b"[2]",
    "no step": b'{"loss": 1.0}',
    "a step that is no number": b'{"step": "2"}',
    "not UTF-8": b'{"step": \xff}',
    "zeros after a power cut": bytes(20),
    "two in a line": b'{"step": 2}{"step": 3}',
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_line_is_named_and_set_aside(line: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = [json.dumps({"step": step, "loss": 1.0}).encode() for step in (1, 3, 4)]
    (tmp_path / METRICS).write_bytes(b"\n".join([whole[0], line, *whole[1:], b""]))
    log = RunLog(tmp_path)
    log.on_start(RunConfig(model=TrainToyConfig()), [], 4)
    said = capsys.readouterr().out
    assert facts(said.splitlines()[0]).startswith(f"`{tmp_path / METRICS}` `step` 2 `{tmp_path / METRICS}.damaged`")
    assert (tmp_path / METRICS).read_bytes().splitlines() == whole[:2]
    aside = (tmp_path / f"{METRICS}.damaged").read_text()
    assert aside == line.decode(errors="replace") + "\n"
    log.on_start(RunConfig(model=TrainToyConfig()), [], 4)
    assert capsys.readouterr().out == ""
