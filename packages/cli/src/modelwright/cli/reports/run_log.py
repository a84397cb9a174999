"""The folder and the progress of a run: the config, one line of metrics for each step, the plots, the bar."""

import dataclasses
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from modelwright.cli.printable import printable
from modelwright.cli.reports.metrics_file import as_line, keep_metrics, read_metrics
from modelwright.cli.run_file import CONFIG, LOAD_PLOT, LOSS_PLOT, METRICS
from modelwright.config import RunConfig, save
from modelwright.training import StepRecord, naming_run_file, replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES_OFF_TERMINAL = 10


class _Output(Console):
    """The standard output. If its reader goes away (`| head`), a line on stderr says so, and the run goes on.

    Args:
        out: Folder of the run.
    """

    def __init__(self, out: Path) -> None:
        super().__init__()
        self._out = out

    @override
    def on_broken_pipe(self) -> None:
        self.quiet = True
        # What Python flushes at the end goes nowhere, instead of failing once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stderr.write(
            printable(f"warning: the standard output was closed; the run goes on, see {self._out / METRICS}") + "\n"
        )


class RunLog:
    """Callback of rank 0 that writes the folder of a run and shows the progress.

    Args:
        out: Folder of the run.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._console = _Output(out)
        self._steps = 0
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[rate]:,.0f} tokens/s"),
            TimeRemainingColumn(),
            console=self._console,
        )

    def on_start(self, run: RunConfig, stages: list[nn.Module], first_step: int) -> None:
        """Write the config, delete the metrics of steps that will be repeated, and show the bar.

        Args:
            run: The config.
            stages: The wrapped stages of this rank.
            first_step: Number of the next step.
        """
        with naming_run_file(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            save(run, self.out / CONFIG, full=True)
            damaged = keep_metrics(self.out / METRICS, first_step)
        if damaged is not None:
            self.print(f"warning: {damaged}")
        self._steps = run.train.steps
        self._task = self._progress.add_task("", total=self._steps, completed=first_step - 1, loss=0.0, rate=0.0)
        if self._console.is_terminal:
            self._progress.start()

    def on_step(self, record: StepRecord) -> None:
        """Write a line of metrics and advance the bar.

        Args:
            record: Metrics of the step.
        """
        _append(self.out / METRICS, as_line(_fields(record)))
        self._progress.update(self._task, completed=record.step, loss=record.loss, rate=record.tokens_per_s)
        if not self._console.is_terminal and self._is_printed(record.step):
            self._console.print(
                f"step {record.step}/{self._steps}  loss {record.loss:.4f}  {record.tokens_per_s:,.0f} tokens/s"
            )
        if record.skipped:
            self._console.print(
                f"step {record.step}: skipped, because the loss {record.loss:.4g} or its gradient is not finite; the "
                "parameters and the learning-rate schedule wait"
            )
        if record.val_loss is not None:
            self._console.print(f"step {record.step}: validation loss {record.val_loss:.4f}")

    def _is_printed(self, step: int) -> bool:
        """Return True if a step gets a line in a log file, which has no bar."""
        every = max(1, self._steps // _LINES_OFF_TERMINAL)
        return step == 1 or step % every == 0

    def on_checkpoint(self, path: Path, step: int) -> None:
        """Do nothing, because the bar shows the step.

        Args:
            path: Folder of the checkpoint.
            step: Step of the checkpoint.
        """

    def print(self, line: str) -> None:
        """Print a line as it is.

        Args:
            line: The line.
        """
        self._console.print(printable(line), soft_wrap=True, markup=False, highlight=False)

    def close(self) -> None:
        """Remove the bar and draw the plots."""
        if self._progress.live.is_started:
            self._progress.stop()
        records, _ = read_metrics(self.out / METRICS)
        if records:
            plot_losses(records, self.out / LOSS_PLOT)
        routed = [record for record in records if "expert_load" in record]
        if routed:
            plot_expert_load(routed, self.out / LOAD_PLOT)


def _append(path: Path, line: str) -> None:
    """Append a line and sync it to the disk. A file that is gone is not made again, and no link is followed."""
    with naming_run_file(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "w") as file:
            file.write(line)
            file.flush()
            os.fdatasync(descriptor)


def _fields(record: StepRecord) -> dict[str, Any]:
    """Convert a record to one mapping. Additional metrics never replace its own fields."""
    fields = dataclasses.asdict(record)
    more = fields.pop("more")
    if not record.skipped:
        del fields["skipped"]
    return {name: value for name, value in (fields | more | fields).items() if value is not None}


def plot_losses(records: list[dict[str, Any]], path: Path) -> None:
    """Draw training and validation loss over steps.

    Args:
        records: Lines of `metrics.jsonl`.
        path: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    finite = [r for r in records if r.get("loss") is not None]
    axes.plot([r["step"] for r in finite], [r["loss"] for r in finite], label="training")
    measured = [r for r in records if r.get("val_loss") is not None]
    if measured:
        axes.plot([r["step"] for r in measured], [r["val_loss"] for r in measured], "o", label="validation")
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    _save_figure(figure, path)


def plot_expert_load(records: list[dict[str, Any]], path: Path) -> None:
    """Draw a heat map: the load of every expert of every layer over steps, as a multiple of the mean load.

    Args:
        records: Lines of `metrics.jsonl`, each with `expert_load`.
        path: PNG file to write.
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
    figure.colorbar(image, label="tokens, as a multiple of the mean")
    _save_figure(figure, path)


def _save_figure(figure: "Figure", path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    with naming_run_file(path):
        replace_file(path, content.getvalue())


def _shares(load: list[int]) -> list[float]:
    """Return the load of each expert as a multiple of the mean."""
    return [count * len(load) / max(1, sum(load)) for count in load]
