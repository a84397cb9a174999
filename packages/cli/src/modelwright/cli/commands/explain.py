"""`modelwright explain`: the tree of slots of a model, what fills each, and where every argument comes from.

It reads the specs without calling them: it builds no layer and creates no process group.
"""

from typing import Any

import typer

import modelwright.protocols
from modelwright.cli.exit_codes import command
from modelwright.cli.options import Debug, File, Import, Set
from modelwright.cli.run_file import load_run
from modelwright.protocols import ModelwrightError


@command
def explain(file: File, overrides: Set = None, modules: Import = None, debug: Debug = False) -> None:
    """Print every slot of a model: what fills it, and where each argument of its constructor comes from."""
    run = load_run(file, overrides, modules)
    from modelwright.layers import StackModelBuilder
    from modelwright.training import builder_of

    builder = builder_of(run)
    if not isinstance(builder, StackModelBuilder):
        raise ModelwrightError(
            f"`{run.model.kind}` must be built from a stack spec to be explained, but `{type(builder).__name__}` "
            "builds it without one; call `modelwright.protocols.explain` with one of its parts instead."
        )
    stack: StackModelBuilder[Any] = builder
    typer.echo(f"{run.model.kind}, stack pattern {stack.shape(run.parallelism).pattern}")
    typer.echo(modelwright.protocols.explain(stack.spec, modelwright.protocols.StackBuilder))
