"""Table of a verdict, one line for each layout, and the progress while layouts are verified."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, final

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from modelwright.cli.printable import printable

if TYPE_CHECKING:
    from modelwright.verify import LayoutResult, Verdict

_COLORS: Final = {"equal": "green", "differs": "red", "failed": "red", "refused": "dim"}


@final
class VerdictTable:
    """Progress and table of a verification; a context manager.

    Args:
        name: Name of the model.
    """

    def __init__(self, name: str) -> None:
        self._console = Console()
        self._status: Status = self._console.status(f"{escape(name)}: training on one rank")

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def add(self, result: "LayoutResult", done: int, count: int) -> None:
        """Show that a layout is done.

        Args:
            result: Result of the layout.
            done: Number of layouts that are done.
            count: Number of all layouts.
        """
        line = f"{done} of {count} layouts: {result.name}: {result.outcome}"
        if self._console.is_terminal:
            self._status.update(escape(line))
        else:
            sys.stderr.write(f"{line}\n")

    def print(self, verdict: "Verdict") -> None:
        """Print the table of all layouts.

        Args:
            verdict: The verdict.
        """
        table = Table(box=None, pad_edge=False)
        table.add_column("layout", no_wrap=True)
        table.add_column("result", no_wrap=True)
        table.add_column("", overflow="fold")
        for layout in verdict.layouts:
            color = _COLORS.get(layout.outcome, "yellow")
            text = escape(printable(layout.sentence()))
            table.add_row(escape(layout.name), f"[{color}]{layout.outcome}[/{color}]", text)
        self._console.print(table)
        bound = sorted({name for layout in verdict.layouts for name in layout.layout_bound})
        if bound:
            names = ", ".join(f"`{escape(name)}`" for name in bound[:5]) + (", …" if len(bound) > 5 else "")
            self._console.print(
                f"[yellow]initial values that depend on the layout, replaced by those of one rank: {names}[/yellow]",
                highlight=False,
            )
        changes = escape("; ".join(verdict.changes))
        self._console.print(f"[dim]changed for verification: {changes}[/dim]", highlight=False)
        self._console.print(_summary(verdict), highlight=False)


def _summary(verdict: "Verdict") -> str:
    """Return the last line: numbers of results, and what counted as equal."""
    counts: dict[str, int] = {}
    for layout in verdict.layouts:
        counts[layout.outcome] = counts.get(layout.outcome, 0) + 1
    numbers = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return f"{numbers}; tolerance {verdict.tolerance:g} of the largest value, computed in {verdict.dtype}"
