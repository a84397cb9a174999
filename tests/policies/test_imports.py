"""What an import loads, seen by a fresh interpreter: import-linter sees only what this repository says itself."""

import subprocess
import sys

import pytest

from tests.policies.repository import PACKAGES

HEAVY = {"torch", "megatron", "numpy", "transformers"}


def loaded_by(statement: str) -> set[str]:
    """Return the top-level names of the third-party modules that `python -X importtime` lists for a statement."""

    def listed(code: str) -> set[str]:
        command = [sys.executable, "-I", "-X", "importtime", "-c", code]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
        names = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines if line.startswith("import time:")}
        return names - sys.stdlib_module_names - {"modelwright", "imported package"}

    return listed(statement) - listed("pass")


def test_protocols_load_no_third_party_module():
    """Whoever wants one interface installs and loads one interface."""
    assert loaded_by("import modelwright.protocols") == set()


LIGHT = [package.name for package in PACKAGES] + ["gpt.config", "gpt.presets", "moe.config", "mamba.config"]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module: str):
    """A config is read, printed and refused in well under a second; torch and the engine take many."""
    assert loaded_by(f"import modelwright.{module}") & HEAVY == set()


FIRST_IMPORT = """
import torch
from modelwright.{module} import {name}
from megatron.core.fusions import fused_bias_swiglu
print(hasattr(fused_bias_swiglu.swiglu, "_torchdynamo_orig_callable") == torch.cuda.is_available())
"""


@pytest.mark.parametrize(
    ("module", "name"), [("layers", "TorchNorm"), ("distributed", "initialize"), ("gpt", "GPTModelBuilder")]
)
def test_the_engine_is_loaded_alike_whatever_is_imported_first(module: str, name: str):
    """Importing `layers` before `distributed` used to load the engine without the patch, in twice the time."""
    command = [sys.executable, "-I", "-W", "ignore", "-c", FIRST_IMPORT.format(module=module, name=name)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"
