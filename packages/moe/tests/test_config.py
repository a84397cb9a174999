"""Derived values and rules of the config of a model with experts. No torch."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelwright.config import (
    ConfigError,
    Llama3RopeScaling,
    Parallelism,
    Precision,
    RunConfig,
    check_layout,
    dumps,
    fingerprint,
    load,
    loads,
    replace,
)
from modelwright.moe import LatentAttention, MoeModelConfig
from tests.messages import facts

SMALL = MoeModelConfig(
    num_layers=4, hidden_size=256, num_attention_heads=8, num_experts=8, top_k=2, vocab_size=250, seq_length=64
)
GROUPED = replace(SMALL, num_experts=16, top_k=4, router_groups=8, router_top_groups=2)
BY_PATTERN = replace(SMALL, num_layers=None, pattern="*-*E")
LATENT = LatentAttention(query_rank=24, key_value_rank=16, head_dim=8, rotary_head_dim=4, value_head_dim=8)
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "moe-tiny.yaml"


def facts_of(function: Any, *args: Any, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*args, **values)
    return facts(caught.value)


def test_importing_loads_no_torch() -> None:
    code = (
        "import sys, modelwright.moe, modelwright.moe.presets; print('torch' in sys.modules, 'megatron' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        == "False False\n"
    )


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({}, "*E*E*E*E"),
        ({"first_dense_layers": 1}, "*-*E*E*E"),
        ({"moe_every": 2}, "*-*E*-*E"),
        ({"first_dense_layers": 1, "moe_every": 2}, "*-*-*E*-"),
        ({"latent_attention": LATENT, "first_dense_layers": 3}, "+-+-+-+E"),
        ({"num_layers": None, "pattern": "*E*-|*E*E"}, "*E*-|*E*E"),
    ],
)
def test_which_layers_there_are(changes: dict[str, Any], pattern: str) -> None:
    config = replace(SMALL, **changes)
    assert config.stack_pattern == pattern
    assert config.symbols == frozenset(pattern.replace("|", ""))
    assert config.blocks == 4
    assert config.engine_fields()["num_layers"] == 8


def test_derived_widths() -> None:
    assert SMALL.resolved_expert_ffn_hidden_size == SMALL.resolved_ffn_hidden_size == 704
    assert SMALL.shared_ffn_hidden_size == 0
    narrow = replace(SMALL, expert_ffn_hidden_size=64, shared_experts=2)
    assert narrow.shared_ffn_hidden_size == 128
    assert replace(narrow, shared_expert_ffn_hidden_size=100).shared_ffn_hidden_size == 200


def test_in_the_engines_words_without_a_default() -> None:
    fields = replace(
        SMALL,
        expert_latent_size=24,
        router_score="sigmoid",
        router_scaling=2.5,
        router_dtype="float64",
        load_balancing="global_aux",
        load_balancing_coefficient=3e-3,
        capacity_factor=1.5,
        drop_policy="position",
        pad_to_capacity=True,
        shared_experts=1,
        shared_expert_gate=True,
        expert_bias=True,
        expert_bias_rate=2e-3,
    ).engine_fields()
    expected = {
        "moe_latent_size": 24,
        "moe_router_topk_scaling_factor": 2.5,
        "moe_router_dtype": "fp64",
        "moe_router_load_balancing_type": "global_aux_loss",
        "moe_aux_loss_coeff": 3e-3,
        "moe_expert_capacity_factor": 1.5,
        "moe_token_drop_policy": "position",
        "moe_pad_expert_input_to_capacity": True,
        "moe_shared_expert_intermediate_size": 704,
        "moe_shared_expert_gate": True,
        "moe_router_bias_update_rate": 2e-3,
    }
    assert {name: fields[name] for name in expected} == expected
    assert replace(SMALL, dispatcher="allgather").engine_fields()["moe_token_dispatcher_type"] == "allgather"
    assert replace(SMALL, router_pre_softmax=True).engine_fields()["moe_router_pre_softmax"] is True


def test_in_the_engines_words() -> None:
    fields = replace(
        GROUPED, router_score="sigmoid", expert_bias=True, load_balancing="seq_aux", z_loss_coefficient=1e-3
    ).engine_fields()
    assert {name: value for name, value in fields.items() if name.startswith(("moe", "num_moe"))} == {
        "num_moe_experts": 16,
        "moe_router_topk": 4,
        "moe_ffn_hidden_size": 704,
        "moe_shared_expert_intermediate_size": None,
        "moe_shared_expert_gate": False,
        "moe_latent_size": None,
        "moe_router_score_function": "sigmoid",
        "moe_router_pre_softmax": False,
        "moe_router_num_groups": 8,
        "moe_router_group_topk": 2,
        "moe_router_topk_scaling_factor": None,
        "moe_router_dtype": "fp32",
        "moe_router_enable_expert_bias": True,
        "moe_router_bias_update_rate": 1e-3,
        "moe_router_load_balancing_type": "seq_aux_loss",
        "moe_aux_loss_coeff": 1e-2,
        "moe_z_loss_coeff": 1e-3,
        "moe_expert_capacity_factor": None,
        "moe_token_drop_policy": "probs",
        "moe_pad_expert_input_to_capacity": False,
        "moe_token_dispatcher_type": "alltoall",
    }


@pytest.mark.parametrize(
    ("base", "changes", "expected"),
    [
        (SMALL, {"top_k": 9}, "`top_k` `num_experts` 9 8"),
        (
            SMALL,
            {"capacity_factor": 1.5, "dispatcher": "allgather"},
            "`capacity_factor` null `dispatcher: allgather` 1.5 `alltoall`",
        ),
        (
            SMALL,
            {"pad_to_capacity": True},
            "`pad_to_capacity` `capacity_factor` null",
        ),
        (
            SMALL,
            {"pad_to_capacity": True, "capacity_factor": 4.5},
            "`capacity_factor` `top_k` `num_experts` `pad_to_capacity` 4.5 2 8",
        ),
        *(
            (
                SMALL,
                {"num_layers": None, "pattern": pattern},
                (f"`pattern` `*` `+` `-` `E` `|` {pattern!r} {advice}\n    {pattern}\n    {' ' * index}^"),
            )
            for pattern, index, advice in (
                ("*-*E*M*E", 5, "`mamba` `M`"),
                ("*E||*E", 3, "`*-*E`"),
                ("|*E", 0, "`*-*E`"),
                ("*E*", 3, "`*-*E`"),
                ("*E|", 3, "`*-*E`"),
                ("E*", 0, "`*-*E`"),
            )
        ),
        (
            GROUPED,
            {"router_top_groups": 1},
            "`router_top_groups` `top_k` 1 2 2 4 2",
        ),
        (
            GROUPED,
            {"router_groups": 5},
            "`router_groups` `num_experts` 5 16 1 2 4 8 16",
        ),
        (
            GROUPED,
            {"router_top_groups": 9, "top_k": 16},
            "`router_top_groups` `router_groups` 9 8",
        ),
        (
            GROUPED,
            {"router_top_groups": 5},
            "`router_top_groups` `top_k` 5 4",
        ),
        (
            GROUPED,
            {"router_groups": None},
            "`router_top_groups` `router_groups` null",
        ),
        (
            GROUPED,
            {"router_top_groups": None},
            "`router_groups` `router_top_groups` null",
        ),
        (
            BY_PATTERN,
            {"pattern": "*-*-"},
            "`pattern` `E` '*-*-' `gpt`",
        ),
        (
            BY_PATTERN,
            {"pattern": "*E|E"},
            ("`pattern` `*` `+` `-` `E` `|` '*E|E' `*-*E`\n    *E|E\n       ^"),
        ),
        (
            BY_PATTERN,
            {"pattern": "*-+E"},
            "`pattern` `*` `latent_attention` null `+`",
        ),
        (
            BY_PATTERN,
            {"latent_attention": LATENT},
            "`pattern` `+` `latent_attention` `*`",
        ),
        (
            BY_PATTERN,
            {"moe_every": 2},
            "`moe_every` `pattern` 2",
        ),
        (
            SMALL,
            {"pattern": "*E"},
            "`num_layers` `pattern` 4",
        ),
        (
            SMALL,
            {"num_layers": None},
            "`num_layers` `pattern` null",
        ),
        (
            SMALL,
            {"first_dense_layers": 4},
            "`num_layers` `first_dense_layers` `moe_every` 5 4 5 `gpt`",
        ),
        (
            SMALL,
            {"top_k": 1},
            "`router_pre_softmax` true `top_k` 1 1 false",
        ),
        (
            SMALL,
            {"router_score": "sigmoid", "router_pre_softmax": True},
            "`router_pre_softmax` `router_score: softmax` `sigmoid`",
        ),
        (
            SMALL,
            {"expert_bias": True},
            "`expert_bias` `router_score: sigmoid` `softmax`",
        ),
        (
            SMALL,
            {"shared_expert_gate": True},
            "`shared_expert_gate` `shared_experts` 0",
        ),
        (
            SMALL,
            {"shared_experts": 1, "linear_bias": True},
            "`linear_bias` false `shared_experts` true",
        ),
        (
            SMALL,
            {"qk_norm_over": "heads"},
            "`qk_norm_over: heads` `qk_norm: true` false",
        ),
        (
            SMALL,
            {"latent_attention": LATENT, "position_embedding": "learned"},
            "`position_embedding` `rope` `latent_attention` `learned`",
        ),
        (
            SMALL,
            {"latent_attention": LATENT, "num_query_groups": 2},
            "`num_query_groups` null `latent_attention`",
        ),
        (SMALL, {"num_experts": 0}, "wrong_value: `num_experts` 1 0"),
        (
            SMALL,
            {"load_balancing": "auxx"},
            'wrong_value: `load_balancing` `none` `aux` `seq_aux` `global_aux` "auxx" `aux`',
        ),
        (SMALL, {"num_expert": 3}, "unknown_field: `num_expert` `moe` `num_experts`"),
    ],
)
def test_rules(base: MoeModelConfig, changes: dict[str, Any], expected: str) -> None:
    assert facts_of(replace, base, **changes) == expected


def test_the_rule_of_latent_attention() -> None:
    assert facts_of(replace, LATENT, rotary_head_dim=5) == "`rotary_head_dim` 5"


def test_every_problem_is_told_at_once() -> None:
    told = facts_of(replace, SMALL, top_k=9, expert_bias=True, capacity_factor=1.0, dispatcher="allgather")
    assert [line.split("`")[1] for line in told.splitlines()] == ["top_k", "expert_bias", "capacity_factor"]


@pytest.mark.parametrize(
    "axes",
    [
        {"expert": 8},
        {"tensor": 2, "sequence": True, "expert": 4, "expert_tensor": 1},
        {"data": 4, "expert": 2, "expert_tensor": 2, "pipeline": 2},
    ],
)
def test_layouts_that_fit(axes: dict[str, Any]) -> None:
    check_layout(replace(SMALL, shared_experts=1), Parallelism(**axes))


@pytest.mark.parametrize(
    ("changes", "axes", "expected"),
    [
        (
            {},
            {"expert": 3},
            ["`num_experts` `expert` 8 3 6 9 2 4 `expert`"],
        ),
        (
            {"expert_ffn_hidden_size": 65},
            {"data": 2, "expert_tensor": 2},
            ["`expert_ffn_hidden_size` `expert_tensor` 65 2 64 66"],
        ),
        (
            {"shared_experts": 3, "shared_expert_ffn_hidden_size": 5},
            {"tensor": 2, "sequence": True, "expert_tensor": 1},
            ["`shared_expert_ffn_hidden_size` `tensor` 15 2 14 16"],
        ),
        (
            {"linear_bias": True},
            {"data": 2, "expert_tensor": 2},
            ["`linear_bias` false `expert_tensor` 1 true `expert_tensor` 2"],
        ),
        (
            {"qk_norm": True, "qk_norm_over": "heads"},
            {"tensor": 2, "sequence": True},
            ["`qk_norm_over` `head` `tensor` 1 `heads` `tensor` 2"],
        ),
        (
            {"latent_attention": LATENT, "num_attention_heads": 9},
            {"tensor": 2, "sequence": True},
            ["`num_attention_heads` `tensor` 9 2 8 10 1 3 `tensor`"],
        ),
        (
            {"num_layers": None, "pattern": "*E|*E"},
            {"pipeline": 4},
            ["`pattern` `pipeline` `virtual_pipeline` 4 2 `|`"],
        ),
        (
            {"first_dense_layers": 1},
            {"pipeline": 3},
            ["`num_layers` `pipeline` `virtual_pipeline` 4 3 3 6 2 4 `pipeline`"],
        ),
    ],
)
def test_layouts_that_do_not_fit(changes: dict[str, Any], axes: dict[str, Any], expected: list[str]) -> None:
    assert facts_of(check_layout, replace(SMALL, **changes), Parallelism(**axes)).splitlines() == expected


def test_training_over_tensor_ranks_needs_the_sequence_cut_too() -> None:
    """Cut so, the model may be built and run; the engine refuses to train it, at the first batch."""
    check_layout(SMALL, Parallelism(tensor=2))
    assert (
        facts_of(RunConfig, model=SMALL, parallelism=Parallelism(tensor=2))
        == "`parallelism.sequence` true `tensor` 1 2 false"
    )
    RunConfig(model=SMALL, parallelism=Parallelism(tensor=2, sequence=True))


def test_a_huge_model_is_judged_without_writing_its_layers_down() -> None:
    assert replace(SMALL, num_layers=10**15, moe_every=2).symbols == frozenset("*-E")


MOVED: dict[str, Any] = {
    "engine": {"foo": 1}, "num_layers": 2, "hidden_size": 512, "num_attention_heads": 4, "num_query_groups": 2,
    "head_dim": 64, "ffn_hidden_size": 99, "activation": "gelu", "normalization": "layernorm", "norm_epsilon": 1e-6,
    "position_embedding": "learned", "rotary_base": 1e6, "rotary_percent": 0.5, "vocab_size": 17, "vocab_multiple": 1,
    "rope_scaling": Llama3RopeScaling(factor=4.0), "seq_length": 32, "tie_embeddings": True, "linear_bias": True,
    "zero_centered_norm": True, "softmax_scale": 0.5, "attention_softcap": 50.0, "logits_softcap": 30.0,
    "attention_sinks": "learned", "sliding_window": 4, "full_attention_every": 2, "no_rope_every": 2,
    "qkv_bias": True, "qk_norm": True, "attention_dropout": 0.1, "hidden_dropout": 0.1, "init_std": 0.0,
    "latent_attention": LATENT, "first_dense_layers": 1, "moe_every": 2, "num_experts": 4, "top_k": 3,
    "expert_ffn_hidden_size": 3, "shared_experts": 2, "expert_latent_size": 9, "router_pre_softmax": True,
    "router_scaling": 2.5, "router_dtype": "params", "expert_bias_rate": 0.1, "load_balancing": "none",
    "load_balancing_coefficient": 0.0, "z_loss_coefficient": 1e-4, "capacity_factor": 1.25, "drop_policy": "position",
    "dispatcher": "allgather", "router_score": "sigmoid",
}  # fmt: skip
TOGETHER: dict[str, dict[str, Any]] = {
    "full_attention_every": {"sliding_window": 4, "full_attention_every": 2},
    "pattern": {"num_layers": None, "pattern": "*E*-"},
    "qk_norm_over": {"qk_norm": True, "qk_norm_over": "heads"},
    "shared_expert_ffn_hidden_size": {"shared_experts": 1, "shared_expert_ffn_hidden_size": 7},
    "shared_expert_gate": {"shared_experts": 1, "shared_expert_gate": True},
    "router_groups": {"router_groups": 4, "router_top_groups": 1},
    "router_top_groups": {"router_groups": 4, "router_top_groups": 2},
    "expert_bias": {"router_score": "sigmoid", "expert_bias": True},
    "expert_bias_rate": {"router_score": "sigmoid", "expert_bias": True, "expert_bias_rate": 0.1},
    "drop_policy": {"capacity_factor": 1.0, "drop_policy": "position"},
    "pad_to_capacity": {"capacity_factor": 1.0, "pad_to_capacity": True},
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(MoeModelConfig)])
def test_every_field_comes_back(name: str) -> None:
    config = replace(SMALL, **TOGETHER.get(name, {name: MOVED.get(name)}))
    assert getattr(config, name) != getattr(SMALL, name)
    for full in (False, True):
        assert loads(dumps(config, full=full)) == config
        assert loads(dumps(config, full=full, format="json"), format="json") == config
    assert fingerprint(MoeModelConfig.from_dict(config.as_dict())) == fingerprint(config) != fingerprint(SMALL)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the package stands alone")
def test_the_example_is_a_valid_run() -> None:
    run = load(EXAMPLE)
    assert isinstance(run, RunConfig)
    assert isinstance(run.model, MoeModelConfig)
    assert run.parallelism.world_size() == 2
    assert loads(dumps(run)) == loads(dumps(run, full=True)) == run


@pytest.mark.parametrize(("pattern", "refused"), [("*", True), ("*.gate_weight", True), ("*norm*", False)])
def test_the_gate_of_shared_experts_cannot_stay_in_float32(pattern: str, refused: bool) -> None:
    """Validation refuses it, long before the build."""
    gated = replace(SMALL, shared_experts=1, shared_expert_gate=True)
    kept = Precision(params="bfloat16", keep_float32=(pattern,))
    found = [problem.path for problem in gated.precision_problems(kept)]
    assert found == ["keep_float32"] * refused
    assert [*replace(gated, shared_expert_gate=False).precision_problems(kept)] == []
    assert [*gated.precision_problems(replace(kept, params="float32"))] == []
    if refused:
        with pytest.raises(ConfigError, match=r"decoder\.layers\.1\.mlp\.shared_experts\.gate_weight"):
            RunConfig(model=gated, precision=kept)
