"""Factors and sums that explain a difference."""

import numpy as np
import pytest

from modelwright.verify.explanations import Copies, axis_of, explain_norm, explain_number, explain_tensor

SIZES = {"tensor": 2, "context": 3, "data": 1}
EXPECTED = np.array([[1.0, -2.0], [0.5, 4.0]], dtype=np.float32)


def copies(*values: np.ndarray) -> list[Copies]:
    """The same part on each tensor rank."""
    where = [{"tensor": rank, "context": 0, "data": 0, "pipeline": 0} for rank in range(len(values))]
    return [Copies(list(values), EXPECTED, where)]


@pytest.mark.parametrize(
    ("factor", "axis", "said"),
    [
        (2.0, "tensor", "gradient too large by 2.0 = tensor size: summed once too often over `tensor`"),
        (1 / 3, "context", "gradient too small by 3.0 = context size: divided once too often by the size of `context`"),
        (1.5, None, "gradient too large by 1.5"),
        (-1.0, None, "gradient has the wrong sign, factor -1"),
    ],
)
def test_a_constant_factor_is_recognized(factor: float, axis: str | None, said: str) -> None:
    found = explain_tensor(copies(factor * EXPECTED, factor * EXPECTED), SIZES)
    assert found.axis == axis
    assert found.ratio == pytest.approx(factor)
    assert f"gradient {found.clause}" == said


def test_copies_that_were_not_summed_are_recognized() -> None:
    noise = np.array([[0.3, 0.1], [0.0, -2.0]], dtype=np.float32)
    assert explain_tensor(copies(EXPECTED - noise, noise), SIZES).clause.startswith("not summed over `tensor`")
    assert explain_tensor(copies(EXPECTED - noise, EXPECTED + noise), SIZES).clause.startswith("not averaged over")


def test_other_differences_are_not_explained() -> None:
    assert explain_tensor(copies(EXPECTED[::-1], EXPECTED), SIZES).clause == ""
    assert explain_tensor(copies(np.zeros_like(EXPECTED)), SIZES).clause == "is zero"
    assert axis_of(2.1, SIZES) is None
    assert explain_number(float("nan"), 1.0, SIZES).clause == ""


def test_the_parameters_behind_a_wrong_norm_are_found() -> None:
    squares = {"layers.0.w": [9.0, 4.0], "layers.1.w": [1.0, 1.0], "norm.weight": [2.0]}
    copies_of = {"layers.0.w": 1, "layers.1.w": 1, "norm.weight": 2}
    assert explain_norm((17 - 5) ** 0.5, squares, copies_of) == ("layers.0.w", "counted on one rank alone")
    assert explain_norm(19**0.5, squares, copies_of) == ("norm.weight", "counted once for each copy")
    assert explain_norm(40**0.5, squares, copies_of) is None
