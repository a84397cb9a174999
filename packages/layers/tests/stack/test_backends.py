"""Backends by name, and what is said where Transformer Engine cannot be used; with it: tests/integration."""

import logging

import pytest
import torch
from megatron.core.extensions import transformer_engine

from modelwright.layers import TORCH, StackSpec, TorchNorm, find_backend, missing_for_te, stack_spec
from modelwright.protocols import ModelwrightError
from packages.layers.tests.toy import ToyBuilder, ToyConfig
from tests.messages import facts

NOT_INSTALLED = "Transformer Engine is not installed (pip install --no-build-isolation 'modelwright-layers[te]')"
NOT_IMPORTED = (
    "Transformer Engine is installed but the engine cannot import it (`python -c 'import transformer_engine.pytorch'` "
    "shows why)"
)
NO_CUDA = "CUDA is not usable (it needs a GPU and its driver)"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Set what this machine has: the package, an engine that imported it, a GPU."""
    installed, imported, cuda = request.param
    monkeypatch.setattr("modelwright.engine.optional_packages.find_spec", lambda name: name if installed else None)
    monkeypatch.setattr(transformer_engine, "HAVE_TE", imported)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)


def test_torch_is_what_a_spec_is_made_of_by_default() -> None:
    assert find_backend("torch") is TORCH
    assert stack_spec() == stack_spec(TORCH) == StackSpec()


def test_norms_of_queries_and_keys() -> None:
    attention = stack_spec(qk_norm=True).attention.self_attention  # type: ignore[attr-defined]
    assert (attention.q_layernorm, attention.k_layernorm) == (TorchNorm, TorchNorm)


@pytest.mark.parametrize(("name", "near"), [("tee", " `te`"), ("triton", "")])
def test_an_unknown_backend(name: str, near: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        ToyBuilder(ToyConfig(), backend=name)
    assert facts(caught.value) == f"`backend` {name!r}{near}"


MISSING = [
    ((False, False, False), f"{NOT_INSTALLED} and {NO_CUDA}"),
    ((False, False, True), NOT_INSTALLED),
    ((True, False, True), NOT_IMPORTED),
    ((True, True, False), NO_CUDA),
]


@pytest.mark.parametrize(("here", "missing"), MISSING, indirect=["here"])
@pytest.mark.usefixtures("here")
def test_te_says_what_is_missing_before_any_group_exists(missing: str) -> None:
    assert not torch.distributed.is_initialized()
    with pytest.raises(ModelwrightError) as caught:
        ToyBuilder(ToyConfig(), backend="te")
    assert facts(caught.value) == " ".join(("`backend: te`", facts(missing), "`torch` `auto` `te`")).replace("  ", " ")


@pytest.mark.parametrize(("here", "missing"), MISSING, indirect=["here"])
@pytest.mark.usefixtures("here")
def test_auto_takes_torch_and_says_why(missing: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="modelwright"):
        assert ToyBuilder(ToyConfig(), backend="auto").backend is TORCH
    assert [facts(one) for one in caplog.messages] == [" ".join(("`te`", facts(missing))).strip()]
    assert missing in caplog.text


@pytest.mark.parametrize("here", [(True, True, True)], indirect=True)
@pytest.mark.usefixtures("here")
def test_nothing_is_missing_where_all_is_there() -> None:
    assert missing_for_te() == []
