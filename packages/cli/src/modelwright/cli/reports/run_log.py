"""What a run leaves and shows: the config, one line of metrics a step, the plots, the progress."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from modelwright.config import RunConfig, save
from modelwright.training import StepRecord

METRICS = "metrics.jsonl"
CONFIG = "config.yaml"
PLOT = "loss.png"
LOAD_PLOT = "expert_load.png"
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
        """Take the bar down and draw the plots."""
        if self._progress.live.is_started:
            self._progress.stop()
        records = [json.loads(line) for line in _lines(self.out / METRICS)]
        if records:
            plot_losses(records, self.out / PLOT)
        routed = [record for record in records if "expert_load" in record]
        if routed:
            plot_expert_load(routed, self.out / LOAD_PLOT)


def _lines(path: Path) -> list[str]:
    """Whole lines; one that a killed run left half-written is dropped."""
    if not path.is_file():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]


def _as_json(record: StepRecord) -> dict[str, Any]:
    fields = dataclasses.asdict(record)
    fields |= fields.pop("more")
    return {name: value for name, value in fields.items() if value is not None}


def plot_losses(records: list[dict[str, Any]], path: Path) -> None:
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


def plot_expert_load(records: list[dict[str, Any]], path: Path) -> None:
    """Draw a heat map: the load of every expert of every layer over steps, in multiples of its fair share.

    Args:
        records: As `metrics.jsonl` holds them, each with `expert_load`.
        path: A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = list(records[0]["expert_load"])
    experts = len(records[0]["expert_load"][layers[0]])
    columns = [[load for layer in layers for load in _shares(record["expert_load"][layer])] for record in records]
    figure = Figure(figsize=(8, min(12.0, 1.5 + 0.12 * experts * len(layers))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    first, last, rows = records[0]["step"], records[-1]["step"], experts * len(layers)
    image = axes.imshow(
        list(zip(*columns, strict=True)),
        aspect="auto",
        interpolation="nearest",
        cmap="RdBu_r",
        vmin=0,
        vmax=2,
        extent=(first - 0.5, last + 0.5, rows - 0.5, -0.5),
    )
    for boundary in range(1, len(layers)):
        axes.axhline(boundary * experts - 0.5, color="black", linewidth=0.8)
    axes.set_yticks([(place + 0.5) * experts - 0.5 for place in range(len(layers))], [f"layer {n}" for n in layers])
    axes.set(xlabel="step", title=f"load of the {experts} experts of each layer")
    figure.colorbar(image, label="tokens, in multiples of the fair share")
    figure.savefig(path, dpi=120)


def _shares(load: list[int]) -> list[float]:
    """1 for each where all have the same."""
    return [count * len(load) / max(1, sum(load)) for count in load]
