"""Return annotations are compared as text, and only a certain contradiction counts."""

from __future__ import annotations

from typing import Any, Optional, Union

import pytest

from modelwright.protocols.conformance.annotations import contradicts

PAIR = "tuple[Tensor, Tensor | None]"


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        (PAIR, "Tensor"),
        (PAIR, "torch.Tensor"),
        (PAIR, "tuple[Tensor, Tensor | None, Tensor]"),
        (PAIR, "tuple[Tensor, int]"),
        (PAIR, "None"),
        (PAIR, None),
        ("Tensor", PAIR),
        ("Tensor", "Optional[Tensor]"),
        ("Tensor", "Tensor | None"),
        ("Tensor", float),
        ("int", "str"),
    ],
)
def test_a_contradiction(wanted: object, given: object) -> None:
    assert contradicts(wanted, given)


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        (PAIR, PAIR),
        (PAIR, "Tuple[torch.Tensor, typing.Optional[torch.Tensor]]"),
        (PAIR, "tuple[Tensor, None]"),
        (PAIR, "'tuple[Tensor, Tensor]'"),
        (PAIR, "tuple[Tensor, ...]"),
        (PAIR, "Pair"),
        (PAIR, "Any"),
        (PAIR, Any),
        (PAIR, "tuple"),
        (PAIR, "(not, an annotation"),
        (PAIR, "x" * 10 + "[" * 300),
        ("Tensor", "Float[Tensor, 'b s']"),
        ("Tensor", "MyTensor"),
        ("float", "int"),
        ("Tensor | None", "Tensor"),
        ("int | None", Optional[int]),  # noqa: UP045 - what others write
        ("int | str", Union[int, str]),  # noqa: UP007 - what others write
        ("tuple[int, int]", tuple[int, int]),
        ("tuple[Tensor, object]", "tuple[Tensor, None]"),
    ],
)
def test_no_false_alarm(wanted: object, given: object) -> None:
    assert not contradicts(wanted, given)
