"""`doctor` lists everything that matters here: its version, or how to get it."""

from importlib.metadata import PackageNotFoundError, version

import pytest

from packages.cli.tests.command import modelwright

COMPONENTS = {
    "torch": "pip install torch",
    "megatron-core": "pip install 'megatron-core>=0.19.2,<0.20'",
    "psutil": "pip install psutil",
    "transformer-engine": "pip install --no-build-isolation 'modelwright-layers[te]'",
    "mamba-ssm": "pip install --no-build-isolation 'modelwright-mamba[kernels]'",
    "causal-conv1d": "pip install --no-build-isolation 'modelwright-mamba[kernels]'",
    "einops": "pip install einops",
    "transformers": "pip install transformers",
}


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
