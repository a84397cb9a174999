"""`modelwright config`: presets and files, printed, checked, compared, brought up to date and converted."""

import json
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from modelwright.cli.user_parts import import_parts
from modelwright.config import (
    ConfigError,
    ModelConfig,
    Parallelism,
    Precision,
    Problem,
    RunConfig,
    convert_file,
    diff,
    dumps,
    fingerprint,
    json_schema,
    load,
    migrate,
    override,
    preset,
    presets,
)
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
    _check_format(output_format)
    import_parts(modules)
    config = load(file) if file is not None else RunConfig(model=preset(preset_name or ""))
    if overrides:
        config = override(config, list(overrides))
    _print(dumps(config, format="json" if output_format == "json" else "yaml", full=full))


def presets_command() -> None:
    """Print the name and the first line of every preset."""
    table = Table("preset", "what it is", box=None)
    for name, function in sorted(presets().items()):
        table.add_row(name, (function.__doc__ or "").strip().split("\n")[0])
    Console().print(table)


def validate_command(files: Sequence[Path], *, engine: bool, modules: Sequence[str]) -> None:
    """Say of each file that it is valid, and what it holds.

    Args:
        files: Config files.
        engine: Check the `engine:` fields against the installed megatron-core too.
        modules: That register parts.

    Raises:
        ConfigError: With everything that is wrong with all of the files.
    """
    import_parts(modules)
    problems: list[Problem] = []
    for file in files:
        try:
            config = load(file)
            if engine:
                _check_engine(config, file)
        except ConfigError as error:
            problems += error.problems
        else:
            what = f"a run of a `{config.model.kind}`" if isinstance(config, RunConfig) else f"a `{config.kind}`"
            _print(f"{file}: valid, {what}, fingerprint {fingerprint(config)}")
    if problems:
        raise ConfigError(problems)


def diff_command(left: Path, right: Path, *, modules: Sequence[str]) -> None:
    """Print every field that differs.

    Args:
        left: A config file.
        right: Another.
        modules: That register parts.

    Raises:
        ConfigError: One of them is not valid.
    """
    import_parts(modules)
    differences = diff(load(left), load(right))
    _print("\n".join(map(str, differences)) if differences else "no differences")


def schema_command(kind: str, *, modules: Sequence[str]) -> None:
    """Print the JSON Schema of a kind of file.

    Args:
        kind: `run`, or a kind of model.
        modules: That register kinds.

    Raises:
        ConfigError: There is no such kind.
    """
    import_parts(modules)
    _print(json.dumps(json_schema(kind), indent=2, ensure_ascii=False))


def migrate_command(file: Path, *, write: bool, modules: Sequence[str]) -> None:
    """Print a file in the words of the installed versions, or rewrite it.

    Args:
        file: A config file of any version.
        write: Replace the file instead of printing.
        modules: That register kinds.

    Raises:
        ConfigError: It is not valid, or newer than what is installed.
    """
    import_parts(modules)
    text = migrate(file, write=write)
    _print(f"{file}: rewritten" if write else text)


def convert_command(file: Path, *, output_format: str, overrides: Sequence[str], modules: Sequence[str]) -> None:
    """Print an upstream config as one of ours, and on stderr what was left behind.

    Args:
        file: A `run_config.yaml`, or a dictionary of an upstream model config.
        output_format: yaml or json.
        overrides: For what the file lacks.
        modules: That register kinds.

    Raises:
        ModelwrightError: It cannot be converted.
    """
    _check_format(output_format)
    import_parts(modules)
    converted = convert_file(file, changes=overrides)
    _print(dumps(converted.config, format="json" if output_format == "json" else "yaml"))
    lines = [f"  {unmapped}" for unmapped in converted.unmapped]
    head = "not in the result:" if lines else "nothing was left behind but defaults."
    typer.echo("\n".join([head, *lines, f"  {converted.at_default} values at upstream's defaults"]), err=True)


def _check_engine(config: RunConfig | ModelConfig, file: Path) -> None:
    """Check the engine fields of one file, and say whose they are."""
    from modelwright.layers import resolve

    try:
        if isinstance(config, RunConfig):
            resolve(config.model, config.parallelism, config.precision)
        else:
            resolve(config, Parallelism(), Precision())
    except ConfigError as error:
        raise ConfigError([Problem(one.path, one.message, source=str(file)) for one in error.problems]) from None


def _check_format(output_format: str) -> None:
    """Refuse any format but the two that are written."""
    if output_format not in ("yaml", "json"):
        raise ModelwrightError(f"`--format` must be yaml or json, but is {output_format!r}.")


def _print(text: str) -> None:
    """Print as it is: no wrapping, no colors, no emoji for what looks like its name."""
    typer.echo(text.rstrip("\n"))
