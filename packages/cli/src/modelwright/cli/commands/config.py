"""`modelwright config`: print, check, compare, migrate and convert config files."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from modelwright.cli.exit_codes import command
from modelwright.cli.options import Debug, Format, Import, Set
from modelwright.cli.user_parts import import_parts
from modelwright.config import (
    ConfigError,
    ModelConfig,
    Parallelism,
    Precision,
    Problem,
    RunConfig,
    convert_file,
    dumps,
    fingerprint,
    json_schema,
    load,
    override,
    preset,
)
from modelwright.protocols import ModelwrightError

ConfigFile = Annotated[Path, typer.Argument(metavar="FILE", help="A config file.")]

config_app = typer.Typer(help="Read and write config files.", no_args_is_help=True)


@config_app.command()
@command
def show(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A config file.")] = None,
    preset_name: Annotated[
        str | None, typer.Option("--preset", help="A preset instead of a file.", metavar="NAME")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Print every field, not only those that differ from their defaults.")
    ] = False,
    output_format: Format = "yaml",
    overrides: Set = None,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Print a preset or a file as a config to start from."""
    if (file is None) == (preset_name is None):
        raise ModelwrightError(
            "one of `FILE` and `--preset` must be given; `modelwright config presets` lists the presets."
        )
    form = _checked_format(output_format)
    import_parts(modules)
    if file is not None:
        config = load(file, overrides or ())
    else:
        config = override(RunConfig(model=preset(preset_name or "")), overrides or ())
    _print(dumps(config, format=form, full=full))


@config_app.command()
@command
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Config files.")],
    engine: Annotated[bool, typer.Option("--engine", help="Check the `engine:` fields too; loads the engine.")] = False,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Check files and report everything that is wrong with them."""
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


@config_app.command()
@command
def diff(left: ConfigFile, right: ConfigFile, modules: Import = None, debug: Debug = False) -> None:
    """Print every field that differs between two files, with both values."""
    import modelwright.config

    import_parts(modules)
    differences = modelwright.config.diff(load(left), load(right))
    _print("\n".join(map(str, differences)) if differences else "no differences")


@config_app.command()
@command
def schema(
    kind: Annotated[str, typer.Argument(help="run, or a kind of model.")] = "run",
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Print the JSON Schema of a file, for an editor."""
    import_parts(modules)
    _print(json.dumps(json_schema(kind), indent=2, ensure_ascii=False))


@config_app.command()
@command
def migrate(
    file: ConfigFile,
    write: Annotated[bool, typer.Option("--write", help="Rewrite the file; its comments are lost.")] = False,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Print a file of an older version in the installed version."""
    import modelwright.config

    import_parts(modules)
    text = modelwright.config.migrate(file, write=write)
    _print(f"{file}: rewritten" if write else text)


@config_app.command()
@command
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A run_config.yaml, or a model's as_dict() as YAML.")],
    output_format: Format = "yaml",
    overrides: Set = None,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Print a Megatron run_config.yaml as a config, and on stderr the values without a counterpart."""
    form = _checked_format(output_format)
    import_parts(modules)
    converted = convert_file(file, changes=overrides or ())
    _print(dumps(converted.config, format=form))
    lines = [f"  {unmapped}" for unmapped in converted.unmapped]
    head = "not in the result:" if lines else "nothing was left out but defaults."
    typer.echo("\n".join([head, *lines, f"  {converted.at_default} values at Megatron's defaults"]), err=True)


@config_app.command()
@command
def presets(debug: Debug = False) -> None:
    """List the presets of the installed families."""
    from rich.console import Console
    from rich.table import Table

    import modelwright.config

    table = Table("preset", "description", box=None)
    for name, function in modelwright.config.presets().items():
        table.add_row(name, (function.__doc__ or "").strip().split("\n")[0])
    Console().print(table)


def _check_engine(config: RunConfig | ModelConfig, file: Path) -> None:
    """Check the engine fields of one file, and add its name to the problems."""
    from modelwright.layers import find_backend, registered_stack, resolve

    try:
        if isinstance(config, RunConfig):
            # `te` is checked on machines that cannot use it, too.
            backend = find_backend("auto").name if config.backend == "auto" else config.backend
            spec = None if config.stack is None else registered_stack(config.stack, config.model)
            resolve(config.model, config.parallelism, config.precision, spec=spec, backend=backend)
        else:
            resolve(config, Parallelism(), Precision())
    except ConfigError as error:
        raise ConfigError(
            [Problem(one.path, one.message, source=str(file), code=one.code) for one in error.problems]
        ) from None


def _checked_format(output_format: str) -> Literal["yaml", "json"]:
    """Return a format in which a config can be written."""
    if output_format == "yaml":
        return "yaml"
    if output_format == "json":
        return "json"
    raise ModelwrightError(f"`--format` must be yaml or json, but is {output_format!r}.")


def _print(text: str) -> None:
    """Print a text without wrapping, colors or emoji."""
    typer.echo(text.rstrip("\n"))
