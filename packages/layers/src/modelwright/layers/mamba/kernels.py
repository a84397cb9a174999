"""Which functions a Mamba-2 mixer computes with: the parts of this package, or the kernels of mamba-ssm and others.

Both take the same arguments, those of the kernels. `torch` runs anywhere; `mamba_ssm` needs the packages mamba-ssm and
causal-conv1d, and CUDA.
"""

import logging
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import final

import torch

from modelwright.engine import as_engine, check_slots
from modelwright.layers.mamba.causal_convolution import causal_conv, causal_conv_step
from modelwright.layers.mamba.gated_norm import GatedRMSNorm
from modelwright.layers.mamba.scan import ssd_scan, ssd_step
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
INSTALL = "pip install --no-build-isolation 'modelwright-mamba[kernels]'"
_PACKAGES = {"mamba_ssm": "mamba-ssm", "causal_conv1d": "causal-conv1d"}

_CONV_WIDTHS = (2, 3, 4)
"""Of causal-conv1d's kernels (csrc/causal_conv1d.cpp: "causal_conv1d only supports width between 2 and 4")."""

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True, kw_only=True)
class MambaKernels:
    """The slots of a mixer that hold a function, and its gated norm; the defaults are this package's, in PyTorch."""

    scan: ScanInterface = ssd_scan
    """Over whole sequences."""
    scan_step: ScanStepInterface = ssd_step
    """The same by a few tokens, from a state."""
    convolution: CausalConvolutionInterface = causal_conv
    """Over whole sequences."""
    convolution_step: CausalConvolutionStepInterface = causal_conv_step
    """The same by a few tokens, from a state."""
    norm: GatedNormBuilder = GatedRMSNorm
    """Gates and normalizes what the scan gives."""

    def __post_init__(self) -> None:
        check_slots(self)


TORCH_KERNELS = MambaKernels()


def find_kernels(name: str, *, conv_width: int = 4) -> MambaKernels:
    """The kernels of a name.

    Args:
        name: `torch`, `mamba_ssm`, or `auto`, which is `mamba_ssm` where that can be used and says in the log what it
            took.
        conv_width: Positions that the convolution is to see.

    Returns:
        The functions.

    Raises:
        ModelwrightError: There are no such kernels, or they cannot be used here; says what is missing.
    """
    if name not in NAMES:
        near = did_you_mean(name, NAMES) or "."
        raise ModelwrightError(f"`kernels` must be {', '.join(NAMES[:-1])} or {NAMES[-1]}, but is {name!r}{near}")
    if name == "torch":
        return TORCH_KERNELS
    missing = missing_for_kernels(conv_width)
    if name == "auto":
        reason = (
            f"`mamba_ssm` cannot be used: {' and '.join(missing)}" if missing else "its packages and CUDA are there"
        )
        _log.info("kernels auto takes %s, because %s", "torch" if missing else "mamba_ssm", reason)
        return TORCH_KERNELS if missing else _mamba_ssm()
    if missing:
        raise ModelwrightError(
            f"`kernels: mamba_ssm` cannot be used here, because {' and '.join(missing)}; use `torch`, which runs "
            "anywhere, or `auto`, which takes `mamba_ssm` where it can be used."
        )
    return _mamba_ssm()


def missing_for_kernels(conv_width: int = 4) -> list[str]:
    """What keeps the kernels `mamba_ssm` from being used here, in clauses; nothing if they can be used."""
    absent = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    missing: list[str] = []
    if absent:
        verb = "are" if len(absent) > 1 else "is"
        missing.append(f"{' and '.join(absent)} {verb} not installed ({INSTALL})")
    if not torch.cuda.is_available():
        missing.append("CUDA is not usable (it needs a GPU and its driver)")
    if conv_width not in _CONV_WIDTHS:
        widths = ", ".join(map(str, _CONV_WIDTHS))
        missing.append(f"causal-conv1d convolves {widths} positions, not the {conv_width} of `conv_width`")
    return missing


def _mamba_ssm() -> MambaKernels:
    """Only here, because the packages are imported by it; the steps and the norm are the engine's, made for them."""
    engine = import_module("megatron.core.ssm.mamba_mixer")
    convolution = import_module("causal_conv1d").causal_conv1d_fn
    scan = import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    return MambaKernels(
        scan=as_engine(scan),
        scan_step=as_engine(engine.selective_state_update),
        convolution=as_engine(convolution),
        convolution_step=as_engine(partial(engine.causal_conv1d_update, conv_state_indices=None)),
        norm=as_engine(engine.ExtendedRMSNorm),
    )
