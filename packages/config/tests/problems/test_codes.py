"""Programs use the code of a problem: nothing in this package depends on the words of a message."""

import dataclasses
from typing import Literal

import pytest

from modelwright.config import (
    Config,
    ConfigError,
    Count,
    ModelConfig,
    Problem,
    ProblemCode,
    RunConfig,
    config_class,
    loads,
    override,
    register_config,
)

HEAD = "modelwright: 1\nmodel: {kind: codes-toy, width: 8}\n"


@register_config
@config_class
class CodesToyConfig(ModelConfig):
    """A family of the tests."""

    kind = "codes-toy"

    width: Count
    """A required field."""

    text: str = ""
    """A string."""


CASES: dict[ProblemCode, tuple[str, str, tuple[int, int]]] = {
    "syntax": (HEAD + "name: !x y\n", "name", (3, 7)),
    "unreadable": (" \n", "", (0, 0)),
    "not_plain": (HEAD + 'name: "\\ud800"\n', "name", (3, 7)),
    "duplicate_key": (HEAD + "name: a\nname: b\n", "name", (4, 1)),
    "unknown_field": (HEAD + "train: {stepz: 3}\n", "train.stepz", (3, 9)),
    "missing_field": ("kind: codes-toy\n", "width", (1, 1)),
    "not_a_string": (HEAD + "name: [1]\n", "name", (3, 7)),
    "wrong_type": (HEAD + "train: {steps: x}\n", "train.steps", (3, 16)),
    "wrong_value": (HEAD + "train: {steps: 0}\n", "train.steps", (3, 16)),
    "wrong_version": ("kind: codes-toy\nversion: 9\nwidth: 1\n", "version", (2, 10)),
    "without_effect": (HEAD + "wrap: {kind: ddp, bucket_size: 5}\n", "wrap.bucket_size", (3, 32)),
    "rule": (HEAD + "train: {micro_batch: 3}\n", "train.global_batch", (3, 1)),
}


@pytest.fixture(params=[False, True], ids=["as worded", "reworded"])
def wording(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace every message by one that says nothing."""
    if request.param:
        monkeypatch.setattr(Problem, "__post_init__", lambda self: object.__setattr__(self, "message", "no."))


@pytest.mark.usefixtures("wording")
@pytest.mark.parametrize("code", CASES)
def test_code_path_and_place_do_not_depend_on_the_message(code: ProblemCode) -> None:
    text, path, (line, column) = CASES[code]
    with pytest.raises(ConfigError) as caught:
        loads(text)
    found = [(one.code, one.path, one.line or 0, one.column or 0) for one in caught.value.problems]
    assert found == [(code, path, line, column)]


def test_every_code_occurs() -> None:
    assert set(CASES) == set(ProblemCode.__value__.__args__)


@pytest.mark.usefixtures("wording")
def test_overrides_do_not_depend_on_the_message() -> None:
    run = RunConfig(model=CodesToyConfig(width=8))
    assert override(run, "name=123").name == "123"
    assert override(run, ["model.text=1e5", "train.steps=3"]).model.as_dict()["text"] == "1e5"
    with pytest.raises(ConfigError) as caught:
        override(run, "train.steps=a")
    assert [(one.code, one.source) for one in caught.value.problems] == [("wrong_type", "--set train.steps=a")]


@pytest.mark.usefixtures("wording")
@pytest.mark.parametrize("form", ["yaml", "json", "toml"])
def test_every_format_gives_the_same_codes(form: Literal["yaml", "json", "toml"]) -> None:
    text = {
        "yaml": "kind: codes-toy\nwidth: 0\ntext: 1\nx: 1\n",
        "json": '{"kind": "codes-toy",\n"width": 0,\n"text": 1,\n"x": 1}',
        "toml": 'kind = "codes-toy"\nwidth = 0\ntext = 1\nx = 1\n',
    }[form]
    with pytest.raises(ConfigError) as caught:
        loads(text, format=form)
    found = {(one.code, one.path, one.line) for one in caught.value.problems}
    lines = (None, None, None) if form == "toml" else (2, 3, 4)
    codes = ("wrong_value", "width"), ("not_a_string", "text"), ("unknown_field", "x")
    assert found == {(code, path, line) for (code, path), line in zip(codes, lines, strict=True)}


def test_a_rule_without_a_code_is_a_rule() -> None:
    @config_class
    class Odd(Config):
        width: int

        def problems(self) -> tuple[Problem, ...]:
            return (Problem("width", "the width is odd"),)

    with pytest.raises(ConfigError) as caught:
        Odd(width=1)
    assert [(one.code, one.path) for one in caught.value.problems] == [("rule", "width")]
    assert dataclasses.replace(caught.value.problems[0], code="syntax").code == "syntax"
