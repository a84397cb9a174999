"""A config that is written and read again is equal: every field of every registered config, in every format."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.config import Config, ModelConfig, RunConfig, diff, dumps, fingerprint, loads, replace
from tests.config.families import classes, families
from tests.config.strategies import HolderConfig, documents, moved, start, values

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
EVERY_FIELD = [(cls, one.name) for cls in classes() for one in dataclasses.fields(cls) if one.name != "modelwright"]
# A field that no valid config can move alone: another one has to move with it.
_ONLY_SCAN: dict[str, Any] = {"num_layers": 2, "num_attention_heads": None, "num_experts": None, "top_k": None}
_BOTH: dict[str, dict[str, Any]] = {
    "expert_bias": {"router_score": "sigmoid"},
    "expert_bias_rate": {"router_score": "sigmoid", "expert_bias": True},
    "drop_policy": {"capacity_factor": 1.0},
    "pad_to_capacity": {"capacity_factor": 1.0},
    "shared_expert_ffn_hidden_size": {"shared_experts": 1},
    "shared_expert_gate": {"shared_experts": 1},
    "router_groups": {"num_experts": 64, "router_groups": 1, "router_top_groups": 1},
    "router_top_groups": {"router_groups": 2, "router_top_groups": 2},
}
WITH: dict[str, dict[str, Any]] = {
    **{f"{cls}.{name}": fields for cls in ("MoeModelConfig", "MambaModelConfig") for name, fields in _BOTH.items()},
    "GPTModelConfig.full_attention_every": {"sliding_window": 4, "num_layers": 64},
    "MoeModelConfig.full_attention_every": {"sliding_window": 4, "num_layers": 64},
    "MambaModelConfig.full_attention_every": {"sliding_window": 4, "pattern": "M-E" + "*" * 64},
    "Parallelism.sequence": {"tensor": 2},
    "Parallelism.virtual_pipeline": {"pipeline": 2},
    "Parallelism.stages": {"pipeline": 2},
    "RunConfig.parallelism": {"model": HolderConfig()},
    "MoeModelConfig.qk_norm_over": {"qk_norm": True},
    "MoeModelConfig.pattern": {"num_layers": None, "pattern": "*E"},
    "MoeModelConfig.first_dense_layers": {"num_layers": 10**41},
    "MambaModelConfig.num_layers": {"pattern": None, "position_embedding": "none", **_ONLY_SCAN},
    "MambaModelConfig.pattern": {"pattern": "MM", "position_embedding": "none", **_ONLY_SCAN, "num_layers": None},
    "MegatronDDP.bucket_size": {"overlap_grad_reduce": True},
}


def holds_nan(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(holds_nan, value.values()))
    return any(map(holds_nan, value)) if isinstance(value, list) else isinstance(value, float) and math.isnan(value)


def check(config: RunConfig | ModelConfig, *, full: bool) -> None:
    for form in ("json", "yaml"):
        text = dumps(config, format=form, full=full)
        back = loads(text, format=form)
        assert fingerprint(back) == fingerprint(config), text
        assert diff(back, config) == ()
        assert dumps(back, format=form, full=full) == text
        if isinstance(config, ModelConfig):
            again = type(config).from_dict(config.as_dict())
            assert fingerprint(again) == fingerprint(config)
        if not holds_nan(config.as_dict() if isinstance(config, ModelConfig) else config.model.as_dict()):
            assert back == config, text
            assert hash(back) == hash(config)


def document_of(config: Config) -> RunConfig | ModelConfig | None:
    """Return a document that contains a section."""
    if isinstance(config, RunConfig | ModelConfig):
        return config
    for whole in (RunConfig(model=HolderConfig()), *map(start, families())):
        for holder, name in _holders(whole, type(config)):
            made = moved(holder, name, config)
            if getattr(made, name) != config:
                continue
            if holder is whole:
                return made  # type: ignore[return-value]
            outer = next(field.name for field in dataclasses.fields(whole) if getattr(whole, field.name) is holder)
            found = moved(whole, outer, made)
            if getattr(found, outer) == made:
                return found  # type: ignore[return-value]
    return None


def _holders(whole: Config, cls: type) -> list[tuple[Config, str]]:
    inner = [getattr(whole, field.name) for field in dataclasses.fields(whole)]
    holders = [whole, *(one for one in inner if isinstance(one, Config))]
    return [(holder, field.name) for holder in holders for field in dataclasses.fields(holder)]


@pytest.mark.parametrize(("cls", "name"), EVERY_FIELD, ids=lambda one: getattr(one, "__name__", one))
def test_each_field_moved_off_its_default(cls: type[Config], name: str) -> None:
    tries: list[bool] = []

    @settings(max_examples=20, derandomize=True, database=None, deadline=None, suppress_health_check=QUIET)
    @given(data=st.data())
    def move(data: st.DataObject) -> None:
        base = replace(start(cls), **WITH.get(f"{cls.__name__}.{name}", {}))
        config = moved(base, name, data.draw(values(cls, name)))
        document = document_of(config)
        tries.append(getattr(config, name) != getattr(base, name) and document is not None)
        if tries[-1] and document is not None:
            check(document, full=data.draw(st.booleans()))

    move()
    assert any(tries), f"no valid value of `{cls.__name__}.{name}` was found; say in WITH what has to move with it"


@pytest.mark.parametrize("examples", [200, pytest.param(2000, marks=pytest.mark.proof)])
def test_random_combinations(examples: int) -> None:
    @settings(max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=QUIET)
    @given(config=documents(), full=st.booleans())
    def comes_back(config: RunConfig | ModelConfig, full: bool) -> None:
        check(config, full=full)

    comes_back()


def test_the_classes_are_found() -> None:
    found = {cls.__name__ for cls in classes()}
    assert {"GPTModelConfig", "RunConfig", "TrainConfig", "Parallelism", "MegatronDDP", "CosineSchedule"} <= found
