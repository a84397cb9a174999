"""TOML is read like the other formats; only errors of syntax have line and column."""

from pathlib import Path

import pytest

from modelwright.config import ConfigError, ModelConfig, config_class, load, loads, register_config


@register_config
@config_class
class TomlToyConfig(ModelConfig):
    """A family of the tests."""

    kind = "toml-toy"

    width: int = 8
    """A field."""

    scale: float = 1.0
    """A float."""

    sizes: tuple[int, ...] = ()
    """A tuple."""


def message_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loads(text, format="toml", source="f")
    return str(caught.value)


HEAD = 'modelwright = 1\n[model]\nkind = "toml-toy"\n'


def test_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        HEAD + "width = 0x10 # comment\nscale = inf\nsizes = [\n  1, # one\n  2,\n]\n"
        'engine."1".a = {b = [1, {c = "]"}], \'d.e\' = """x\n""""" }\n'
        '[train]\nsteps = 1_000\n[train.lr_schedule]\nkind = "linear"\nmin_lr = 1e-5\n'
    )
    run = load(path)
    assert run.model == TomlToyConfig(  # type: ignore[union-attr]
        width=16, scale=float("inf"), sizes=(1, 2), engine={"1": {"a": {"b": [1, {"c": "]"}], "d.e": 'x\n""'}}}
    )
    assert (run.train.steps, run.train.lr_schedule.min_lr) == (1000, 1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "width = 1.5\n", "f: `model.width` must be an integer, but 1.5 was given."),
        (HEAD + "widht = 1\n", "f: `model.widht` is not a field of `toml-toy`; did you mean `width`?"),
        (HEAD + 'sizes = [1,\n  "a"]\n', 'f: `model.sizes[1]` must be an integer, but the string "a" was given.'),
        (HEAD + "[train]\nsteps = 0\n", "f: `train.steps` must be at least 1, but 0 was given."),
        (
            HEAD + "[train.lr_schedule]\n",
            "f: `train.lr_schedule.kind` is missing; use `cosine`, `linear` or `constant`.",
        ),
        (HEAD + "[trian]\n", "f: `trian` is not a field of `RunConfig`; did you mean `train`?"),
        (HEAD + "engine.a = 2024-01-01\n", "f: `model.engine.a` is a date, but no field is a date; use a string."),
        (HEAD + "[[model.sizes]]\na = 1\n", "f: `model.sizes[0]` must be an integer, but a mapping was given."),
        (
            HEAD + "wrap = {kind = 'ddp', bucket_size = 0}\n",
            "f: `model.wrap` is not a field of `toml-toy`; it has `engine`, `width`, `scale` and `sizes`.",
        ),
        ("a =\n", "f:1:4: this is not TOML: invalid value."),
        ("a = 1\na = 2\n", "f:2:6: this is not TOML: cannot overwrite a value."),
        ('a = "', "f:1:6: the text ends too early: unterminated string."),
        ("a = " + "[" * 5000, "f: a config must nest at most 64 levels deep, but this nests deeper."),
        (".".join("a" * 70) + " = 1", "f:1:1: a config must nest at most 64 levels deep, but this nests deeper."),
        ("a = " + "9" * 5000, "f: a number must have at most 4300 digits."),
        ("", "f: the file is empty; start it with `modelwright: 1` (a run) or `kind: …` (a model)."),
    ],
)
def test_bad_toml(text: str, message: str) -> None:
    assert message_of(text) == message
