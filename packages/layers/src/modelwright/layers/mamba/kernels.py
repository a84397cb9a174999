"""Kernels of a Mamba-2 mixer: its convolution, scan and gated norm, from this package or from mamba-ssm.

Both sets have the same signatures, those of the packages mamba-ssm and causal-conv1d. The kernels `torch` run
everywhere. The kernels `mamba_ssm` need those two packages and CUDA.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from typing import Any, final

import torch

from modelwright.engine import OPTIONAL_PACKAGES
from modelwright.layers.slot_check import check_slots
from modelwright.protocols import (
    CausalConvolutionInterface,
    CausalConvolutionStepInterface,
    GatedNormBuilder,
    ModelwrightError,
    ScanInterface,
    ScanStepInterface,
    did_you_mean,
)

NAMES = ("auto", "torch", "mamba_ssm")
_PACKAGES = (OPTIONAL_PACKAGES["mamba-ssm"], OPTIONAL_PACKAGES["causal-conv1d"])

_CONV_WIDTHS = (2, 3, 4)
"""Widths of causal-conv1d's kernels (csrc/causal_conv1d.cpp: "causal_conv1d only supports width between 2 and 4")."""

_log = logging.getLogger(__name__)


def _torch(module: str, name: str) -> Callable[[], Any]:
    """Return a function that loads a part of this folder."""
    return lambda: getattr(import_module(f"modelwright.layers.mamba.{module}"), name)


@final
@dataclass(frozen=True, kw_only=True)
class MambaKernels:
    """Functions in a mixer, and its gated norm; the defaults are those of this package, in PyTorch."""

    scan: ScanInterface = field(default_factory=_torch("scan", "ssd_scan"))
    """Scan of full sequences."""
    scan_step: ScanStepInterface = field(default_factory=_torch("scan", "ssd_step"))
    """Scan of one or a few tokens, from a state."""
    convolution: CausalConvolutionInterface = field(default_factory=_torch("causal_convolution", "causal_conv"))
    """Convolution of full sequences."""
    convolution_step: CausalConvolutionStepInterface = field(
        default_factory=_torch("causal_convolution", "causal_conv_step")
    )
    """Convolution of one or a few tokens, from a state."""
    norm: GatedNormBuilder = field(default_factory=_torch("gated_norm", "GatedRMSNorm"))
    """Gate and norm after the scan."""

    def __post_init__(self) -> None:
        check_slots(self)


@cache
def torch_kernels() -> MambaKernels:
    """Return the kernels in PyTorch, and load them at the first call: a model without Mamba-2 never does."""
    return MambaKernels()


def find_kernels(name: str, *, conv_width: int = 4) -> MambaKernels:
    """Return the kernels of a name.

    Args:
        name: `torch`, `mamba_ssm` or `auto`. `auto` is `mamba_ssm` where those can be used, else `torch`, and logs its
            choice.
        conv_width: Width of the convolution, in positions.

    Returns:
        The functions.

    Raises:
        ModelwrightError: The kernels do not exist or cannot be used here. The message names what is missing.
    """
    if name not in NAMES:
        near = did_you_mean(name, NAMES) or "."
        raise ModelwrightError(f"`kernels` must be {', '.join(NAMES[:-1])} or {NAMES[-1]}, but is {name!r}{near}")
    if name == "torch":
        return torch_kernels()
    missing = missing_for_kernels(conv_width)
    if name == "auto":
        reason = (
            f"`mamba_ssm` cannot be used: {' and '.join(missing)}" if missing else "its packages and CUDA are available"
        )
        _log.info("kernels auto uses %s, because %s", "torch" if missing else "mamba_ssm", reason)
        return torch_kernels() if missing else _mamba_ssm()
    if missing:
        raise ModelwrightError(
            f"`kernels: mamba_ssm` cannot be used here, because {' and '.join(missing)}; use `torch`, which runs "
            "everywhere, or `auto`, which uses `mamba_ssm` where it can."
        )
    return _mamba_ssm()


def missing_for_kernels(conv_width: int = 4) -> list[str]:
    """Return what prevents the use of the kernels `mamba_ssm` here.

    Args:
        conv_width: Width of the convolution, in positions.

    Returns:
        One clause for each reason; empty if the kernels can be used.
    """
    absent = [package for package in _PACKAGES if not package.is_installed]
    missing: list[str] = []
    if absent:
        verb = "are" if len(absent) > 1 else "is"
        names = " and ".join(package.package for package in absent)
        missing.append(f"{names} {verb} not installed ({absent[0].install})")
    if not torch.cuda.is_available():
        missing.append("CUDA is not usable (it needs a GPU and its driver)")
    if conv_width not in _CONV_WIDTHS:
        widths = ", ".join(map(str, _CONV_WIDTHS))
        missing.append(f"causal-conv1d convolves {widths} positions, not the {conv_width} of `conv_width`")
    return missing


def _mamba_ssm() -> MambaKernels:
    """Return the kernels; a function, because it imports the packages. The steps and the norm are the engine's."""
    engine = import_module("megatron.core.ssm.mamba_mixer")
    return MambaKernels(
        scan=import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined,
        scan_step=engine.selective_state_update,
        convolution=import_module("causal_conv1d").causal_conv1d_fn,
        convolution_step=partial(engine.causal_conv1d_update, conv_state_indices=None),
        norm=engine.ExtendedRMSNorm,
    )
