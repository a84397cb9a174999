"""The rules for signatures, against the table, and against mypy where mypy is installed."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelwright.protocols.conformance.signatures import signature_problems
from packages.protocols.tests.conformance.signature_cases import CASES, Case

by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def function_with(parameters: str) -> Callable[..., Any]:
    """A function with these parameters."""
    made: Callable[..., Any] = eval(f"lambda {strip_annotations(parameters)}: None")  # noqa: S307 - text of our own
    return made


def strip_annotations(parameters: str) -> str:
    """A lambda takes no annotations."""
    return parameters.replace(": int", "")


@by_name
def test_the_verdict_is_that_of_the_table(case: Case) -> None:
    wanted, given = (inspect.signature(function_with(text)) for text in (case.slot, case.given))
    problems = signature_problems(wanted, given, owner="it", bindable=False)
    assert (not problems) == case.fits, problems


@by_name
def test_python_agrees_that_a_rejected_call_fails(case: Case) -> None:
    """Where the slot is called in each way that it allows, a candidate that fits binds every time."""
    if not case.fits:
        return
    slot, given = (inspect.signature(function_with(text)) for text in (case.slot, case.given))
    positions = [1 for p in slot.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keywords = {p.name: 1 for p in slot.parameters.values() if p.kind is p.KEYWORD_ONLY}
    given.bind(*positions, **keywords)


def test_mypy_gives_the_same_verdict(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    lines = ["from typing import Protocol"]
    expected: dict[str, bool] = {}
    for case in CASES:
        lines += [
            f"class {case.name}(Protocol):",
            f"    def __call__(self, {case.slot}) -> None: ...",
            f"def given_{case.name}({case.given}) -> None: ...",
            f"value_{case.name}: {case.name} = given_{case.name}",
        ]
        expected[str(len(lines))] = case.fits
    source = tmp_path / "cases.py"
    source.write_text("\n".join(lines))
    report, _, _ = api.run(["--config-file=", "--strict", "--cache-dir", str(tmp_path / "cache"), str(source)])
    rejected = {line.split(":")[1] for line in report.splitlines() if ": error:" in line}
    assert {line: line not in rejected for line in expected} == expected, report
