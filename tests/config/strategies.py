"""Configs for property tests, drawn from the annotations of the classes alone, so that a new field is covered."""

import dataclasses
import functools
import types
import typing
from typing import Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt
from hypothesis import strategies as st
from pydantic import PlainValidator
from pydantic.fields import FieldInfo

from modelwright.config import (
    AddedLater,
    Config,
    ConfigError,
    ModelConfig,
    RunConfig,
    config_class,
    preset,
    register_config,
    replace,
)
from modelwright.config.files.json_schema import _nested_classes  # pyright: ignore[reportPrivateUsage]
from tests.config.families import families

SMALL = {
    "num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 96, "seq_length": 32, "num_experts": 4,
    "top_k": 2,
}  # fmt: skip
TRICKY = [
    "no",
    "null",
    "~",
    "1e5",
    "123",
    "2024-01-01",
    "0x1F",
    ".inf",
    "<<",
    "=",
    "é…😀",
    "a: b",
    "#",
    "\u2028",
    "\r\n",
    "'",
]
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.sampled_from(TRICKY)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
RARE = st.integers(min_value=1, max_value=10**40)
# Small numbers and powers of two divide each other, which most rules across fields ask for.
SIZES = st.sampled_from([1, 2, 3, 4, 8, 16, 64, 128, 256]) | st.integers(min_value=1, max_value=64) | RARE


@register_config
@config_class
class HolderConfig(ModelConfig):
    """A model without rules, so that a run with it can contain any section."""

    kind: ClassVar[str] = "holder"


def values(cls: type, field: str) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a field, most of them valid alone."""
    hint = typing.get_type_hints(cls, include_extras=True)[field]
    if field == "model":
        return st.one_of(*[configs(family) for family in families()])
    if field == "activation":
        return st.sampled_from(["swiglu", "geglu", "gelu", "gelu_tanh", "relu", "squared_relu", "silu"])
    if field == "pattern":
        moe, mamba = (
            st.sampled_from(["*E", "*-*E", "+E+-", "*E|*-", "*-", "E"]),
            st.text("M*-E|", min_size=1, max_size=4),
        )
        return st.none() | moe | mamba
    return of_hint(hint)


def of_hint(hint: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of an annotation."""
    nested = _nested_classes(hint)
    if nested:
        inner: st.SearchStrategy[Any] = st.one_of(*[configs(cls) for cls in nested])
        return st.none() | inner if types.NoneType in typing.get_args(hint) else inner
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return annotated(args[0], args[1:])
    if origin in {typing.Union, types.UnionType}:
        return st.one_of(*map(of_hint, args))
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(of_hint(args[0]), max_size=4).map(tuple) if ... in args else st.tuples(*map(of_hint, args))
    plain: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(), float: st.floats(), bool: st.booleans(), str: TEXT, types.NoneType: st.none()
    }  # fmt: skip
    return plain[hint]


def annotated(base: Any, markers: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    """Return a strategy for numbers within their bounds, and for the free mapping of `engine`."""
    if any(isinstance(marker, PlainValidator) for marker in markers):
        return (
            st.just(1)
            if base is not dict and typing.get_origin(base) is Literal
            else st.dictionaries(TEXT, PLAIN, max_size=4)
        )
    if any(isinstance(marker, AddedLater) for marker in markers):
        return of_hint(base)
    bounds: dict[str, float] = {}
    for marker in [one for info in markers for one in (info.metadata if isinstance(info, FieldInfo) else [info])]:
        for kind, name in ((Ge, "ge"), (Gt, "gt"), (Le, "le"), (Lt, "lt")):
            if isinstance(marker, kind):
                bounds[name] = getattr(marker, name)
    if base is int:
        return SIZES if bounds.get("ge") == 1 else st.integers(min_value=int(bounds.get("ge", 0)), max_value=10**40)
    return st.floats(
        min_value=bounds.get("ge", bounds.get("gt")),
        max_value=bounds.get("le", bounds.get("lt")),
        exclude_min="gt" in bounds,
        exclude_max="lt" in bounds,
        allow_nan=False,
        allow_infinity=False,
    )


@functools.cache
def start(cls: type[Config]) -> Config:
    """Return a valid config to change."""
    if cls is RunConfig:
        return RunConfig(model=preset("gpt_tiny"))
    if "mamba_state_dim" in {f.name for f in dataclasses.fields(cls)}:  # with layers of every kind
        sizes = {name: value for name, value in SMALL.items() if name != "num_layers"}
        return cls(pattern="M*-E*", position_embedding="rope", **sizes)
    # Where the number of layers has a default, it stands against another way to say which layers there are.
    said = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING or f.name == "num_layers"}
    return cls(**{name: value for name, value in SMALL.items() if name in said})


@st.composite
def configs(draw: st.DrawFn, cls: type[Config]) -> Config:
    """Draw a config with some changed fields; a change is kept if the config remains valid."""
    made = start(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    for name in draw(st.lists(st.sampled_from(names), max_size=6, unique=True)) if names else []:
        made = moved(made, name, draw(values(cls, name)))
    return made


def moved(config: Config, name: str, value: Any) -> Config:
    """Return the config with one field changed, or unchanged if the change breaks a rule."""
    try:
        return replace(config, **{name: value})
    except ConfigError:
        return config


def documents() -> st.SearchStrategy[RunConfig | ModelConfig]:
    """Return a strategy for the configs of a file."""
    return st.one_of(*[configs(cls) for cls in (RunConfig, *families())])  # type: ignore[arg-type]
