"""Writer of YAML 1.2 that readers of YAML 1.1 and 1.2 understand in the same way.

Strings that either version reads as something else are quoted; null is written as `null`.
"""

import io
import re
from typing import Any

from modelwright.config.files.yaml_reader import core_scalar

__all__ = ["write_yaml"]

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*( [A-Za-z0-9_./+-]+)*", re.ASCII)
_WORDS_OF_YAML_1_1 = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}


def write_yaml(data: dict[str, Any]) -> str:
    """Convert plain data to YAML.

    Args:
        data: Plain data.

    Returns:
        YAML with mappings in blocks and lists in brackets, in the order of the data, with a final line break.
    """
    from ruamel.yaml import YAML  # costs 60 ms, and only files need it

    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _representer()
    yaml.default_flow_style, yaml.allow_unicode, yaml.width = False, True, 1 << 20
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def _representer() -> Any:
    """Return ruamel's representer with custom forms for strings, null, lists and the order of keys."""
    from ruamel.yaml.representer import SafeRepresenter

    class Representer(SafeRepresenter):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.sort_base_mapping_type_on_output = False

        def ignore_aliases(self, data: Any) -> bool:
            return True

        def text(self, data: str) -> Any:
            return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if _is_plain(data) else '"')

        def null(self, data: None) -> Any:
            return self.represent_scalar("tag:yaml.org,2002:null", "null")

        def items(self, data: list[Any]) -> Any:
            return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)

    Representer.add_representer(str, Representer.text)
    Representer.add_representer(type(None), Representer.null)
    Representer.add_representer(list, Representer.items)
    return Representer


def _is_plain(text: str) -> bool:
    """Return True if a string needs no quotes."""
    if not _PLAIN.fullmatch(text) or text.lower().lstrip("+-.") in _WORDS_OF_YAML_1_1:
        return False
    return isinstance(core_scalar(text), str)
