"""The split of a model into stages: which rank of the pipeline holds which layers, as text and as a drawing.

A row is a rank of the pipeline, a box one of its stages, in the order in which a batch passes through them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

# The engine's alphabet of layers: what each symbol is, and its color in a drawing.
LAYERS = {
    "M": ("Mamba-2", "#f3d17a"),
    "*": ("attention", "#8fb8de"),
    "+": ("latent attention", "#6f9fcf"),
    "-": ("MLP", "#b9d8a8"),
    "E": ("mixture of experts", "#8fbf8f"),
    "G": ("gated delta net", "#e6b98f"),
    "D": ("sparse attention", "#a9c6e8"),
}
_ENDS = "#d9d2e9"


@dataclass(frozen=True)
class Stage:
    """One stage of the whole pipeline."""

    index: int
    """From 0, in the order of a batch."""
    rank: int
    """Of the pipeline."""
    first_layer: int
    """Index of its first layer in the whole model."""
    layers: str
    """One symbol per layer."""
    embedding: bool
    """Whether it holds the embedding."""
    output: bool
    """Whether it holds the final norm, the output layer and the loss."""

    @property
    def parts(self) -> list[str]:
        """What it holds, in order: the ends by name, layers by their symbols."""
        return ["embedding"] * self.embedding + list(self.layers) + ["output"] * self.output


def split_table(stages: "Sequence[Stage]", *, tied: bool) -> "Table":
    """The picture as text.

    Args:
        stages: All of the pipeline.
        tied: Whether the output layer's weight is the embedding's.

    Returns:
        A table with a line for each rank of the pipeline.
    """
    from rich.table import Table

    rows = _rows(stages)
    note = "the output layer shares the weight of the embedding" if tied else None
    table = Table("pipeline rank", *(f"{virtual}" for virtual in range(max(map(len, rows)))), caption=note)
    if len(rows[0]) == 1:
        table.columns[1].header = "holds"
    for rank, row in enumerate(rows):
        table.add_row(str(rank), *(f"{stage.index}: {_short(stage)}" for stage in row))
    return table


def _short(stage: Stage) -> str:
    return " ".join(["embedding"] * stage.embedding + [stage.layers or "no layer"] + ["output"] * stage.output)


def _rows(stages: "Sequence[Stage]") -> "list[list[Stage]]":
    """By rank of the pipeline, each in the order of a batch."""
    ordered = sorted(stages, key=lambda stage: stage.index)
    return [[stage for stage in ordered if stage.rank == rank] for rank in sorted({s.rank for s in ordered})]


def draw_split(stages: "Sequence[Stage]", path: Path, *, tied: bool) -> None:
    """The picture as a drawing.

    Args:
        stages: All of the pipeline.
        path: An SVG file.
        tied: Whether the output layer's weight is the embedding's.
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
    # Text stays text, so that it can be searched and read aloud; no date, so that equal splits give equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "modelwright"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Title": "Stages of the pipeline"})


def _draw_stage(axes: Any, stage: Stage, left: float, middle: float) -> None:
    from matplotlib.patches import Rectangle

    last = stage.first_layer + len(stage.layers) - 1
    span = f"layers {stage.first_layer}-{last}" if stage.layers else "no layer"
    axes.text(left, middle + 0.36, f"stage {stage.index}: {span}", fontsize=7, va="bottom")
    for place, part in enumerate(stage.parts):
        color = LAYERS[part][1] if part in LAYERS else _ENDS
        axes.add_patch(Rectangle((left + place, middle - 0.3), 1, 0.6, facecolor=color, edgecolor="white"))
        label = part if part in LAYERS else part[:3]
        axes.text(left + place + 0.5, middle, label, ha="center", va="center", fontsize=8 if part in LAYERS else 6)


def _draw_legend(axes: Any, stages: "Sequence[Stage]", *, tied: bool, below: float) -> None:
    held = {symbol for stage in stages for symbol in stage.layers}
    words = [f"{symbol} {name}" for symbol, (name, _) in LAYERS.items() if symbol in held]
    words += ["emb embedding", "out final norm, output layer and loss"]
    axes.text(-4.0, below - 0.1, "   ".join(words), fontsize=7, va="center")
    if tied:
        axes.text(-4.0, below - 0.35, "The output layer shares the weight of the embedding.", fontsize=7, va="center")
