"""Errors of the engine and of torch: the phase, the part, the reason and the settings are named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from megatron.core.utils import divide
from torch import nn

from modelwright.builders import Hook
from modelwright.config import replace
from modelwright.distributed import unwrapped
from modelwright.protocols import ModelwrightError
from modelwright.training import EngineError, train
from packages.training.tests.tiny import bigram_run
from tests.messages import facts

pytestmark = pytest.mark.usefixtures("engine")


def failing(failure: Callable[[], object], *, in_training: bool = True) -> Hook:
    """Return a hook that lets the output layer fail in its forward pass, in training or in validation."""

    def spoil(stages: list[nn.Module], context: object) -> None:
        layer: Any = unwrapped(stages[0]).output
        works = layer.forward

        def forward(hidden: torch.Tensor) -> object:
            return failure() if layer.training is in_training else works(hidden)

        layer.forward = forward

    return Hook(name="spoil", phase="before_wrap", function=spoil)


RUN = bigram_run(2, micro_batch=4)
FAILURES: dict[str, tuple[Callable[[], object], str]] = {
    "an assertion of the engine": (lambda: divide(3, 2), "`AssertionError` 3 2"),
    "a matrix product of torch": (lambda: torch.ones(2, 2) @ torch.ones(3, 2), "`RuntimeError`"),
    "no memory": (lambda: torch.empty(2**60), "`RuntimeError`"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_the_phase_the_part_and_the_settings_are_named(case: str) -> None:
    failure, expected = FAILURES[case]
    with pytest.raises(EngineError) as caught:
        train(replace(RUN, wrap=replace(RUN.wrap, check_for_nan=True)), hooks=[failing(failure)])
    found = facts(caught.value)
    assert found.startswith(f"`output (Linear)` `forward and backward of step 1` {expected}")
    assert "`wrap.check_for_nan: true`" in found
    assert isinstance(caught.value, ModelwrightError)
    assert caught.value.__cause__ is not None


def test_validation_is_a_phase_too() -> None:
    with pytest.raises(EngineError) as caught:
        train(RUN, hooks=[failing(lambda: divide(3, 2), in_training=False)])
    assert facts(caught.value).startswith("`output (Linear)` `validation` `AssertionError` 3 2")


def test_an_assertion_without_words_shows_its_line() -> None:
    """`assert x` of the engine says nothing, so the code says it."""
    from megatron.core.tensor_parallel.mappings import _split_along_first_dim

    class Group:
        def size(self) -> int:
            return 3

    failure: Any = lambda: _split_along_first_dim(torch.ones(4), Group())  # noqa: E731
    with pytest.raises(EngineError) as caught:
        train(RUN, hooks=[failing(failure)])
    assert "`AssertionError`" in facts(caught.value)
    assert len(str(caught.value.__cause__)) > 0 or "in mappings.py, line" in str(caught.value)


def test_an_error_of_a_custom_part_passes_through() -> None:
    def own() -> object:
        raise ZeroDivisionError("of the test")

    with pytest.raises(ZeroDivisionError, match=r"^of the test$"):
        train(RUN, hooks=[failing(own)])


def test_a_build_that_fails_is_named() -> None:
    def fails(stages: list[nn.Module], context: object) -> None:
        raise ModelwrightError("of the test")

    with pytest.raises(ModelwrightError, match="of the test"):
        train(RUN, hooks=[Hook(name="x", phase="before_wrap", function=fails)])
