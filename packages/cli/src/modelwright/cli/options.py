"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(metavar="FILE", help="Config of a run: YAML, JSON or TOML.")]
"""Config of a run."""

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override a field by its dotted path; may be repeated."),
]
"""Overrides of single fields."""

Import = Annotated[
    list[str] | None,
    typer.Option("--import", metavar="MODULE", help="Import a module that registers parts; may be repeated."),
]
"""Modules with custom parts."""

Debug = Annotated[bool, typer.Option("--debug", help="Print tracebacks and the engine's warnings.")]
"""Detailed output for debugging."""

Format = Annotated[str, typer.Option("--format", help="yaml or json.")]
"""Output format of a config."""
