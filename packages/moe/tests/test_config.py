"""What the config of a model of experts derives and refuses, every refusal before anything is built. No torch."""

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
    RunConfig,
    check_layout,
    dumps,
    fingerprint,
    load,
    loads,
    replace,
)
from modelwright.moe import LatentAttention, MoeModelConfig

SMALL = MoeModelConfig(
    num_layers=4, hidden_size=256, num_attention_heads=8, num_experts=8, top_k=2, vocab_size=250, seq_length=64
)
GROUPED = replace(SMALL, num_experts=16, top_k=4, router_groups=8, router_top_groups=2)
BY_PATTERN = replace(SMALL, num_layers=None, pattern="*-*E")
LATENT = LatentAttention(query_rank=24, key_value_rank=16, head_dim=8, rotary_head_dim=4, value_head_dim=8)
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "moe-tiny.yaml"


def message_of(function: Any, *args: Any, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*args, **values)
    return str(caught.value)


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
    ("base", "changes", "message"),
    [
        (SMALL, {"top_k": 9}, "`top_k` must be at most `num_experts`, but 9 is above 8; lower it."),
        (
            SMALL,
            {"capacity_factor": 1.5, "dispatcher": "allgather"},
            (
                "`capacity_factor` must be null with `dispatcher: allgather`, which drops no tokens, but 1.5 was given;"
                " use `alltoall`, or leave it out."
            ),
        ),
        (
            SMALL,
            {"pad_to_capacity": True},
            "`pad_to_capacity` needs a `capacity_factor`, but that is null; set both or neither.",
        ),
        (
            SMALL,
            {"pad_to_capacity": True, "capacity_factor": 4.5},
            (
                "`capacity_factor` × `top_k` must be at most `num_experts` with `pad_to_capacity`,"
                " because the capacity cannot exceed the number of tokens, but 4.5 × 2 is above 8;"
                " lower it, or do not pad."
            ),
        ),
        *(
            (
                SMALL,
                {"num_layers": None, "pattern": pattern},
                (
                    "`pattern` must be blocks of attention (`*` or `+`) and then an MLP (`-`) or MoE layer (`E`), with"
                    f" `|` between stages, but {pattern!r} is not; {advice}.\n    {pattern}\n    {' ' * index}^"
                ),
            )
            for pattern, index, advice in (
                ("*-*E*M*E", 5, "use the family `mamba` for `M`"),
                ("*E||*E", 3, "an example is `*-*E`"),
                ("|*E", 0, "an example is `*-*E`"),
                ("*E*", 3, "an example is `*-*E`"),
                ("*E|", 3, "an example is `*-*E`"),
                ("E*", 0, "an example is `*-*E`"),
            )
        ),
        (
            GROUPED,
            {"router_top_groups": 1},
            (
                "`router_top_groups` must leave at least `top_k` experts, but 1 groups of 2 have 2, fewer than 4;"
                " use 2 or more."
            ),
        ),
        (
            GROUPED,
            {"router_groups": 5},
            "`router_groups` must divide `num_experts`, but 5 does not divide 16; use 1, 2, 4, 8 or 16.",
        ),
        (
            GROUPED,
            {"router_top_groups": 9, "top_k": 16},
            "`router_top_groups` must be at most `router_groups`, but 9 is above 8; lower it.",
        ),
        (
            GROUPED,
            {"router_top_groups": 5},
            "`router_top_groups` must be at most `top_k`, but 5 is above 4; lower it.",
        ),
        (
            GROUPED,
            {"router_groups": None},
            "`router_top_groups` needs `router_groups`, but that is null; set both or neither.",
        ),
        (
            GROUPED,
            {"router_top_groups": None},
            "`router_groups` needs `router_top_groups`, but that is null; set both or neither.",
        ),
        (
            BY_PATTERN,
            {"pattern": "*-*-"},
            "`pattern` must contain an MoE layer, `E`, but '*-*-' has none; add one, or use the family `gpt`.",
        ),
        (
            BY_PATTERN,
            {"pattern": "*E|E"},
            (
                "`pattern` must be blocks of attention (`*` or `+`) and then an MLP (`-`) or MoE layer (`E`),"
                " with `|` between"
                " stages, but '*E|E' is not; an example is `*-*E`.\n    *E|E\n       ^"
            ),
        ),
        (
            BY_PATTERN,
            {"pattern": "*-+E"},
            (
                "`pattern` must contain the attention `*` if `latent_attention` is null, but contains `+`; change one"
                " of them."
            ),
        ),
        (
            BY_PATTERN,
            {"latent_attention": LATENT},
            (
                "`pattern` must contain the attention `+` if `latent_attention` is given, but contains `*`; change one"
                " of them."
            ),
        ),
        (
            BY_PATTERN,
            {"moe_every": 2},
            "`moe_every` must be left out with `pattern`, but 2 was given; leave it out.",
        ),
        (
            SMALL,
            {"pattern": "*E"},
            "`num_layers` must be left out with `pattern`, which defines it, but 4 was given; leave one of them out.",
        ),
        (
            SMALL,
            {"num_layers": None},
            "`num_layers` must be set if `pattern` is not, but both are null; set one of them.",
        ),
        (
            SMALL,
            {"first_dense_layers": 4},
            (
                "`num_layers` must be at least `first_dense_layers` + `moe_every` = 5 for a block to have"
                " experts, but 4 was"
                " given; use 5 or more, or the family `gpt`."
            ),
        ),
        (
            SMALL,
            {"top_k": 1},
            (
                "`router_pre_softmax` must be true with `top_k` 1, because the softmax over one selected expert"
                " is always 1"
                " and gives the router no gradient, but is false; set it."
            ),
        ),
        (
            SMALL,
            {"router_score": "sigmoid", "router_pre_softmax": True},
            "`router_pre_softmax` needs `router_score: softmax`, but `sigmoid` was given; change one of them.",
        ),
        (
            SMALL,
            {"expert_bias": True},
            "`expert_bias` needs `router_score: sigmoid`, but `softmax` was given; change one of them.",
        ),
        (
            SMALL,
            {"shared_expert_gate": True},
            "`shared_expert_gate` needs `shared_experts` above 0, but there are none; set both or neither.",
        ),
        (
            SMALL,
            {"shared_experts": 1, "linear_bias": True},
            (
                "`linear_bias` must be false with `shared_experts`, which the engine builds without biases,"
                " but is true; change one of them."
            ),
        ),
        (
            SMALL,
            {"qk_norm_over": "heads"},
            "`qk_norm_over: heads` needs `qk_norm: true`, but it is false; set it, or leave this one out.",
        ),
        (
            SMALL,
            {"latent_attention": LATENT, "position_embedding": "learned"},
            (
                "`position_embedding` must be `rope` with `latent_attention`, which does not use it, but"
                " `learned` was"
                " given."
            ),
        ),
        (
            SMALL,
            {"latent_attention": LATENT, "num_query_groups": 2},
            (
                "`num_query_groups` must be null with `latent_attention`, which does not use it, but another"
                " value was given."
            ),
        ),
        (SMALL, {"num_experts": 0}, "`num_experts` must be at least 1, but 0 was given."),
        (
            SMALL,
            {"load_balancing": "auxx"},
            (
                '`load_balancing` must be `none`, `aux`, `seq_aux` or `global_aux`, but the string "auxx" was'
                " given; did"
                " you mean `aux`?"
            ),
        ),
        (SMALL, {"num_expert": 3}, "`num_expert` is not a field of `moe`; did you mean `num_experts`?"),
    ],
)
def test_rules(base: MoeModelConfig, changes: dict[str, Any], message: str) -> None:
    assert message_of(replace, base, **changes) == message


def test_the_rule_of_latent_attention() -> None:
    assert message_of(replace, LATENT, rotary_head_dim=5) == (
        "`rotary_head_dim` must be even, because rope rotates pairs, but 5 was given."
    )


def test_every_problem_is_told_at_once() -> None:
    told = message_of(replace, SMALL, top_k=9, expert_bias=True, capacity_factor=1.0, dispatcher="allgather")
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
            [
                (
                    "`num_experts` must be a multiple of `expert`, but 8 is not a multiple of 3;"
                    " use 6 or 9, or 2 or 4 for `expert`."
                )
            ],
        ),
        (
            {"expert_ffn_hidden_size": 65},
            {"data": 2, "expert_tensor": 2},
            [
                (
                    "`expert_ffn_hidden_size` must be a multiple of `expert_tensor`, but 65 is not a multiple of 2;"
                    " use 64 or 66."
                )
            ],
        ),
        (
            {"shared_experts": 3, "shared_expert_ffn_hidden_size": 5},
            {"tensor": 2, "sequence": True, "expert_tensor": 1},
            [
                (
                    "`shared_expert_ffn_hidden_size` must be a multiple of `tensor`, all shared experts"
                    " together, but 15 is"
                    " not a multiple of 2; use 14 or 16."
                )
            ],
        ),
        (
            {"linear_bias": True},
            {"data": 2, "expert_tensor": 2},
            [
                (
                    "`linear_bias` must be false with `expert_tensor` above 1, because the engine's experts"
                    " cannot split it, but is"
                    " true and `expert_tensor` is 2; change one of them."
                )
            ],
        ),
        (
            {"qk_norm": True, "qk_norm_over": "heads"},
            {"tensor": 2, "sequence": True},
            [
                (
                    "`qk_norm_over` must be `head` with `tensor` above 1, because it separates the"
                    " heads of a token, but"
                    " `heads` was given and `tensor` is 2."
                )
            ],
        ),
        (
            {"latent_attention": LATENT, "num_attention_heads": 9},
            {"tensor": 2, "sequence": True},
            [
                (
                    "`num_attention_heads` must be a multiple of `tensor`, but 9 is not a multiple of 2;"
                    " use 8 or 10, or 1 or 3 for `tensor`."
                )
            ],
        ),
        (
            {"num_layers": None, "pattern": "*E|*E"},
            {"pipeline": 4},
            [
                (
                    "`pattern` must have `pipeline` × `virtual_pipeline` = 4 stages, but has 2; "
                    "change the boundaries `|` or the parallelism."
                )
            ],
        ),
        (
            {"first_dense_layers": 1},
            {"pipeline": 3},
            [
                (
                    "`num_layers` must be a multiple of `pipeline` × `virtual_pipeline`, but 4 is not a multiple"
                    " of 3; use 3 or 6, or 2 or 4 for `pipeline`."
                )
            ],
        ),
    ],
)
def test_layouts_that_do_not_fit(changes: dict[str, Any], axes: dict[str, Any], expected: list[str]) -> None:
    assert message_of(check_layout, replace(SMALL, **changes), Parallelism(**axes)).splitlines() == expected


def test_training_over_tensor_ranks_needs_the_sequence_cut_too() -> None:
    """Cut so, the model may be built and run; the engine refuses to train it, at the first batch."""
    check_layout(SMALL, Parallelism(tensor=2))
    assert message_of(RunConfig, model=SMALL, parallelism=Parallelism(tensor=2)) == (
        "`parallelism.sequence` must be true to train MoE layers with `tensor` above 1, because the engine"
        " would route every token on each of the 2 ranks, but is false; set it."
    )
    RunConfig(model=SMALL, parallelism=Parallelism(tensor=2, sequence=True))


def test_a_huge_model_is_judged_without_writing_its_layers_down() -> None:
    assert replace(SMALL, num_layers=10**15, moe_every=2).symbols == frozenset("*-E")


MOVED: dict[str, Any] = {
    "engine": {"foo": 1}, "num_layers": 2, "hidden_size": 512, "num_attention_heads": 4, "num_query_groups": 2,
    "head_dim": 64, "ffn_hidden_size": 99, "activation": "gelu", "normalization": "layernorm", "norm_epsilon": 1e-6,
    "position_embedding": "learned", "rotary_base": 1e6, "rotary_percent": 0.5, "vocab_size": 17, "vocab_multiple": 1,
    "rope_scaling": Llama3RopeScaling(factor=4.0), "seq_length": 32, "tie_embeddings": True, "linear_bias": True,
    "qkv_bias": True, "qk_norm": True, "attention_dropout": 0.1, "hidden_dropout": 0.1, "init_std": 0.0,
    "latent_attention": LATENT, "first_dense_layers": 1, "moe_every": 2, "num_experts": 4, "top_k": 3,
    "expert_ffn_hidden_size": 3, "shared_experts": 2, "expert_latent_size": 9, "router_pre_softmax": True,
    "router_scaling": 2.5, "router_dtype": "params", "expert_bias_rate": 0.1, "load_balancing": "none",
    "load_balancing_coefficient": 0.0, "z_loss_coefficient": 1e-4, "capacity_factor": 1.25, "drop_policy": "position",
    "dispatcher": "allgather", "router_score": "sigmoid",
}  # fmt: skip
TOGETHER: dict[str, dict[str, Any]] = {
    "pattern": {"num_layers": None, "pattern": "*E*-"},
    "qk_norm_over": {"qk_norm": True, "qk_norm_over": "heads"},
    "shared_expert_ffn_hidden_size": {"shared_experts": 1, "shared_expert_ffn_hidden_size": 7},
    "shared_expert_gate": {"shared_experts": 1, "shared_expert_gate": True},
    "router_groups": {"router_groups": 4, "router_top_groups": 1},
    "router_top_groups": {"router_groups": 4, "router_top_groups": 2},
    "expert_bias": {"router_score": "sigmoid", "expert_bias": True},
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
