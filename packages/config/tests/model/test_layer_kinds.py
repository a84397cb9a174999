"""The table of layer kinds: one entry for each symbol of the engine, and an error for any other symbol."""

import re

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
