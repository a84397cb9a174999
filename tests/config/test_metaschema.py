"""The JSON Schemas are valid, and accept and refuse the same files as loading."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator

from modelwright.config import ModelConfig, RunConfig, dumps, json_schema, preset, presets
from tests.config.schema_lock import kinds
from tests.config.strategies import documents


@pytest.mark.parametrize("kind", kinds())
def test_a_schema_is_valid_under_its_metaschema(kind: str) -> None:
    schema = json_schema(kind)
    Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema


@settings(max_examples=100, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=documents())
def test_every_config_fits_its_schema(config: RunConfig | ModelConfig) -> None:
    validator = Draft202012Validator(json_schema("run" if isinstance(config, RunConfig) else config.kind))
    for full in (False, True):
        data = json.loads(dumps(config, format="json", full=full))
        assert [error.message for error in validator.iter_errors(data)] == []


@pytest.mark.parametrize("name", presets())
def test_every_preset_fits(name: str) -> None:
    config = preset(name)
    Draft202012Validator(json_schema(config.kind)).validate(json.loads(dumps(config, format="json")))


@pytest.mark.parametrize(
    "change",
    [
        {"hiden_size": 3}, {"num_layers": 0}, {"num_layers": "4"}, {"normalization": "rms"}, {"kind": "gtp"},
        {"rope_scaling": {"factor": 2.0}}, {"rope_scaling": {"kind": "linear"}}, {"version": 2}, {"engine": 3},
    ],
)  # fmt: skip
def test_what_loading_refuses_the_schema_refuses(change: dict[str, Any]) -> None:
    data = {**json.loads(dumps(preset("gpt_tiny"), format="json")), **change}
    assert not Draft202012Validator(json_schema("gpt")).is_valid(data)
