"""A small model has every kind of layer and every divisibility of the large one."""

import pytest

from modelwright.verify.shrinking import smallest


@pytest.mark.parametrize(
    ("size", "divisors", "at_least", "found"),
    [(32, [2, 4], 2, 4), (6, [2, 4], 2, 2), (61, [2, 4], 5, 5), (3, [2], 1, 1), (4, [2, 3, 4], 2, 4), (2, [2], 4, 2)],
)
def test_the_same_numbers_divide_the_smaller_size(size: int, divisors: list[int], at_least: int, found: int) -> None:
    assert smallest(size, divisors, at_least=at_least) == found
    assert [found % divisor == 0 for divisor in divisors] == [size % divisor == 0 for divisor in divisors]
