"""`docs/slots.md` says what the code says."""

from tests.policies.slots_page import PAGE, page


def test_the_page_is_what_the_code_gives():
    """A list of slots that is written by hand is wrong after the next release of the engine."""
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.policies.slots_page`"
