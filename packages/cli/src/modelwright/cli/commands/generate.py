"""`modelwright generate`: the newest checkpoint of a run, on one process, continuing a text."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelwright.cli.commands.train import quiet_engine
from modelwright.cli.user_parts import import_parts


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """The command line of `generate`."""

    run_dir: Path
    prompt: str
    tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    modules: tuple[str, ...]
    debug: bool


def generate_command(options: GenerateOptions) -> None:
    """Load, generate, print as it comes.

    Args:
        options: The command line.

    Raises:
        ModelwrightError: There is no whole checkpoint, or the prompt is empty.
    """
    import_parts(options.modules)
    with quiet_engine(debug=options.debug):
        from modelwright.distributed import finalize
        from modelwright.engine import device_runtime
        from modelwright.training import Sampling, generate, load_for_inference

        sampling = Sampling(
            temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, seed=options.seed
        )
        with device_runtime():
            loaded = load_for_inference(options.run_dir)
            _write(options.prompt, generate(loaded, options.prompt, tokens=options.tokens, sampling=sampling))
            finalize()


def _write(prompt: str, pieces: Iterator[str]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(prompt, end="")
    for piece in pieces:
        console.print(piece, end="")
    console.print()
