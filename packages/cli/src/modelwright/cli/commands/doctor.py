"""`modelwright doctor`: what is installed and usable here, and what each missing thing would enable."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from modelwright.config import registered_kinds


@dataclass(frozen=True)
class _Component:
    distribution: str
    enables: str
    install: str


_KERNELS = "pip install --no-build-isolation 'modelwright-mamba[kernels]'"
_COMPONENTS = (
    _Component("torch", "everything but reading configs", "pip install torch"),
    _Component("megatron-core", "building and training", "pip install 'megatron-core>=0.19.2,<0.20'"),
    _Component("psutil", "saving checkpoints", "pip install psutil"),
    _Component(
        "transformer-engine",
        "backend `te`: fused kernels on a GPU",
        "pip install --no-build-isolation 'modelwright-layers[te]'",
    ),
    _Component("mamba-ssm", "the GPU kernels of Mamba-2's scan", _KERNELS),
    _Component("causal-conv1d", "the GPU kernels of Mamba-2's convolution", _KERNELS),
    _Component("einops", "Megatron-FSDP", "pip install einops"),
    _Component("transformers", "comparing with Hugging Face models", "pip install transformers"),
)


def doctor_command() -> None:
    """Print the report."""
    console = Console()
    table = Table("", "version", "enables", box=None)
    table.add_column("to install it", overflow="fold")
    for component in _COMPONENTS:
        found = _version(component.distribution)
        table.add_row(
            component.distribution,
            found or "[yellow]missing[/yellow]",
            component.enables,
            "" if found else escape(component.install),
        )
    console.print(table)
    console.print(f"families: {', '.join(registered_kinds()) or 'none; install modelwright-gpt'}")
    for line in (_cuda(), _engine(), _backend()):
        console.print(line)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _cuda() -> str:
    def look() -> str:
        import torch

        if not torch.cuda.is_available():
            return (
                f"CUDA: not usable; models run on the CPU ({torch.get_num_threads()} threads) through the CPU runtime"
            )
        return f"CUDA: {torch.cuda.device_count()} device(s), {torch.cuda.get_device_name(0)}"

    return _tried("CUDA", look)


def _engine() -> str:
    def look() -> str:
        from modelwright.cli.commands.train import quiet_engine

        with quiet_engine(debug=False):
            import_module("megatron.core.models.hybrid.hybrid_model")

        return "engine: imports"

    return _tried("engine", look)


def _backend() -> str:
    def look() -> str:
        from modelwright.cli.commands.train import quiet_engine

        with quiet_engine(debug=False):
            from modelwright.layers import missing_for_te

            missing = missing_for_te()
        return f"backend auto: torch, because {escape(' and '.join(missing))}" if missing else "backend auto: te"

    return _tried("backend", look)


def _tried(what: str, look: Callable[[], str]) -> str:
    """What `look` says, or why it could not: a broken installation is what a doctor is asked about."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - the report is the point
        return f"{what}: [red]broken[/red], {type(error).__name__}: {escape(str(error))}"
