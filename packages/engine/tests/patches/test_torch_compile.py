"""Errors before the engine is loaded, for versions of torch with which it cannot run."""

import subprocess
import sys

import pytest
import torch

from tests.messages import facts

CODE = """
import torch
torch.__version__ = torch.__version__.__class__({version!r})
from modelwright.engine import load_engine
load_engine()
"""


def said(version: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE.format(version=version)],
        capture_output=True,
        text=True,
        check=False,
    )
    return facts(done.stderr.splitlines()[-1]) if done.returncode else "imported"


def test_a_torch_that_is_too_old_is_named_with_the_remedy() -> None:
    assert said("2.6.0a0+nv25.01") == (
        "modelwright.protocols.errors.ModelwrightError `torch` 2.11 2.6 .0a0 nv25.01 `pip install 'torch>=2.11,<3'`"
    )


@pytest.mark.proof
def test_the_oldest_that_is_supported_is_taken() -> None:
    assert said("2.11.0") == "imported"


PROBE = """
import torch
{first}
import megatron.core.models.hybrid.hybrid_model
from megatron.core.fusions import fused_bias_swiglu
print(hasattr(fused_bias_swiglu.swiglu, "_torchdynamo_orig_callable"), torch.compile.__module__)
"""


def compiled(first: str) -> list[str]:
    """Print whether a function of the engine is compiled, and the module of `torch.compile`."""
    command = [sys.executable, "-W", "ignore", "-c", PROBE.format(first=first)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_the_engine_is_imported_uncompiled_and_torch_is_as_before() -> None:
    expected = str(torch.cuda.is_available())  # a GPU runs the compiled functions
    assert compiled("from modelwright.engine import load_engine; load_engine()") == [expected, "torch"]


def test_modules_of_the_engine_that_are_imported_later_are_uncompiled_too() -> None:
    """None of them loads torch's compiler, which takes as long as the engine itself."""
    code = (
        "import sys; from modelwright.engine import load_engine; load_engine(); "
        "import megatron.core.fusions.fused_bias_dropout, megatron.core.transformer.multi_latent_attention; "
        "print('torch._inductor' in sys.modules)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert printed == [str(torch.cuda.is_available())]


@pytest.mark.proof
def test_without_the_patch_the_engine_still_compiles() -> None:
    """The reason for the patch; when the engine imports without compiling, this fails and the patch can go."""
    assert compiled("") == ["True", "torch"]
