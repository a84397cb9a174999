"""Every part that both type checkers reject is rejected at run time too, with the message that is written down.

The parts are those of `tests/typing/wrong_parts.py`, the messages those of `wrong_parts.txt` beside it; write that file
anew with `python -m tests.integration.test_explain_wrong_parts`, and read what changed.
"""

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

from modelwright.protocols import ConformanceError, check_conformance

FOLDER = Path(__file__).parents[1] / "typing"
MESSAGES = FOLDER / "wrong_parts.txt"
# What only a type checker sees, and why.
UNSEEN = {
    "narrow_type": "types of parameters are not compared at run time: annotations are never evaluated",
}


def messages() -> dict[str, str]:
    """The message of each wrong part, by the name it is assigned to; empty where it passes."""
    source = FOLDER / "wrong_parts.py"
    spec = importlib.util.spec_from_file_location("wrong_parts", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["wrong_parts"] = module
    spec.loader.exec_module(module)
    names: dict[str, Any] = vars(module)
    tree = ast.parse(source.read_text(encoding="utf-8"))
    assigned = [(node.target, node.annotation) for node in tree.body if isinstance(node, ast.AnnAssign)]
    return {
        target.id: message(names[slot.id], names[target.id])
        for target, slot in assigned
        if isinstance(target, ast.Name) and isinstance(slot, ast.Name)
    }


def message(slot: type[object], part: object) -> str:
    """Return the message of `check_conformance`."""
    try:
        check_conformance(slot, part)
    except ConformanceError as error:
        return str(error)
    return ""


def page() -> str:
    """All of them, one block each."""
    return "\n".join(f"{name}\n  " + text.replace("\n", "\n  ") + "\n" for name, text in messages().items() if text)


def test_each_message_is_the_one_written_down() -> None:
    assert page() == MESSAGES.read_text(encoding="utf-8")


def test_there_are_many_and_hardly_one_slips_through() -> None:
    found = messages()
    assert len([text for text in found.values() if text]) >= 25
    assert {name for name, text in found.items() if not text} == set(UNSEEN)


if __name__ == "__main__":
    MESSAGES.write_text(page(), encoding="utf-8")
