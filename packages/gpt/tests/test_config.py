"""Derived values and rules of a GPT's config. No torch."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelwright.config import (
    ConfigError,
    Llama3RopeScaling,
    Parallelism,
    RunConfig,
    check_layout,
    dumps,
    fingerprint,
    load,
    loads,
    replace,
)
from modelwright.gpt import GPTModelConfig
from tests.messages import facts

SMALL = GPTModelConfig(num_layers=4, hidden_size=256, num_attention_heads=8, vocab_size=250, seq_length=64)
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "gpt-tiny.yaml"


def facts_of(function: Any, *args: Any, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*args, **values)
    return facts(caught.value)


def test_importing_loads_no_torch() -> None:
    code = (
        "import sys, modelwright.gpt, modelwright.gpt.presets; print('torch' in sys.modules, 'megatron' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        == "False False\n"
    )


def test_derived_values() -> None:
    assert SMALL.resolved_query_groups == 8
    assert SMALL.resolved_head_dim == 32
    assert SMALL.resolved_ffn_hidden_size == 704
    assert SMALL.padded_vocab_size == 256
    assert SMALL.stack_pattern == "*-*-*-*-"
    assert replace(SMALL, activation="gelu").resolved_ffn_hidden_size == 1024
    assert replace(SMALL, hidden_size=384).resolved_ffn_hidden_size == 1024
    assert replace(SMALL, num_query_groups=2, head_dim=48, ffn_hidden_size=100).resolved_query_groups == 2
    assert replace(SMALL, vocab_multiple=1).padded_vocab_size == 250


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"num_attention_heads": 32, "num_query_groups": 5},
            "`num_query_groups` `num_attention_heads` 5 32 1 2 4 8 16 32",
        ),
        (
            {"num_attention_heads": 7},
            "`num_attention_heads` `hidden_size` 7 256 1 2 4 8 16 32 64 128 256",
        ),
        (
            {"activation": "swigelu"},
            (
                "wrong_value: `activation` `swiglu` `geglu` `gelu` `gelu_tanh` `relu` `squared_relu` `silu` "
                "`swigelu` `swiglu`"
            ),
        ),
        (
            {"head_dim": 33},
            "`head_dim` `rotary_percent` 0 33 1.0 33",
        ),
        (
            {"position_embedding": "none", "rope_scaling": Llama3RopeScaling()},
            "`rope_scaling` `position_embedding: rope` `none` null",
        ),
        (
            {"normalization": "rmsnrom"},
            'wrong_value: `normalization` `rmsnorm` `layernorm` "rmsnrom" `rmsnorm`',
        ),
        ({"num_layers": 0}, "wrong_value: `num_layers` 1 0"),
        ({"attention_dropout": 1.0}, "wrong_value: `attention_dropout` 1.0 1.0"),
        ({"hidden_sise": 3}, "unknown_field: `hidden_sise` `gpt` `hidden_size`"),
    ],
)
def test_rules(changes: dict[str, Any], expected: str) -> None:
    assert facts_of(replace, SMALL, **changes) == expected


@pytest.mark.parametrize(
    "axes",
    [
        {"tensor": 8},
        {"tensor": 2, "sequence": True, "context": 2, "pipeline": 2, "virtual_pipeline": 2},
        {"pipeline": 4},
    ],
)
def test_layouts_that_fit(axes: dict[str, Any]) -> None:
    check_layout(SMALL, Parallelism(**axes))


@pytest.mark.parametrize(
    ("changes", "axes", "expected"),
    [
        (
            {},
            {"tensor": 3},
            [
                "`num_attention_heads` `tensor` 8 3 6 9 2 4 `tensor`",
                "`num_query_groups` `tensor` 8 3 6 9 2 4 `tensor`",
                "`ffn_hidden_size` `tensor` 704 3 702 705 2 4 `tensor`",
                "`vocab_multiple` 128 256 `tensor` 3 3",
            ],
        ),
        (
            {"num_query_groups": 2},
            {"tensor": 4},
            ["`num_query_groups` `tensor` 2 4 4 2 `tensor`"],
        ),
        (
            {},
            {"pipeline": 3, "virtual_pipeline": 2},
            [
                "`num_layers` `pipeline` `virtual_pipeline` 4 6 6",
            ],
        ),
        (
            {"seq_length": 63},
            {"tensor": 2, "sequence": True},
            ["`seq_length` `tensor` 63 2 62 64"],
        ),
        (
            {"seq_length": 66},
            {"context": 2},
            ["`seq_length` 2 `context` 66 4 64 68"],
        ),
        (
            {"seq_length": 66},
            {"context": 2, "tensor": 4, "sequence": True},
            [
                "`seq_length` 2 `context` `tensor` `context` 66 8 64 72",
            ],
        ),
        ({}, {"expert": 2}, ["`expert` 1 `gpt` 2"]),
    ],
)
def test_layouts_that_do_not_fit(changes: dict[str, Any], axes: dict[str, Any], expected: list[str]) -> None:
    assert facts_of(check_layout, replace(SMALL, **changes), Parallelism(**axes)).splitlines() == expected


def test_a_newer_file_names_what_is_installed_and_what_to_do() -> None:
    text = "kind: gpt\nversion: 2\nnum_layers: 1\n"
    assert re.fullmatch(
        "wrong_version: 2 10 `version` `gpt` 2 1 `modelwright-gpt [0-9.]+` `pip install --upgrade modelwright-gpt`",
        facts_of(loads, text),
    )


MOVED: dict[str, Any] = {
    "engine": {"foo": 1}, "num_layers": 2, "hidden_size": 512, "num_attention_heads": 4, "num_query_groups": 2,
    "head_dim": 64, "ffn_hidden_size": 99, "activation": "gelu", "normalization": "layernorm", "norm_epsilon": 1e-6,
    "position_embedding": "learned", "rotary_base": 1e6, "rotary_percent": 0.5, "vocab_size": 17, "vocab_multiple": 1,
    "rope_scaling": Llama3RopeScaling(factor=4.0, low_freq_factor=2.0, high_freq_factor=8.0, original_seq_length=10),
    "seq_length": 32, "tie_embeddings": True, "linear_bias": True, "qkv_bias": True, "qk_norm": True,
    "zero_centered_norm": True, "softmax_scale": 0.5, "attention_softcap": 50.0, "logits_softcap": 30.0,
    "attention_sinks": "learned", "sliding_window": 4, "full_attention_every": 2, "no_rope_every": 2,
    "attention_dropout": 0.1, "hidden_dropout": 0.1, "init_std": 0.0,
}  # fmt: skip


NEEDED: dict[str, dict[str, Any]] = {"full_attention_every": {"sliding_window": 4}}
"""Other fields without which a field is refused."""


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(GPTModelConfig)])
def test_every_field_comes_back(name: str) -> None:
    needed = NEEDED.get(name, {})
    config = replace(SMALL, **needed, **{name: MOVED[name]})
    assert config != SMALL
    for full in (False, True):
        assert loads(dumps(config, full=full)) == config
        assert loads(dumps(config, full=full, format="json"), format="json") == config
    assert GPTModelConfig.from_dict(config.as_dict()) == config
    assert fingerprint(GPTModelConfig.from_dict(config.as_dict())) == fingerprint(config) != fingerprint(SMALL)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the package stands alone")
def test_the_example_is_a_valid_run() -> None:
    run = load(EXAMPLE)
    assert isinstance(run, RunConfig)
    assert isinstance(run.model, GPTModelConfig)
    assert run.parallelism.world_size() == 2
    assert loads(dumps(run)) == loads(dumps(run, full=True)) == run
