"""Selection of the next token from the logits."""

import math
from collections import Counter
from typing import Any

import pytest
import torch

from modelwright.protocols import ModelwrightError
from modelwright.training import Sampling
from tests.messages import facts

# Probabilities 0.1, 0.4, 0.3, 0.2 at temperature 1.
LOGITS_V = torch.tensor([0.1, 0.4, 0.3, 0.2]).log()
DRAWS = 4000


def drawn(sampling: Sampling) -> Counter[int]:
    generator = torch.Generator().manual_seed(0)
    return Counter(sampling.choose(LOGITS_V, generator) for _ in range(DRAWS))


def shares(counts: Counter[int]) -> list[float]:
    return [counts[token] / DRAWS for token in range(4)]


def close(found: list[float], expected: list[float]) -> bool:
    """Within four standard deviations of the draws."""
    return all(abs(a - b) <= 4 * math.sqrt(max(b * (1 - b), 0.0) / DRAWS) for a, b in zip(found, expected, strict=True))


def test_temperature_0_takes_the_likeliest() -> None:
    assert drawn(Sampling()) == {1: DRAWS}
    assert drawn(Sampling(top_k=3, top_p=0.1)) == {1: DRAWS}


def test_temperature_1_draws_as_the_model_says() -> None:
    assert close(shares(drawn(Sampling(temperature=1.0))), [0.1, 0.4, 0.3, 0.2])


def test_temperature_sharpens_and_flattens() -> None:
    squares = [0.01, 0.16, 0.09, 0.04]
    assert close(shares(drawn(Sampling(temperature=0.5))), [share / sum(squares) for share in squares])
    assert close(shares(drawn(Sampling(temperature=1e6))), [0.25] * 4)


def test_top_k() -> None:
    assert close(shares(drawn(Sampling(temperature=1.0, top_k=2))), [0, 4 / 7, 3 / 7, 0])
    assert drawn(Sampling(temperature=1.0, top_k=1)) == {1: DRAWS}
    assert len(drawn(Sampling(temperature=1.0, top_k=99))) == 4


def test_top_p_keeps_the_token_that_reaches_p() -> None:
    assert drawn(Sampling(temperature=1.0, top_p=0.39)) == {1: DRAWS}
    assert close(shares(drawn(Sampling(temperature=1.0, top_p=0.5))), [0, 4 / 7, 3 / 7, 0])
    assert close(shares(drawn(Sampling(temperature=1.0, top_p=1.0))), [0.1, 0.4, 0.3, 0.2])


def test_the_seed_of_the_generator_decides() -> None:
    def line(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [Sampling(temperature=1.0).choose(LOGITS_V, generator) for _ in range(20)]

    assert line(1) == line(1)
    assert line(1) != line(2)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("temperature", -0.1, "`temperature` 0 -0.1"),
        ("temperature", math.nan, "`temperature` 0 nan"),
        ("temperature", math.inf, "`temperature` 0 inf"),
        ("top_k", 0, "`top_k` 1 0"),
        ("top_p", 0.0, "`top_p` 0 1 0.0"),
        ("top_p", 1.5, "`top_p` 0 1 1.5"),
        ("seed", -1, "`seed` 0 2"),
        ("seed", 2**63, "`seed` 0 2"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: float, rule: str) -> None:
    """A `top_p` of 0 would leave no token, and crash in `multinomial`."""
    given: dict[str, Any] = {"temperature": 1.0, field: value}
    with pytest.raises(ModelwrightError) as caught:
        Sampling(**given)
    assert facts(caught.value).startswith(rule)
