"""Optional packages: the table of packages that modelwright can use, what each enables, and how to install it.

Backends, kernels and `modelwright doctor` read their install commands here.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final, final

__all__ = ["OPTIONAL_PACKAGES", "OptionalPackage"]

_TE = "modelwright-layers[te]"
_KERNELS = "modelwright-mamba[kernels]"


@final
@dataclass(frozen=True, kw_only=True)
class OptionalPackage:
    """One optional package."""

    module: str
    """Import name."""
    package: str
    """Name of the distribution."""
    enables: str
    """Purpose of the package, as a noun phrase."""
    extra: str | None = None
    """Requirement whose extra includes the package, such as `modelwright-layers[te]`. None: there is no extra."""
    install: str
    """Shell command that installs the package."""

    @property
    def is_installed(self) -> bool:
        """True if the package can be found, without importing it."""
        return find_spec(self.module) is not None


OPTIONAL_PACKAGES: Final = MappingProxyType(
    {
        entry.package: entry
        for entry in (
            OptionalPackage(
                module="psutil",
                package="psutil",
                enables="the check that a run fits into memory",
                install="pip install psutil",
            ),
            OptionalPackage(
                module="transformer_engine",
                package="transformer-engine",
                enables="backend `te`: fused kernels on a GPU",
                extra=_TE,
                install=f"pip install --no-build-isolation '{_TE}'",
            ),
            OptionalPackage(
                module="mamba_ssm",
                package="mamba-ssm",
                enables="the GPU kernels of Mamba-2's scan",
                extra=_KERNELS,
                install=f"pip install --no-build-isolation '{_KERNELS}'",
            ),
            OptionalPackage(
                module="causal_conv1d",
                package="causal-conv1d",
                enables="the GPU kernels of Mamba-2's convolution",
                extra=_KERNELS,
                install=f"pip install --no-build-isolation '{_KERNELS}'",
            ),
            OptionalPackage(module="einops", package="einops", enables="Megatron-FSDP", install="pip install einops"),
            OptionalPackage(
                module="transformers",
                package="transformers",
                enables="comparing with Hugging Face models",
                install="pip install transformers",
            ),
        )
    }
)
"""Every optional package by the name of its distribution."""
