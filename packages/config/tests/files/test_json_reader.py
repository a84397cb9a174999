"""JSON is read by the standard library; places come from the YAML reader, whatever is legal in JSON alone."""

import json

import pytest

from modelwright.config import ConfigError, ModelConfig, config_class, loads, register_config


@register_config
@config_class
class JsonToyConfig(ModelConfig):
    """A family of the tests."""

    kind = "json-toy"

    width: int = 8
    """A field."""

    text: str = ""
    """A string."""


def places(text: str) -> list[tuple[str, int | None, int | None]]:
    with pytest.raises(ConfigError) as caught:
        loads(text, format="json", source="f")
    return [(one.path, one.line, one.column) for one in caught.value.problems]


@pytest.mark.parametrize(
    "before",
    [
        '"text": "\\ud83d\\ude00 \\/ \\u0000"',
        '"text": "\u2028\u0085\x7f\ufeff😀"',
        '"engine": {"\\ud83d\\ude00": [NaN, -Infinity, 1e400, {"a":{"b":"c"}}]}',
        '\t"engine"\t:\t{ }\r',
    ],
)
def test_places_after_what_only_json_allows(before: str) -> None:
    assert places(f'{{{before},\n "kind": "json-toy",\n "width": "x"}}') == [("width", 3, 11)]


def test_a_duplicate_after_a_surrogate_pair() -> None:
    text = '{"kind": "json-toy", "text": "\\ud83d\\ude00",\n "width": 1,\n "width": 2, "x": 3}'
    assert places(text) == [("width", 3, 2), ("x", 3, 14)]


def test_a_pair_of_escapes_is_one_character() -> None:
    config = loads('{"kind": "json-toy", "text": "\\ud83d\\ude00"}', format="json")
    assert isinstance(config, JsonToyConfig)
    assert config.text == "😀"


def test_an_entry_that_the_yaml_reader_cannot_place_is_still_reported() -> None:
    (path, _, _), *_ = places('{"kind": "json-toy", "width"\n:\n"x"}')
    assert path == "width"
    with pytest.raises(ConfigError) as caught:
        loads('{"kind": "json-toy", "width"\n:\n1, "width": 2}', format="json")
    assert [one.code for one in caught.value.problems] == ["not_plain"]


def test_a_file_without_problems_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr("modelwright.config.files.json_reader.read_as_far_as_possible", refuse)
    monkeypatch.setattr("modelwright.config.files.json_reader.read_yaml", refuse)
    assert loads(json.dumps({"kind": "json-toy", "width": 3}), format="json") == JsonToyConfig(width=3)
