"""Pictures of the pipeline split: the layers of every pipeline rank, as a table and as a drawing.

A row is a pipeline rank. A box is one of its stages, in the order in which a batch passes through them.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.config import LAYER_KINDS
from modelwright.training import naming_run_file, replace_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

_TITLE = "Stages of the pipeline"
DRAWING_MARK = f"<dc:title>{_TITLE}</dc:title>"
"""Text near the beginning of every drawing."""
_COLOR_OF_ENDS = "#d9d2e9"


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline."""

    index: int
    """Index of the stage, from 0, in the order of a batch."""
    rank: int
    """Pipeline rank."""
    first_layer: int
    """Index of its first layer in the model, from 0."""
    layers: str
    """Pattern of the stage: a symbol for each layer."""
    embedding: bool
    """True if the stage has the embedding."""
    output: bool
    """True if the stage has the final norm, the output layer and the loss."""

    @property
    def parts(self) -> list[str]:
        """Parts of the stage in order: the ends by name, layers by their symbols."""
        return ["embedding"] * self.embedding + list(self.layers) + ["output"] * self.output


def split_table(stages: "Sequence[Stage]", *, tied: bool) -> "Table":
    """Return the split as a table.

    Args:
        stages: All stages of the pipeline.
        tied: True if the output layer shares the weight of the embedding.

    Returns:
        A table with a line for each pipeline rank.
    """
    from rich.table import Table

    rows = _rows(stages)
    note = "the output layer shares the weight of the embedding" if tied else None
    table = Table("pipeline rank", *(f"{virtual}" for virtual in range(max(map(len, rows)))), caption=note)
    if len(rows[0]) == 1:
        table.columns[1].header = "layers"
    for rank, row in enumerate(rows):
        table.add_row(str(rank), *(f"{stage.index}: {_short(stage)}" for stage in row))
    return table


def _short(stage: Stage) -> str:
    """Return the parts of a stage on one line."""
    return " ".join(["embedding"] * stage.embedding + [stage.layers or "no layer"] + ["output"] * stage.output)


def _rows(stages: "Sequence[Stage]") -> "list[list[Stage]]":
    """Group the stages by pipeline rank, each group in the order of a batch."""
    ordered = sorted(stages, key=lambda stage: stage.index)
    return [[stage for stage in ordered if stage.rank == rank] for rank in sorted({s.rank for s in ordered})]


def draw_split(stages: "Sequence[Stage]", path: Path, *, tied: bool) -> None:
    """Draw the split.

    Args:
        stages: All stages of the pipeline.
        path: SVG file to write.
        tied: True if the output layer shares the weight of the embedding.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    rows = _rows(stages)
    widths = [max(len(row[i].parts) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    lefts = [sum(widths[:i]) + 0.8 * i for i in range(len(widths))]
    figure = Figure(figsize=(max(5.0, 0.42 * (lefts[-1] + widths[-1]) + 1.6), 0.8 * len(rows) + 1.2))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    for row_index, row in enumerate(rows):
        axes.text(-0.4, -row_index, f"pipeline rank {row_index}", ha="right", va="center", fontsize=9)
        for left, stage in zip(lefts, row, strict=False):
            _draw_stage(axes, stage, left, -row_index)
    _draw_legend(axes, stages, tied=tied, below=0.5 - len(rows))
    axes.set_xlim(-4.2, max(lefts[-1] + widths[-1] + 0.5, 9.0))
    axes.set_ylim(-len(rows), 0.8)
    axes.axis("off")
    # Text remains text, so that it can be searched and read aloud. Without a date, equal splits give equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "modelwright"}):
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Title": _TITLE})
    with naming_run_file(path):
        replace_file(path, content.getvalue())


def _draw_stage(axes: Any, stage: Stage, left: float, middle: float) -> None:
    """Draw one box."""
    from matplotlib.patches import Rectangle

    last = stage.first_layer + len(stage.layers) - 1
    span = f"layers {stage.first_layer}-{last}" if stage.layers else "no layer"
    axes.text(left, middle + 0.36, f"stage {stage.index}: {span}", fontsize=7, va="bottom")
    for place, part in enumerate(stage.parts):
        kind = LAYER_KINDS.get(part)
        color, size = (_COLOR_OF_ENDS, 6) if kind is None else (kind.color, 8)
        axes.add_patch(Rectangle((left + place, middle - 0.3), 1, 0.6, facecolor=color, edgecolor="white"))
        axes.text(left + place + 0.5, middle, part[:3], ha="center", va="center", fontsize=size)


def _draw_legend(axes: Any, stages: "Sequence[Stage]", *, tied: bool, below: float) -> None:
    """Draw the legend, with the kinds of layers that occur."""
    used = {symbol for stage in stages for symbol in stage.layers}
    words = [f"{symbol} {kind.label}" for symbol, kind in LAYER_KINDS.items() if symbol in used]
    words += ["emb embedding", "out final norm, output layer and loss"]
    axes.text(-4.0, below - 0.1, "   ".join(words), fontsize=7, va="center")
    if tied:
        axes.text(-4.0, below - 0.35, "The output layer shares the weight of the embedding.", fontsize=7, va="center")
