"""Every field of every family, with layers of every kind and with few of them: it changes the run or is refused."""

import pytest

from tests.integration.test_every_field import BASES, check_field, every_field, runtime

__all__ = ["runtime"]


@pytest.mark.parametrize(("base", "field"), every_field(*(base for base in BASES if base != "hybrid")))
def test_a_field_of_another_base_changes_the_run_or_is_refused(base: str, field: str) -> None:
    check_field(base, field)
