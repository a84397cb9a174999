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

NoVerify = Annotated[
    bool, typer.Option("--no-verify", help="Load a checkpoint without comparing it with its checksums.")
]
"""Loading without verification."""

NO_MEMORY_CHECK = "--no-memory-check"
NoMemoryCheck = Annotated[
    bool, typer.Option(NO_MEMORY_CHECK, help="Start even if the memory of this machine seems too small.")
]
"""Starting without the check of memory."""

Format = Annotated[str, typer.Option("--format", help="yaml or json.")]
"""Output format of a config."""
