"""`modelwright verify`: train a model on every layout and on one rank, and compare everything."""

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from modelwright.cli.exit_codes import FAILED, command
from modelwright.cli.options import Debug, File, Import, Set
from modelwright.cli.output_file import check_output_file
from modelwright.cli.reports.verdict_page import PAGE_MARK, verdict_page
from modelwright.cli.run_file import load_run
from modelwright.cli.user_parts import GROUP

JSON_MARK = '"update_tolerance": '
"""Text near the beginning of every verdict in JSON."""


@command
def verify(
    file: File,
    layouts: Annotated[
        list[str] | None,
        typer.Option("--layouts", metavar="NAME", help="Layout, or shell pattern; may be repeated. Default: all."),
    ] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Largest number of ranks of a layout.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps to train.")] = 2,
    float64: Annotated[bool, typer.Option("--float64", help="Compute in float64, with a smaller tolerance.")] = False,
    no_shrink: Annotated[bool, typer.Option("--no-shrink", help="Verify the model of FILE in its own size.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the verdict as JSON.", metavar="FILE")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the verdict as a page with the curves.", metavar="FILE")
    ] = None,
    overrides: Set = None,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Check that a model computes the same on every layout of its ranks; exit code 1 if it does not."""
    run = load_run(file, overrides, modules)
    if json is not None:
        check_output_file("--json", json, mark=JSON_MARK)
    if html is not None:
        check_output_file("--html", html, mark=PAGE_MARK)
    import modelwright.verify
    from modelwright.cli.reports.verdict_table import VerdictTable

    with VerdictTable(run.name or file.stem) as table:
        verdict = modelwright.verify.verify(
            run,
            layouts=layouts or "all",
            ranks=ranks,
            steps=steps,
            float64=float64,
            shrink=not no_shrink,
            modules=[*(point.value for point in entry_points(group=GROUP)), *(modules or ())],
            progress=table.add,
        )
    table.print(verdict)
    if json is not None:
        json.write_text(verdict.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if html is not None:
        html.write_text(verdict_page(verdict), encoding="utf-8")
    if not verdict.is_equal:
        raise typer.Exit(FAILED)
