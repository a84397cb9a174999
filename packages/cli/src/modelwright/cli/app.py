"""The commands and their options. Each hands over to a module of its own, which imports what it needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from modelwright.cli.exit_codes import guarded

app = typer.Typer(
    help="Build and train language models on Megatron-Core, from one file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Read and write config files.", no_args_is_help=True)
app.add_typer(config_app, name="config")

File = Annotated[Path, typer.Argument(metavar="FILE", help="Config of a run: YAML, JSON or TOML.")]
ConfigFile = Annotated[Path, typer.Argument(metavar="FILE", help="A config file.")]
OptionalFile = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="Config of a run; may be left out with --resume.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override a field by its dotted path; may be repeated."),
]
Import = Annotated[
    list[str] | None,
    typer.Option("--import", metavar="MODULE", help="Import a module that registers parts; may be repeated."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Print tracebacks and the engine's own warnings.")]


def _exit(command: Callable[[], None], *, debug: bool) -> NoReturn:
    """Run a command and end the program with its exit code."""
    raise typer.Exit(guarded(command, debug=debug))


@app.command()
def train(
    file: OptionalFile = None,
    steps: Annotated[int | None, typer.Option(help="Override train.steps.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; runs/<name>-<time> when not given.", metavar="DIR")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in DIR from its newest checkpoint.", metavar="DIR")
    ] = None,
    overrides: Set = None,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Train a model on text, on as many local processes as its parallelism needs, or as one rank of torchrun's."""
    from modelwright.cli.commands.train import TrainOptions, train_command

    options = TrainOptions(
        file=file,
        steps=steps,
        out=out,
        resume=resume,
        overrides=tuple(overrides or ()),
        modules=tuple(modules or ()),
        debug=debug,
    )
    _exit(lambda: train_command(options), debug=debug)


@app.command()
def build(
    file: File,
    svg: Annotated[Path | None, typer.Option(help="Draw the split into stages.", metavar="FILE")] = None,
    overrides: Set = None,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Build a model, run one forward and backward, and print what every rank holds."""
    from modelwright.cli.commands.build import build_command

    _exit(lambda: build_command(file, tuple(overrides or ()), tuple(modules or ()), svg=svg, debug=debug), debug=debug)


@app.command()
def generate(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder that `train` wrote.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "The ",
    tokens: Annotated[int, typer.Option(help="How many tokens to add.", min=1)] = 200,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest token each time; higher is more varied.", min=0.0)
    ] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Sample among the K likeliest tokens only.", min=1)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample among the likeliest tokens that make up P.", min=0.0, max=1.0)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Continue a text with the newest checkpoint of a run."""
    from modelwright.cli.commands.generate import GenerateOptions, generate_command

    options = GenerateOptions(
        run_dir=run_dir,
        prompt=prompt,
        tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        modules=tuple(modules or ()),
        debug=debug,
    )
    _exit(lambda: generate_command(options), debug=debug)


@config_app.command("show")
def config_show(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A config file.")] = None,
    preset: Annotated[str | None, typer.Option(help="A preset instead of a file.", metavar="NAME")] = None,
    full: Annotated[bool, typer.Option("--full", help="Every field, not only those off their default.")] = False,
    output_format: Annotated[str, typer.Option("--format", help="yaml or json.")] = "yaml",
    overrides: Set = None,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Print a preset or a file as a config to start from."""
    from modelwright.cli.commands.config import show_command

    _exit(
        lambda: show_command(
            file, preset, full=full, output_format=output_format, overrides=overrides or (), modules=modules or ()
        ),
        debug=debug,
    )


@config_app.command("validate")
def config_validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Config files.")],
    engine: Annotated[bool, typer.Option("--engine", help="Check the `engine:` fields too; loads the engine.")] = False,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Check files and say everything that is wrong with them."""
    from modelwright.cli.commands.config import validate_command

    _exit(lambda: validate_command(files, engine=engine, modules=modules or ()), debug=debug)


@config_app.command("diff")
def config_diff(left: ConfigFile, right: ConfigFile, modules: Import = None, debug: Debug = False) -> None:
    """Print every field in which two files differ, with both values."""
    from modelwright.cli.commands.config import diff_command

    _exit(lambda: diff_command(left, right, modules=modules or ()), debug=debug)


@config_app.command("schema")
def config_schema(
    kind: Annotated[str, typer.Argument(help="run, or a kind of model.")] = "run",
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Print the JSON Schema of a file, for an editor."""
    from modelwright.cli.commands.config import schema_command

    _exit(lambda: schema_command(kind, modules=modules or ()), debug=debug)


@config_app.command("migrate")
def config_migrate(
    file: ConfigFile,
    write: Annotated[bool, typer.Option("--write", help="Rewrite the file; its comments are lost.")] = False,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Print a file of an older version in the words of the installed one."""
    from modelwright.cli.commands.config import migrate_command

    _exit(lambda: migrate_command(file, write=write, modules=modules or ()), debug=debug)


@config_app.command("convert")
def config_convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A run_config.yaml, or a model's as_dict() as YAML.")],
    output_format: Annotated[str, typer.Option("--format", help="yaml or json.")] = "yaml",
    overrides: Set = None,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Print a Megatron run_config.yaml as a config, and on stderr what has no counterpart."""
    from modelwright.cli.commands.config import convert_command

    _exit(
        lambda: convert_command(file, output_format=output_format, overrides=overrides or (), modules=modules or ()),
        debug=debug,
    )


@config_app.command("presets")
def config_presets(debug: Debug = False) -> None:
    """List the presets of the installed families."""
    from modelwright.cli.commands.config import presets_command

    _exit(presets_command, debug=debug)


@app.command()
def explain(file: File, overrides: Set = None, modules: Import = None, debug: Debug = False) -> None:
    """Print every slot of a model: what fills it, and where each argument of its constructor comes from."""
    from modelwright.cli.commands.explain import explain_command

    _exit(lambda: explain_command(file, tuple(overrides or ()), tuple(modules or ()), debug=debug), debug=debug)


@app.command()
def doctor(debug: Debug = False) -> None:
    """Say what is installed and usable here, and what each missing thing would enable."""
    from modelwright.cli.commands.doctor import doctor_command

    _exit(doctor_command, debug=debug)
