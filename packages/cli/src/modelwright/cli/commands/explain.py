"""`modelwright explain`: the tree of slots of a model, what fills each, and where every argument comes from.

Nothing is built and no process group is made: the specs are read, not called.
"""

from pathlib import Path
from typing import Any

from modelwright.cli.commands.train import quiet_engine
from modelwright.cli.run_file import load_run
from modelwright.protocols import ModelwrightError, StackBuilder, explain


def explain_command(file: Path, overrides: tuple[str, ...], modules: tuple[str, ...], *, debug: bool) -> None:
    """Print the tree.

    Args:
        file: Config of a run.
        overrides: `a.b=value` each.
        modules: That register parts.
        debug: Let the engine's warnings through.

    Raises:
        ModelwrightError: Something the user can mend, or a model whose builder has no spec.
    """
    run = load_run(file, overrides, modules)
    with quiet_engine(debug=debug):
        from modelwright.layers import StackModelBuilder
        from modelwright.training import builder_of

        builder = builder_of(run)
        if not isinstance(builder, StackModelBuilder):
            raise ModelwrightError(
                f"`{run.model.kind}` must be built from a stack spec to be explained, but `{type(builder).__name__}` "
                "builds it without one; call `modelwright.protocols.explain` with one of its parts instead."
            )
        stack: StackModelBuilder[Any] = builder
        pattern = stack.shape(run.parallelism).pattern
        text = explain(stack.spec, StackBuilder)
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"{run.model.kind}, stack pattern {pattern}")
    console.print(text)
