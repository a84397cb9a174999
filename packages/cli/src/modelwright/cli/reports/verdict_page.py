"""Page of a verdict: one HTML file with the table and the loss curves of all layouts on top of each other."""

import io
from html import escape
from string import Template
from typing import TYPE_CHECKING, Any, Final

from modelwright.cli.printable import printable

if TYPE_CHECKING:
    from modelwright.verify import LayoutResult, Verdict

PAGE_MARK: Final = '<meta name="generator" content="modelwright verify">'
"""Text near the beginning of every page."""
_PAGE: Final = Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8">$mark<title>$title</title><style>
body { font-family: sans-serif; margin: 2em auto; max-width: 70em }
td, th { padding: 0.2em 0.8em 0.2em 0; text-align: left; vertical-align: top }
.equal { color: #067a3b } .differs, .failed { color: #b00020 } .refused { color: #777 }
</style></head><body>
<h1>$title</h1><p>$summary</p>
$curves
<table><tr><th>layout</th><th>ranks</th><th>result</th><th></th></tr>
$rows
</table><h2>Changed for verification</h2><ul>
$changes
</ul></body></html>
"""
)


def verdict_page(verdict: "Verdict") -> str:
    """Return the page of a verdict.

    Args:
        verdict: The verdict.
    """
    outcome = "equal" if verdict.is_equal else "differs"
    tolerance = f"tolerance {verdict.tolerance:g} of the largest value, computed in {verdict.dtype}"
    return _PAGE.substitute(
        mark=PAGE_MARK,
        title=_text(f"{verdict.subject}: {outcome}"),
        summary=_text(f"{len(verdict.layouts)} layouts; {tolerance}"),
        curves=_curves(verdict),
        rows="\n".join(_row(layout) for layout in verdict.layouts),
        changes="\n".join(f"<li>{_text(change)}</li>" for change in verdict.changes),
    )


def _text(text: str) -> str:
    return escape(printable(text))


def _row(layout: "LayoutResult") -> str:
    """Return a line of the table, with all differences below the first one."""
    sentences = [deviation.sentence() for deviation in layout.deviations[1:11]]
    more = "".join(f"<br>{_text(sentence)}" for sentence in sentences)
    cells = (_text(layout.name), str(layout.ranks), f"<b class={layout.outcome.split()[0]}>{layout.outcome}</b>")
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}<td>{_text(layout.sentence())}{more}</td></tr>"


def _curves(verdict: "Verdict") -> str:
    """Return the loss curves as SVG: one rank as a wide line, each layout on top of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes: Any = figure.subplots()
    steps = range(1, len(verdict.losses) + 1)
    axes.plot(steps, verdict.losses, color="#bbbbbb", linewidth=8, label="one rank")
    for layout in verdict.layouts:
        if layout.losses:
            label = layout.name if layout.outcome == "differs" else None
            axes.plot(steps, layout.losses, linewidth=1, label=label)
    axes.set(xlabel="step", ylabel="loss", xticks=list(steps))
    axes.legend()
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return "<svg" + drawn.getvalue().partition("<svg")[2]
