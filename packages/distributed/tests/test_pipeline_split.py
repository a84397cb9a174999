"""Layers of each stage."""

import pytest

from modelwright.config import Parallelism
from modelwright.distributed import StageError, layers_of, staged_pattern
from tests.messages import facts


@pytest.mark.parametrize(
    ("pattern", "unit", "parallelism", "staged"),
    [
        ("*-*-", 2, Parallelism(), "*-*-"),
        ("*-*-", 2, Parallelism(pipeline=2), "*-|*-"),
        ("*-*-*-*-", 2, Parallelism(pipeline=2, virtual_pipeline=2), "*-|*-|*-|*-"),
        ("MMM*-M", 1, Parallelism(pipeline=3), "MM|M*|-M"),
        ("*-|*-*-", 2, Parallelism(pipeline=2), "*-|*-*-"),
        ("*|-*-|*-", 2, Parallelism(pipeline=3), "*|-*-|*-"),
        ("*-|*-", 2, Parallelism(), "*-*-"),
    ],
)
def test_boundaries(pattern: str, unit: int, parallelism: Parallelism, staged: str) -> None:
    assert staged_pattern(pattern, parallelism, unit=unit) == staged


def test_layers_that_do_not_divide() -> None:
    with pytest.raises(StageError) as caught:
        staged_pattern("*-" * 6, Parallelism(pipeline=2, virtual_pipeline=2), unit=2)
    assert facts(caught.value) == "`pipeline` `virtual_pipeline` 4 6 `|`"


@pytest.mark.parametrize("parallelism", [Parallelism(pipeline=3), Parallelism(pipeline=4)])
def test_boundaries_for_another_number_of_stages(parallelism: Parallelism) -> None:
    with pytest.raises(StageError) as caught:
        staged_pattern("*-|*-", parallelism)
    assert facts(caught.value) == f"`pipeline` `virtual_pipeline` {parallelism.pipeline} '*-|*-' 2"


def test_the_layers_of_even_stages() -> None:
    """Virtual stages alternate between the ranks: rank 0 has the first and the third of four."""
    parallelism = Parallelism(pipeline=2, virtual_pipeline=2)
    pattern = staged_pattern("*-" * 4, parallelism, unit=2)
    held = {(rank, v): layers_of(pattern, parallelism, rank, v) for rank in range(2) for v in range(2)}
    assert held == {(0, 0): (0, "*-"), (1, 0): (2, "*-"), (0, 1): (4, "*-"), (1, 1): (6, "*-")}


def test_the_layers_of_uneven_stages() -> None:
    pattern, parallelism = "*|-*-|*-", Parallelism(pipeline=3)
    assert [layers_of(pattern, parallelism, rank) for rank in range(3)] == [(0, "*"), (1, "-*-"), (4, "*-")]


def test_uneven_stages_as_given() -> None:
    parallelism = Parallelism(pipeline=2, virtual_pipeline=2, stages=(1, 2, 2, 1))
    assert staged_pattern("*-" * 6, parallelism, unit=2) == "*-|*-*-|*-*-|*-"


def test_uneven_stages_must_add_up() -> None:
    with pytest.raises(StageError) as caught:
        staged_pattern("*-" * 6, Parallelism(pipeline=2, stages=(1, 2)), unit=2)
    assert facts(caught.value) == "`stages` 6 12 '*-*-*-*-*-*-' `parallelism.stages`"
