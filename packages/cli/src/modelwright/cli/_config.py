"""`modelwright config`: presets and files, printed as files."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from modelwright.cli._parts import import_parts
from modelwright.config import RunConfig, dumps, load, override, preset, presets
from modelwright.protocols import ModelwrightError


def show_command(
    file: Path | None,
    preset_name: str | None,
    *,
    full: bool,
    output_format: str,
    overrides: Sequence[str],
    modules: Sequence[str],
) -> None:
    """Print a config.

    Args:
        file: A config file.
        preset_name: Or a preset.
        full: Every field.
        output_format: yaml or json.
        overrides: Applied before printing.
        modules: That register parts.

    Raises:
        ModelwrightError: Neither or both are given, or what is given is wrong.
    """
    if (file is None) == (preset_name is None):
        raise ModelwrightError(
            "one of `FILE` and `--preset` must be given; `modelwright config presets` lists the presets."
        )
    if output_format not in ("yaml", "json"):
        raise ModelwrightError(f"`--format` must be yaml or json, but is {output_format!r}.")
    import_parts(modules)
    config = load(file) if file is not None else RunConfig(model=preset(preset_name or ""))
    if overrides:
        config = override(config, list(overrides))
    Console(soft_wrap=True, highlight=False, markup=False).print(
        dumps(config, format="json" if output_format == "json" else "yaml", full=full).rstrip()
    )


def presets_command() -> None:
    """Print the name and the first line of every preset."""
    table = Table("preset", "what it is", box=None)
    for name, function in sorted(presets().items()):
        table.add_row(name, (function.__doc__ or "").strip().split("\n")[0])
    Console().print(table)
