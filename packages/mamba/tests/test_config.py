"""Derived values and rules of a Mamba's config. No torch."""

import dataclasses
import subprocess
import sys
from itertools import pairwise
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
from modelwright.mamba import MambaModelConfig, hybrid_pattern
from modelwright.protocols import ModelwrightError
from tests.messages import facts

SMALL = MambaModelConfig(num_layers=4, hidden_size=64, mamba_head_dim=16, vocab_size=250, seq_length=64)
HYBRID = replace(SMALL, num_layers=None, pattern="M-|M*", num_attention_heads=4, num_query_groups=2)
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "mamba-tiny.yaml"
EMPTY_STAGE = "`pattern` `|`"
HUGE = 10**400


def facts_of(function: Any, *args: Any, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*args, **values)
    return facts(caught.value)


def test_importing_loads_no_torch() -> None:
    code = (
        "import sys, modelwright.mamba as m, modelwright.mamba.presets; m.mamba_tiny(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_the_stack_of_a_pure_model() -> None:
    assert SMALL.stack_pattern == SMALL.layers == "MMMM"
    assert (SMALL.symbols, SMALL.blocks) == ({"M"}, 4)
    assert (SMALL.resolved_mamba_heads, SMALL.padded_vocab_size) == (8, 256)


def test_the_stack_of_a_hybrid() -> None:
    assert HYBRID.stack_pattern == "M-|M*"
    assert HYBRID.layers == "M-M*"
    assert (HYBRID.symbols, HYBRID.blocks) == ({"M", "-", "*"}, 4)
    assert replace(HYBRID, num_layers=4).blocks == 4
    assert (HYBRID.heads, HYBRID.resolved_query_groups, HYBRID.resolved_head_dim) == (4, 2, 16)


def test_heads_of_the_scan() -> None:
    assert replace(SMALL, expand=1.5).resolved_mamba_heads == 6
    assert replace(SMALL, mamba_num_heads=6, expand=1.1).resolved_mamba_heads == 6
    fields = replace(SMALL, mamba_num_groups=2).engine_fields()
    names = ("mamba_state_dim", "mamba_head_dim", "mamba_num_heads", "mamba_num_groups", "num_layers")
    assert [fields[name] for name in names] == [128, 16, 8, 2, 4]


NO_SCAN = {"mamba_head_dim": 64}
"""The defaults of the fields of Mamba-2 layers that `SMALL` sets."""


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (replace(SMALL, mamba_num_groups=2), (8, 8, 16)),
        (replace(SMALL, num_layers=None, pattern="--", ffn_hidden_size=96, **NO_SCAN), (96, 96, 64)),
    ],
    ids=["Mamba alone", "MLP alone"],
)
def test_the_engine_gets_heads_without_attention(config: MambaModelConfig, expected: tuple[int, int, int]) -> None:
    """The engine wants heads that the tensor ranks divide, though no layer is attention."""
    fields = config.engine_fields()
    assert (fields["num_attention_heads"], fields["num_query_groups"], fields["kv_channels"]) == expected
    check_layout(config, Parallelism(tensor=2))


@pytest.mark.parametrize(
    ("layers", "changes"),
    [
        ("MM", {"num_attention_heads": 3}),
        ("MM", {"num_query_groups": 3}),
        ("MM", {"position_embedding": "rope"}),
        ("MM", {"rotary_base": 1.0}),
        ("MM", {"sliding_window": 4}),
        ("MM", {"ffn_hidden_size": 96}),
        ("MM", {"activation": "gelu"}),
        ("MM", {"linear_bias": True}),
        ("M-", {"num_experts": 4}),
        ("M-", {"top_k": 1}),
        ("M-", {"load_balancing": "none"}),
        ("--", {"mamba_head_dim": 16}),
        ("--", {"mamba_num_heads": 2}),
        ("--", {"expand": 1.0}),
        ("--", {"kernels": "torch"}),
    ],
)
def test_fields_of_layers_that_are_not_there_are_refused(layers: str, changes: dict[str, Any]) -> None:
    config = replace(SMALL, num_layers=None, pattern=layers, **NO_SCAN)
    assert facts_of(replace, config, **changes).startswith(f"without_effect: `{next(iter(changes))}`")


def pattern(text: str, **changes: Any) -> dict[str, Any]:
    return {"num_layers": None, "pattern": text, **changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_layers": None}, "`num_layers` `pattern`"),
        (
            pattern("MM-XM"),
            ("`pattern` `M` `*` `-` `E` `|` `X`\n    MM-XM\n       ^"),
        ),
        (pattern("MM||M"), f"{EMPTY_STAGE}\n    MM||M\n       ^"),
        (pattern("|MM"), f"{EMPTY_STAGE}\n    |MM\n    ^"),
        (pattern("MM|"), f"{EMPTY_STAGE}\n    MM|\n      ^"),
        (pattern(""), f"{EMPTY_STAGE}\n    \n    ^"),
        (
            pattern("MM", num_layers=3),
            "`num_layers` `pattern` 3 2",
        ),
        (
            pattern("M*"),
            "`num_attention_heads` null",
        ),
        (
            pattern("M*", num_attention_heads=7),
            "`num_attention_heads` `hidden_size` 7 64 1 2 4 8 16 32 64",
        ),
        (
            pattern("M*", num_attention_heads=8, num_query_groups=3),
            "`num_query_groups` `num_attention_heads` 3 8 1 2 4 8",
        ),
        (
            pattern("M*", num_attention_heads=8, rope_scaling=Llama3RopeScaling()),
            "`rope_scaling` `position_embedding: rope` `none` null",
        ),
        (
            {"hidden_size": 10},
            "`expand` `hidden_size` `mamba_head_dim` 2.0 10 16 `mamba_num_heads`",
        ),
        (
            {"expand": 1e308, "hidden_size": 10**15},
            "`expand` `hidden_size` `mamba_head_dim` 1e+308 1000000000000000 16 `mamba_num_heads`",
        ),
        (
            {"mamba_num_heads": 6, "mamba_num_groups": 4},
            "`mamba_num_groups` `mamba_num_heads` 4 6 1 2 3 6",
        ),
        (
            {"a_init_range": (2.0, 1.0)},
            "`a_init_range` 2.0 1.0",
        ),
        (
            {"dt_init_range": (0.1, 0.01)},
            "`dt_init_range` 0.1 0.01",
        ),
        (
            {"dt_limit": (float("nan"), 1.0)},
            "`dt_limit` nan 1.0",
        ),
        ({"a_init_range": (0.0, 1.0)}, "wrong_value: `a_init_range[0]` 0.0 0.0"),
        ({"expand": 0.0}, "wrong_value: `expand` 0.0 0.0"),
        *(
            (
                {"dt_limit": (low, high)},
                f"`dt_limit` {low} {high} 0",
            )
            for low, high in ((-2.0, -1.0), (-1.0, 0.0), (float("inf"), float("inf")))
        ),
        ({"chunk_size": 0}, "wrong_value: `chunk_size` 1 0"),
        (
            {"kernels": "cuda"},
            'wrong_value: `kernels` `auto` `torch` `mamba_ssm` "cuda"',
        ),
        (
            {"mamba_state_dims": 3},
            "unknown_field: `mamba_state_dims` `mamba` `mamba_state_dim`",
        ),
        (
            {"activation": "swigelu"},
            (
                "wrong_value: `activation` `swiglu` `geglu` `gelu` `gelu_tanh` `relu` `squared_relu` `silu` "
                "`swigelu` `swiglu`"
            ),
        ),
    ],
)
def test_rules(changes: dict[str, Any], expected: str) -> None:
    assert facts_of(replace, SMALL, **changes) == expected


def test_everything_that_is_wrong_is_said_at_once() -> None:
    wrong = pattern("MMXM", mamba_num_groups=3, dt_limit=(1.0, 0.5))
    assert facts_of(replace, SMALL, **wrong).splitlines() == [
        "`pattern` `M` `*` `-` `E` `|` `X`",
        "    MMXM",
        "      ^",
        "`mamba_num_groups` `mamba_num_heads` 3 8 1 2 4 8",
        "`dt_limit` 1.0 0.5",
    ]


def test_a_file_says_where() -> None:
    text = "kind: mamba\npattern: 'M-Q'\nhidden_size: 64\nvocab_size: 256\nseq_length: 64\n"
    assert facts_of(loads, text).splitlines() == [
        "2 10 `pattern` `M` `*` `-` `E` `|` `Q`",
        "    M-Q",
        "      ^",
    ]


@pytest.mark.parametrize("name", ["num_layers", "hidden_size", "vocab_size", "seq_length"])
@pytest.mark.parametrize("given", [10**22, HUGE], ids=["10**22", "10**400"])
def test_huge_numbers(name: str, given: int) -> None:
    """Values from an untrusted file are accepted or refused at once, without an overflow."""
    config = replace(SMALL, mamba_num_heads=8, mamba_num_groups=2, **{name: given})
    assert loads(dumps(config)) == config
    check_layout(config, Parallelism(tensor=2))


@pytest.mark.parametrize("name", ["hidden_size", "mamba_head_dim", "mamba_num_groups"])
def test_huge_numbers_that_do_not_fit(name: str) -> None:
    assert str(HUGE) in facts_of(replace, SMALL, **{name: HUGE})
    assert facts_of(replace, SMALL, expand=0.25, hidden_size=HUGE).startswith("`expand` `hidden_size`")


@pytest.mark.parametrize(
    ("config", "axes"),
    [
        (replace(SMALL, mamba_num_groups=2), {"tensor": 2, "sequence": True}),
        (SMALL, {"pipeline": 2, "virtual_pipeline": 2}),
        (SMALL, {"pipeline": 2, "stages": (1, 3)}),
        (SMALL, {"context": 2}),
        (replace(SMALL, mamba_num_groups=8), {"tensor": 2, "context": 2}),
        (replace(SMALL, mamba_num_groups=2), {"tensor": 2, "context": 4}),
        (HYBRID, {}),
        (HYBRID, {"pipeline": 2}),
        (replace(HYBRID, mamba_num_groups=2), {"pipeline": 2, "tensor": 2}),
        (replace(HYBRID, pattern="M-*M"), {"pipeline": 2, "virtual_pipeline": 2}),
        (replace(HYBRID, pattern="-*", **NO_SCAN), {"tensor": 2}),
    ],
)
def test_layouts_that_fit(config: MambaModelConfig, axes: dict[str, Any]) -> None:
    check_layout(config, Parallelism(**axes))


@pytest.mark.parametrize(
    ("config", "axes", "expected"),
    [
        (
            SMALL,
            {"tensor": 3},
            [
                "`vocab_multiple` 128 256 `tensor` 3 3",
                "`mamba_num_heads` `tensor` 8 3 6 9 2 4 `tensor`",
                "`mamba_num_groups` `tensor` 1 3 3 1 `tensor`",
            ],
        ),
        (
            replace(SMALL, mamba_num_heads=6, mamba_num_groups=2),
            {"tensor": 2, "context": 2},
            ["`mamba_num_heads` `tensor` `context` 6 4 4 8"],
        ),
        (
            replace(SMALL, mamba_num_heads=6, mamba_num_groups=3),
            {"context": 2},
            ["`mamba_num_groups` `tensor` `context` 3 2"],
        ),
        (
            HYBRID,
            {"tensor": 4, "pipeline": 3},
            [
                "`num_query_groups` `tensor` 2 4 4 2 `tensor`",
                "`pattern` `pipeline` `virtual_pipeline` 3 2 `|`",
                "`mamba_num_groups` `tensor` 1 4 4 1 `tensor`",
            ],
        ),
        (
            HYBRID,
            {"pipeline": 2, "stages": (2, 2)},
            ["`parallelism.stages` null `pattern`"],
        ),
        (
            replace(SMALL, num_layers=None, pattern="M-M"),
            {"pipeline": 2},
            ["`num_layers` `pipeline` `virtual_pipeline` 3 2 2 4 1 3 `pipeline`"],
        ),
        (
            SMALL,
            {"pipeline": 2, "stages": (1, 2)},
            ["`num_layers` `parallelism.stages` 4 3"],
        ),
        (
            replace(SMALL, seq_length=66),
            {"context": 2},
            ["`seq_length` 2 `context` 66 4 64 68"],
        ),
        (SMALL, {"expert": 2}, ["`expert` 1 `mamba` 2"]),
    ],
)
def test_layouts_that_do_not_fit(config: MambaModelConfig, axes: dict[str, Any], expected: list[str]) -> None:
    assert facts_of(check_layout, config, Parallelism(**axes)).splitlines() == expected


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((4, 0, 0), "MMMM"),
        ((8, 1, 0), "MM*MMMMM"),
        ((8, 0, 4), "M-M-M-M-"),
        ((10, 2, 2), "M*M-MM*M-M"),
        ((24, 3, 6), "M-M*MM-MM-M*MM-MM-M*MM-M"),
        ((1, 1, 0), "*"),
        ((0, 0, 0), ""),
    ],
)
def test_patterns_made(counts: tuple[int, int, int], expected: str) -> None:
    num_layers, attention, mlp = counts
    assert hybrid_pattern(num_layers, attention=attention, mlp=mlp) == expected


@pytest.mark.parametrize("num_layers", [5, 12, 52, 97])
def test_patterns_have_exactly_so_many_and_spread_them(num_layers: int) -> None:
    for attention in range(0, num_layers + 1, 3):
        for mlp in range(0, num_layers - attention + 1, 4):
            made = hybrid_pattern(num_layers, attention=attention, mlp=mlp)
            counts = {"*": attention, "-": mlp, "M": num_layers - attention - mlp}
            assert {kind: made.count(kind) for kind in counts} == counts
            for kind, count in counts.items():
                at = [index for index, one in enumerate(made) if one == kind]
                gaps = [after - before for before, after in pairwise(at)]
                assert all(gap < 2 * num_layers / count + 1 for gap in gaps), (made, kind)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (
            {"attention": 3, "mlp": 2},
            "`attention` `mlp` `experts` `num_layers` 3 2 0 4",
        ),
        ({"attention": -1}, "`attention` 0 -1 0"),
        ({"attention": 6, "mlp": -3}, "`mlp` 0 -3 0"),
    ],
)
def test_patterns_that_cannot_be_made(counts: dict[str, int], expected: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        hybrid_pattern(4, **counts)
    assert facts(caught.value) == expected


MOVED: dict[str, Any] = {
    "engine": {"foo": 1}, "num_layers": 2, "hidden_size": 512, "num_attention_heads": 4, "num_query_groups": 2,
    "head_dim": 64, "ffn_hidden_size": 99, "activation": "gelu", "normalization": "layernorm", "norm_epsilon": 1e-6,
    "position_embedding": "learned", "rotary_base": 1e6, "rotary_percent": 0.5, "vocab_size": 17, "vocab_multiple": 1,
    "rope_scaling": Llama3RopeScaling(factor=4.0, low_freq_factor=2.0, high_freq_factor=8.0, original_seq_length=10),
    "seq_length": 32, "tie_embeddings": True, "linear_bias": True, "qkv_bias": True, "qk_norm": True,
    "zero_centered_norm": True, "softmax_scale": 0.5, "attention_softcap": 50.0, "logits_softcap": 30.0,
    "attention_sinks": "learned", "sliding_window": 4, "full_attention_every": 2, "no_rope_every": 2,
    "attention_dropout": 0.1, "hidden_dropout": 0.1, "init_std": 0.0, "pattern": "M-|-M", "mamba_state_dim": 3,
    "mamba_head_dim": 32, "mamba_num_heads": 3, "mamba_num_groups": 2, "expand": 1.5, "conv_width": 2,
    "conv_bias": False, "conv_init": 0.25, "mamba_bias": True, "chunk_size": 7, "gated_norm": False,
    "norm_before_gate": True, "d_per_channel": True, "a_init_range": (1.0, 2.0), "dt_init_range": (0.01, 0.02),
    "dt_init_floor": 1e-3, "dt_limit": (0.001, 0.5), "kernels": "torch", "num_experts": 8, "top_k": 2,
    "expert_ffn_hidden_size": 32, "shared_experts": 1, "shared_expert_ffn_hidden_size": 16, "shared_expert_gate": True,
    "expert_latent_size": 8, "router_score": "sigmoid", "router_pre_softmax": True, "router_groups": 2,
    "router_top_groups": 1, "router_scaling": 2.5, "router_dtype": "float64", "expert_bias": True,
    "expert_bias_rate": 0.01, "load_balancing": "none", "load_balancing_coefficient": 0.1, "z_loss_coefficient": 0.1,
    "capacity_factor": 1.5, "drop_policy": "position", "pad_to_capacity": True, "dispatcher": "allgather",
}  # fmt: skip


EVERY_KIND = replace(
    SMALL,
    num_layers=None,
    pattern="M*-E*",
    num_attention_heads=8,
    position_embedding="rope",
    num_experts=4,
    top_k=3,
    head_dim=16,
)
"""A layer of each kind, so that each field has an effect."""
NEEDED: dict[str, dict[str, Any]] = {
    "full_attention_every": {"sliding_window": 4},
    "position_embedding": {"rope_scaling": None},
    "shared_expert_ffn_hidden_size": {"shared_experts": 1},
    "shared_expert_gate": {"shared_experts": 1},
    "router_groups": {"router_top_groups": 2},
    "router_top_groups": {"router_groups": 1},
    "expert_bias": {"router_score": "sigmoid"},
    "expert_bias_rate": {"router_score": "sigmoid", "expert_bias": True},
    "drop_policy": {"capacity_factor": 1.0},
    "pad_to_capacity": {"capacity_factor": 1.0},
}
"""Other fields without which a field is refused."""


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(MambaModelConfig)])
def test_every_field_comes_back(name: str) -> None:
    base = SMALL if name in {"num_layers", "pattern"} else EVERY_KIND
    config = replace(base, **NEEDED.get(name, {}), **{name: MOVED[name]})
    assert config != base
    for full in (False, True):
        assert loads(dumps(config, full=full)) == config
        assert loads(dumps(config, full=full, format="json"), format="json") == config
    assert MambaModelConfig.from_dict(config.as_dict()) == config
    assert fingerprint(MambaModelConfig.from_dict(config.as_dict())) == fingerprint(config) != fingerprint(base)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the package stands alone")
def test_the_example_is_a_valid_run() -> None:
    run = load(EXAMPLE)
    assert isinstance(run, RunConfig)
    assert isinstance(run.model, MambaModelConfig)
    assert run.parallelism.world_size() == 2
    assert loads(dumps(run)) == loads(dumps(run, full=True)) == run
