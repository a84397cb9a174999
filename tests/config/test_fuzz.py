"""Reading any text gives a config or a `ConfigError`, and nothing else.

2,000 texts here; `nox -s fuzz` runs 100,000 by setting MODELWRIGHT_FUZZ. Plain data and overrides get fewer.
"""

import json
import os
from collections.abc import Callable
from typing import Any, Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.config import ConfigError, ModelConfig, convert, dumps, fingerprint, loads, override, preset
from modelwright.config import RunConfig as Run
from tests.config.hostile import files
from tests.config.strategies import documents

EXAMPLES = int(os.environ.get("MODELWRIGHT_FUZZ", "2000"))
FUZZ = {
    "derandomize": EXAMPLES == 2000,
    "database": None,
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
type Form = Literal["yaml", "json", "toml"]
FORMS: tuple[Form, ...] = ("yaml", "json", "toml")

RUN = Run(model=preset("gpt_tiny"))
RUNS = [RUN, *(Run(model=preset(name)) for name in ("moe_tiny", "mamba_tiny", "hybrid_tiny"))]
TOML = """
modelwright = 1
name = 'a' # b
[model]
kind = "gpt"
num_layers = 4
hidden_size = 256
num_attention_heads = 8
vocab_size = 256
seq_length = 256
engine = {a = [1, 2, {b = "c"}], "d.e" = 1.5}
[train]
lr = 1e-3
[train.lr_schedule]
kind = "linear"
[[model.x]]
"""
SEEDS = [
    *(dumps(run, format=form, full=full) for run in RUNS for form in ("yaml", "json") for full in (False, True)),
    TOML,
    *(content.decode("utf-8", "replace") for content in files().values() if len(content) < 2000),
]
TOKENS = [
    *"{}[]:,-?!&*#|>%@`\"'\\\n\t =.~<_0123456789",
    *("---", "...", "<<", "!!", "null", ".nan", ".inf", "1e999", "0x", "\r\n", "  ", "\u2028", "\x00", "\ud800", "é"),
    *("kind: ", "version: ", "modelwright: 1", "engine: ", '"""', "'''", "[[", "]]", "= ", "\\u", "\\x", "true", "1_0"),
    *("pattern: ", "hybrid_pattern: ", "M*-E|M", "'*|'", "top_k: ", "num_experts: ", "n_groups: "),
    *("&a ", "*a", "? ", ": ", "- ", "|\n", ">-\n", "# ", "{a: ", "[a, ", "2024-01-01", "9" * 5000, "k" * 300),
]


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """Draw a document with parts removed, doubled, moved, or replaced by text that is difficult for parsers."""
    text = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        piece = draw(st.sampled_from([*TOKENS, text[start:end] * 2, ""]) | st.text(max_size=5))
        text = text[:start] + piece + text[end:]
    return text


TEXTS = mangled() | st.lists(st.sampled_from(TOKENS), max_size=30).map("".join) | st.text(max_size=200)


def refusal(function: Callable[..., Any], *arguments: Any, **options: Any) -> ConfigError | None:
    """Return the only exception that is allowed, if it is raised."""
    try:
        function(*arguments, **options)
    except ConfigError as error:
        return error
    return None


def attempt(text: str, form: Form) -> None:
    error = refusal(loads, text, format=form, source="f")
    if error is None:
        config = loads(text, format=form)
        assert fingerprint(loads(dumps(config, full=True))) == fingerprint(config)
        return
    assert error.problems
    assert str(error).startswith("f")
    assert all(str(problem).count("\n") == (2 if problem.excerpt else 0) for problem in error.problems)


@settings(max_examples=EXAMPLES, **FUZZ)
@given(text=TEXTS, form=st.sampled_from(FORMS))
def test_any_text(text: str, form: Form) -> None:
    attempt(text, form)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def wrong(draw: st.DrawFn) -> dict[str, Any]:
    """Draw plain data of a valid document, with values of any type at any place."""
    config = draw(documents())
    data: Any = json.loads(dumps(config, format="json", full=True))
    for _ in range(draw(st.integers(1, 3))):
        at = data
        while True:
            key = draw(st.sampled_from([*at, "kind", "version", "engine", "train", "wrap", "x"]))
            if isinstance(at.get(key), dict) and draw(st.booleans()):
                at = at[key]
                continue
            at[key] = draw(JSON)
            break
    return data


@settings(max_examples=max(EXAMPLES // 10, 500), **FUZZ)
@given(data=wrong(), as_model=st.booleans())
def test_any_data(data: dict[str, Any], as_model: bool) -> None:
    attempt(json.dumps(data), "json")
    for function in (ModelConfig.from_dict, convert) if as_model else (convert,):
        error = refusal(function, data)
        assert error is None or str(error)


@settings(max_examples=max(EXAMPLES // 10, 500), **FUZZ)
@given(
    path=st.sampled_from(["train.lr", "name", "model.engine.a", "wrap", "model", "model.kind", "wrap.kind", "x", ""])
    | st.text(max_size=12),
    value=st.lists(st.sampled_from(TOKENS), max_size=8).map("".join) | st.text(max_size=12),
)
def test_any_override(path: str, value: str) -> None:
    error = refusal(override, RUN, f"{path}={value}")
    assert error is None or str(error)
