"""`modelwright generate`: continue a text with the newest checkpoint of a run, on one process."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from modelwright.cli.exit_codes import command
from modelwright.cli.options import NO_MEMORY_CHECK, Debug, Import, NoMemoryCheck, NoVerify
from modelwright.cli.printable import printable
from modelwright.cli.user_parts import import_parts


def _above_0(value: float | None) -> float | None:
    """Refuse 0, at which no token would be left."""
    if value == 0:
        raise typer.BadParameter("0.0 is not in the range 0<x<=1.")
    return value


@command
def generate(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder that `train` wrote.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "The ",
    tokens: Annotated[int, typer.Option(help="Number of tokens to add.", min=1)] = 200,
    temperature: Annotated[
        float, typer.Option(help="0 selects the most likely token each time; higher values give more variety.", min=0.0)
    ] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Sample among the K most likely tokens only.", min=1)] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample among the most likely tokens with total probability P.",
            min=0.0,
            max=1.0,
            callback=_above_0,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for sampling.")] = 0,
    no_verify: NoVerify = False,
    no_memory_check: NoMemoryCheck = False,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Continue a text with the newest checkpoint of a run."""
    import_parts(modules)
    import modelwright.training
    from modelwright.distributed import finalize
    from modelwright.engine import device_runtime
    from modelwright.training import Sampling, load_for_inference

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):  # of a job around this command, which is one process
        os.environ.pop(name, None)
    if not no_memory_check:
        _check_memory(run_dir, verify=not no_verify)
    with device_runtime():
        loaded = load_for_inference(run_dir, verify=not no_verify)
        _write(prompt, modelwright.training.generate(loaded, prompt, tokens=tokens, sampling=sampling))
        finalize()


def _check_memory(run_dir: Path, *, verify: bool) -> None:
    """Refuse a model that cannot fit, and state on stderr what a large one needs."""
    from modelwright.training import (
        check_memory,
        checkpoint_config,
        inference_bytes,
        latest_checkpoint,
        naming_whole_checkpoint,
    )

    with naming_whole_checkpoint(run_dir):
        _, path = latest_checkpoint(run_dir, verify=verify)
        run = checkpoint_config(path, verify=verify)
    if told := check_memory(inference_bytes(run), f"the model of `{run_dir}`", option=NO_MEMORY_CHECK):
        typer.echo(printable(told), err=True)


def _write(prompt: str, pieces: Iterator[str]) -> None:
    """Print the text as it is generated."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(printable(prompt), end="")
    for piece in pieces:
        console.print(printable(piece), end="")
    console.print()
