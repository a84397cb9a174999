"""Fields of a converted model's `engine:` that nothing in that model would read, so that `convert` reports them.

The table is generated from the verdicts of `modelwright.layers`, which needs the engine. This package does not.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from modelwright.config.model.base import ModelConfig
from modelwright.config.model.decoder import DecoderConfig

__all__ = ["TABLE", "unread_fields"]

TABLE = Path(__file__).with_name("unread_fields.json")
"""The generated table: by field of the engine, the layers that read it and the reason where they are missing."""


def unread_fields(model: ModelConfig) -> dict[str, str]:
    """Return the fields of `engine:` without effect.

    Args:
        model: A converted model.

    Returns:
        The reason by name of the field.
    """
    layers = model.symbols if isinstance(model, DecoderConfig) else None
    table = _table()
    return {
        name: table[name]["reason"]
        for name in model.engine
        if name in table and (layers is None or not layers & set(table[name]["layers"]))
    }


@functools.cache
def _table() -> Mapping[str, Mapping[str, str]]:
    return cast("Mapping[str, Mapping[str, str]]", json.loads(TABLE.read_text(encoding="utf-8")))
