"""A config is validated once: on the way from a document, and never again on the way to another process."""

import pickle
from collections.abc import Iterator

import pytest

from modelwright.config import ConfigError, DecoderConfig, ModelConfig, Problem, config_class, loads, register_config

TEXT = "modelwright: 1\nmodel: {kind: validate-toy, width: 8}\n"
validated: list[int] = []


@register_config
@config_class
class ValidateToyConfig(ModelConfig):
    """A family of the tests, which notes when its rules are checked."""

    kind = "validate-toy"

    width: int
    """A field."""

    def problems(self) -> Iterator[Problem]:
        """Note the check."""
        validated.append(self.width)
        yield from ()


@pytest.mark.parametrize(
    ("text", "form"),
    [(TEXT, "yaml"), ('{"kind": "validate-toy", "width": 8}', "json"), ('kind = "validate-toy"\nwidth = 8\n', "toml")],
)
def test_reading_validates_once_and_pickling_does_not(text: str, form: str) -> None:
    validated.clear()
    config = loads(text, format=form)  # type: ignore[arg-type]
    assert validated == [8]
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301  # our own bytes
    assert validated == [8]


def test_the_data_of_another_family_is_refused() -> None:
    @register_config
    @config_class
    class Other(ModelConfig):
        kind = "validate-other"

    with pytest.raises(ConfigError) as caught:
        Other.from_dict({"kind": "validate-toy", "width": 1})
    assert [(one.code, one.path) for one in caught.value.problems] == [("wrong_value", "kind")]
    with pytest.raises(ConfigError) as caught:
        DecoderConfig.from_dict({"kind": "validate-toy", "width": 1})
    assert "`kind` must be" in str(caught.value)
