"""`modelwright doctor`: what is installed and usable here, and what each missing package would enable."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from modelwright.cli.exit_codes import command
from modelwright.cli.options import Debug

# Packages that modelwright requires: they are missing only from a broken installation.
_REQUIRED = (
    ("torch", "everything but reading configs", "pip install torch"),
    ("megatron-core", "building and training", "pip install 'megatron-core>=0.19.2,<0.20'"),
)


@command
def doctor(debug: Debug = False) -> None:
    """Report what is installed and usable here, and what each missing package would enable."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from modelwright.config import registered_kinds
    from modelwright.engine import OPTIONAL_PACKAGES

    optional = ((entry.package, entry.enables, entry.install) for entry in OPTIONAL_PACKAGES.values())
    table = Table("", "version", "enables", box=None)
    table.add_column("to install it", overflow="fold")
    for package, enables, install in (*_REQUIRED, *optional):
        found = _version(package)
        table.add_row(package, found or "[yellow]missing[/yellow]", enables, "" if found else escape(install))
    console = Console()
    console.print(table)
    console.print(f"families: {', '.join(registered_kinds()) or 'none; install modelwright-gpt'}")
    for name, look in (("CUDA", _cuda), ("engine", _engine), ("backend", _backend)):
        console.print(_tried(name, look))


def _version(package: str) -> str | None:
    """Return the installed version of a package. None: not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cuda() -> str:
    """Report the GPUs."""
    import torch

    if not torch.cuda.is_available():
        threads = torch.get_num_threads()
        return f"CUDA: not usable; models run on the CPU ({threads} threads) through the CPU runtime"
    return f"CUDA: {torch.cuda.device_count()} device(s), {torch.cuda.get_device_name(0)}"


def _engine() -> str:
    """Report that Megatron-Core can be imported."""
    from modelwright.engine import load_engine

    load_engine()
    return "engine: imports"


def _backend() -> str:
    """Report the backend that `auto` selects."""
    from rich.markup import escape

    from modelwright.layers import missing_for_te

    missing = missing_for_te()
    return f"backend auto: torch, because {escape(' and '.join(missing))}" if missing else "backend auto: te"


def _tried(what: str, look: Callable[[], str]) -> str:
    """Return a report, or the exception that prevented it, because a broken installation is the common case."""
    from rich.markup import escape

    try:
        return look()
    except Exception as error:  # noqa: BLE001 - any exception belongs in the report
        return f"{what}: [red]broken[/red], {type(error).__name__}: {escape(str(error))}"
