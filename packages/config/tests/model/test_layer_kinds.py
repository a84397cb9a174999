"""The table of layer kinds: one entry for each symbol of the engine, and an error for any other symbol."""

import ast
import re
from pathlib import Path

import pytest

from modelwright.config import LAYER_KINDS, MOE, PREDICTION_SEPARATOR, STAGE_BOUNDARY, ConfigError, layer_kind


def test_the_alphabet_is_the_engines() -> None:
    assert "".join(LAYER_KINDS) + STAGE_BOUNDARY + PREDICTION_SEPARATOR == "M*+-EGD|/"


def test_each_kind_can_be_told_apart() -> None:
    kinds = LAYER_KINDS.values()
    for field in ("name", "plural", "label", "color", "engine_slot"):
        assert len({getattr(kind, field) for kind in kinds}) == len(kinds)
    assert all(re.fullmatch(r"#[0-9a-f]{6}", kind.color) for kind in kinds)
    assert all(layer_kind(symbol) is kind and len(symbol) == 1 for symbol, kind in LAYER_KINDS.items())


def test_the_config_fields_exist() -> None:
    assert MOE.config_fields == ("num_experts", "top_k")


@pytest.mark.parametrize("symbol", ["|", "/", "X", "", "EE"])
def test_a_symbol_without_a_kind_is_refused(symbol: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"`{symbol}`")):
        layer_kind(symbol)


def strings(file: Path) -> list[str]:
    """Return the strings of a file that are symbols, without the parts of f-strings."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    constants = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in parts]
    return [text for text in constants if isinstance(text, str) and text in {*LAYER_KINDS, STAGE_BOUNDARY}]


def test_the_alphabet_is_written_nowhere_else() -> None:
    """No other file of models, presets or pictures has a string that is a symbol."""
    root = Path(__file__).parents[4]
    files = [
        *(root / "packages/config/src/modelwright/config/model").glob("*.py"),
        *(root / "packages/cli/src/modelwright/cli").rglob("*.py"),
    ]
    found = [f"{file.name}: {text}" for file in files if file.name != "layer_kinds.py" for text in strings(file)]
    assert found == []
