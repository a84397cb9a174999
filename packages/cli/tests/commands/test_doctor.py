"""`doctor` lists every package that matters here: its version, or the command that installs it."""

from importlib.metadata import PackageNotFoundError, version

import pytest

from modelwright.engine import OPTIONAL_PACKAGES
from packages.cli.tests.command import modelwright

COMPONENTS = {
    "torch": "pip install torch",
    "megatron-core": "pip install 'megatron-core>=0.19.2,<0.20'",
    **{name: entry.install for name, entry in OPTIONAL_PACKAGES.items()},
}


def test_every_component_is_known() -> None:
    named = {"psutil", "transformer-engine", "mamba-ssm", "causal-conv1d", "einops", "transformers"}
    assert named <= set(OPTIONAL_PACKAGES)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    done = modelwright("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", COMPONENTS)
def test_each_component_has_a_version_or_a_way_to_get_it(name: str, lines: list[str]) -> None:
    (line,) = (line for line in lines if line.split() and line.split()[0] == name)
    try:
        expected = version(name)
    except PackageNotFoundError:
        expected = "missing"
    assert line.split()[1] == expected
    assert line.rstrip().endswith(COMPONENTS[name]) == (expected == "missing")


def test_what_can_be_used(lines: list[str]) -> None:
    told = "\n".join(lines)
    assert "families: " in told
    assert "CUDA: " in told
    assert "engine: imports" in told
    assert "backend auto: t" in told
