"""TOML is read like the other formats; only errors of syntax have line and column."""

from pathlib import Path

import pytest

from modelwright.config import ConfigError, ModelConfig, config_class, load, loads, register_config
from tests.messages import facts


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


def facts_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loads(text, format="toml", source="f")
    return facts(caught.value)


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
    ("text", "expected"),
    [
        (HEAD + "width = 1.5\n", "wrong_type: `model.width` 1.5"),
        (HEAD + "widht = 1\n", "unknown_field: `model.widht` `toml-toy` `width`"),
        (HEAD + 'sizes = [1,\n  "a"]\n', 'wrong_type: `model.sizes[1]` "a"'),
        (HEAD + "[train]\nsteps = 0\n", "wrong_value: `train.steps` 1 0"),
        (
            HEAD + "[train.lr_schedule]\n",
            "missing_field: `train.lr_schedule.kind` `cosine` `linear` `constant`",
        ),
        (HEAD + "[trian]\n", "unknown_field: `trian` `RunConfig` `train`"),
        (HEAD + "engine.a = 2024-01-01\n", "not_plain: `model.engine.a`"),
        (HEAD + "[[model.sizes]]\na = 1\n", "wrong_type: `model.sizes[0]`"),
        (
            HEAD + "wrap = {kind = 'ddp', bucket_size = 0}\n",
            "unknown_field: `model.wrap` `toml-toy` `engine` `width` `scale` `sizes`",
        ),
        ("a =\n", "syntax: f:1:4"),
        ("a = 1\na = 2\n", "syntax: f:2:6"),
        ('a = "', "syntax: f:1:6"),
        ("a = " + "[" * 50_000, "not_plain: 64"),
        (".".join("a" * 70) + " = 1", "not_plain: f:1:1 64"),
        ("a = " + "9" * 5000, "not_plain: 4300"),
        ("", "unreadable: `modelwright: 1` `kind: …`"),
    ],
)
def test_bad_toml(text: str, expected: str) -> None:
    assert facts_of(text) == expected
