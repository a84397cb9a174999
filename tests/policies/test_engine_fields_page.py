"""`docs/engine_fields.md` agrees with the verdicts and the installed engine."""

from tests.policies.engine_fields_page import PAGE, page


def test_the_page_is_what_the_code_gives() -> None:
    """A new version of the engine has other fields, and other modules read them: look at the difference."""
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.policies.engine_fields_page`"
