"""What a run leaves and shows: the config, one line of metrics a step, the plot, the progress."""

import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from modelwright.config import RunConfig, save
from modelwright.training import StepRecord

METRICS = "metrics.jsonl"
CONFIG = "config.yaml"
PLOT = "loss.png"
_LINES_OFF_TERMINAL = 10


class RunLog:
    """Observes a run from rank 0 and writes its folder.

    Args:
        out: Folder of the run.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.console = Console()
        self._steps = 0
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[rate]:,.0f} tokens/s"),
            TimeRemainingColumn(),
            console=self.console,
        )

    def started(self, run: RunConfig, stages: list[nn.Module], first_step: int) -> None:
        """Write the config, forget metrics of steps that will be done again, show the bar."""
        self.out.mkdir(parents=True, exist_ok=True)
        save(run, self.out / CONFIG, full=True)
        kept = [line for line in _lines(self.out / METRICS) if json.loads(line)["step"] < first_step]
        (self.out / METRICS).write_text("".join(kept))
        self._steps = run.train.steps
        self._task = self._progress.add_task("", total=self._steps, completed=first_step - 1, loss=0.0, rate=0.0)
        if self.console.is_terminal:
            self._progress.start()

    def stepped(self, record: StepRecord) -> None:
        """Add a line of metrics and move the bar."""
        with (self.out / METRICS).open("a") as file:
            file.write(json.dumps(_as_json(record)) + "\n")
        self._progress.update(self._task, completed=record.step, loss=record.loss, rate=record.tokens_per_s)
        if not self.console.is_terminal and self._is_told(record.step):
            self.console.print(
                f"step {record.step}/{self._steps}  loss {record.loss:.4f}  {record.tokens_per_s:,.0f} tokens/s"
            )
        if record.val_loss is not None:
            self.console.print(f"step {record.step}: validation loss {record.val_loss:.4f}")

    def _is_told(self, step: int) -> bool:
        every = max(1, self._steps // _LINES_OFF_TERMINAL)
        return step == 1 or step % every == 0

    def saved(self, path: Path, step: int) -> None:
        """A checkpoint is whole; nothing to show."""

    def close(self) -> None:
        """Take the bar down and draw the plot."""
        if self._progress.live.is_started:
            self._progress.stop()
        records = [json.loads(line) for line in _lines(self.out / METRICS)]
        if records:
            plot_losses(records, self.out / PLOT)


def _lines(path: Path) -> list[str]:
    """Whole lines; one that a killed run left half-written is dropped."""
    if not path.is_file():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]


def _as_json(record: StepRecord) -> dict[str, float]:
    return {name: value for name, value in dataclasses.asdict(record).items() if value is not None}


def plot_losses(records: list[dict[str, float]], path: Path) -> None:
    """Draw training and validation loss over steps.

    Args:
        records: As `metrics.jsonl` holds them.
        path: A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([r["step"] for r in records], [r["loss"] for r in records], label="training")
    measured = [r for r in records if "val_loss" in r]
    if measured:
        axes.plot([r["step"] for r in measured], [r["val_loss"] for r in measured], "o", label="validation")
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
