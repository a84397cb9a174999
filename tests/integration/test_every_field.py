"""No field is silent: another value of any field gives another model, another run, or an error.

Each field is changed alone. What decides is the footprint of two steps of training (`footprint.py`): losses, gradient
norms and evaluations, shapes of the parameters, operations, communication. A family is tried with its layers of every
kind here, and with few of them in `tests/proofs`, because a field of a layer that is not there must be refused.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from modelwright.config import (
    Config,
    CosineSchedule,
    DecoderConfig,
    MegatronDDP,
    MegatronFSDP,
    Parallelism,
    Precision,
    RunConfig,
    TorchFSDP2,
    TrainConfig,
    YarnRopeScaling,
    field_descriptions,
    replace,
)
from modelwright.distributed import finalize
from modelwright.engine import device_runtime
from modelwright.gpt import GPTModelConfig
from modelwright.mamba import MambaModelConfig
from modelwright.moe import LatentAttention, MoeModelConfig
from modelwright.protocols import ModelwrightError
from modelwright.testing import RankPool
from tests.integration.footprint import Footprint, footprint, second_footprint

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_attention_heads": 4,
    "ffn_hidden_size": 24,
    "vocab_size": 260,
    "seq_length": 8,
}
LATENT = LatentAttention(query_rank=8, key_value_rank=8, head_dim=4, rotary_head_dim=4, value_head_dim=4)
SCAN: dict[str, Any] = {"mamba_head_dim": 8, "mamba_state_dim": 8, "chunk_size": 4, "mamba_num_groups": 2}
BASES: dict[str, DecoderConfig] = {
    "gpt": GPTModelConfig(num_layers=2, **SIZES),
    "gpt without rope": GPTModelConfig(num_layers=2, position_embedding="none", **SIZES),
    "moe": MoeModelConfig(num_layers=2, num_experts=4, top_k=2, **SIZES),
    "mla": MoeModelConfig(num_layers=2, num_experts=4, top_k=2, latent_attention=LATENT, **SIZES),
    "mamba": MambaModelConfig(num_layers=2, hidden_size=16, vocab_size=260, seq_length=8, **SCAN),
    "hybrid": MambaModelConfig(pattern="M*-E", position_embedding="rope", num_experts=4, top_k=2, **SIZES, **SCAN),
    "no scan": MambaModelConfig(pattern="*-", position_embedding="rope", **SIZES),
}

OTHER: dict[str, Any] = {
    "engine": {"deterministic_mode": True}, "num_layers": 3, "hidden_size": 32, "num_attention_heads": 2,
    "num_query_groups": 2, "head_dim": 8, "ffn_hidden_size": 32, "activation": "gelu", "normalization": "layernorm",
    "norm_epsilon": 0.1, "position_embedding": "learned", "rotary_base": 100.0, "rotary_percent": 0.5,
    "rope_scaling": YarnRopeScaling(factor=4.0, original_seq_length=4, beta_fast=2.0), "vocab_size": 400,
    "vocab_multiple": 64, "seq_length": 12, "tie_embeddings": True, "linear_bias": True, "qkv_bias": True,
    "qk_norm": True, "attention_dropout": 0.5, "hidden_dropout": 0.5, "init_std": 0.5, "zero_centered_norm": True,
    "softmax_scale": 2.0, "attention_softcap": 0.01, "logits_softcap": 0.1, "attention_sinks": "learned",
    "sliding_window": 2, "full_attention_every": 2, "no_rope_every": 1, "pattern": "*E*-", "num_experts": 8, "top_k": 3,
    "expert_ffn_hidden_size": 8, "shared_experts": 2, "shared_expert_ffn_hidden_size": 8, "shared_expert_gate": True,
    "expert_latent_size": 8, "router_score": "sigmoid", "router_pre_softmax": True, "router_groups": 2,
    "router_top_groups": 1, "router_scaling": 2.5, "router_dtype": "float64", "expert_bias": True,
    "expert_bias_rate": 0.5, "load_balancing": "seq_aux", "load_balancing_coefficient": 1.0, "z_loss_coefficient": 1.0,
    "capacity_factor": 0.5, "drop_policy": "position", "pad_to_capacity": True, "dispatcher": "allgather",
    "latent_attention": LATENT, "qk_norm_over": "heads", "first_dense_layers": 1, "moe_every": 2,
    "mamba_state_dim": 4, "mamba_head_dim": 4, "mamba_num_heads": 8, "mamba_num_groups": 1, "expand": 1.0,
    "conv_width": 3, "conv_bias": False, "conv_init": 0.9, "mamba_bias": True, "chunk_size": 8, "gated_norm": False,
    "norm_before_gate": True, "d_per_channel": True, "a_init_range": (1.0, 2.0), "dt_init_range": (0.5, 0.6),
    "dt_init_floor": 0.5, "dt_limit": (0.0, 0.001), "kernels": "mamba_ssm",
}  # fmt: skip
"""Another value of each field."""

INSTEAD: dict[tuple[str, str], Any] = {
    ("mla", "latent_attention"): None,
    ("mamba", "pattern"): "MMM",
    ("hybrid", "pattern"): "M*E-",
    ("no scan", "pattern"): "-*",
    ("no scan", "mamba_num_groups"): 2,
}
"""Values for one base, where the other value is its own, or is refused for another reason."""


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The engine on a CPU, in this process alone."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with device_runtime():
        yield
        finalize()


TRAIN = TrainConfig(steps=2, micro_batch=2, global_batch=4, eval_batches=1, lr=0.01)
_footprints: dict[str, Footprint] = {}


def footprint_of(base: str) -> Footprint:
    """The footprint of a base, whose first run filled the caches of the process."""
    if base not in _footprints:
        _footprints[base] = second_footprint(RunConfig(model=BASES[base], train=TRAIN))
    return _footprints[base]


def fields_of(config: Config) -> list[str]:
    return [field.name for field in dataclasses.fields(config)]


def every_field(*bases: str) -> list[tuple[str, str]]:
    """Pairs of a base and one of its fields."""
    return [(base, field) for base in bases for field in fields_of(BASES[base])]


@pytest.mark.parametrize(("base", "field"), every_field("hybrid"))
def test_a_field_of_a_model_changes_the_run_or_is_refused(base: str, field: str) -> None:
    """The other bases are in `tests/proofs`."""
    check_field(base, field)


def check_field(base: str, field: str) -> None:
    """Change a field, and fail if that is silent."""
    value = INSTEAD.get((base, field), OTHER[field])
    assert value != getattr(BASES[base], field)
    outcome = changed_run(base, field, value)
    if isinstance(outcome, str):
        assert f"`{field}" in outcome or f"{field}`" in outcome
    else:
        assert outcome.differs_in(footprint_of(base)), f"`{field}` has no effect in `{base}`"


def changed_run(base: str, field: str, value: Any) -> Footprint | str:
    """The footprint with another value of a field, or the refusal."""
    try:
        return footprint(RunConfig(model=replace(BASES[base], **{field: value}), train=TRAIN))
    except ModelwrightError as error:
        return str(error)


DOCUMENTED: list[tuple[str, dict[str, Any], str, Any, str]] = [
    ("gpt", {"linear_bias": True}, "qkv_bias", True, "No effect with it"),
    ("mamba", {"mamba_num_heads": 4}, "expand", 1.0, "Unused if `mamba_num_heads` is set"),
    ("mamba", {"gated_norm": False}, "norm_before_gate", True, "No effect without `gated_norm`"),
    ("gpt", {}, "sliding_window", 8, "No effect if it is at least `seq_length`"),
    ("mamba", {}, "kernels", "torch", "`auto` uses `mamba_ssm` where it can be used"),
    ("hybrid", {}, "num_layers", 4, "given by `pattern`"),
]
"""Fields without effect under another one that old files may contain: the base, the other fields, and the words."""


@pytest.mark.parametrize(
    ("base", "others", "field", "value", "words"), DOCUMENTED, ids=[f"{one[0]} {one[2]}" for one in DOCUMENTED]
)
def test_a_field_that_may_be_silent_says_so(
    base: str, others: dict[str, Any], field: str, value: Any, words: str
) -> None:
    without = replace(BASES[base], **others)
    runs = [RunConfig(model=model, train=TRAIN) for model in (without, replace(without, **{field: value}))]
    before, after = second_footprint(runs[0]), footprint(runs[1])
    assert not after.differs_in(before)
    assert words in " ".join(field_descriptions(type(without))[field].split())


OTHER_TRAIN: dict[str, Any] = {
    "steps": 4, "seed": 5, "micro_batch": 1, "global_batch": 2, "lr": 0.1,
    "lr_schedule": CosineSchedule(warmup_steps=2),
    "weight_decay": 0.9, "adam_beta1": 0.1, "adam_beta2": 0.1, "adam_eps": 1.0, "clip_grad": 1e-4, "eval_interval": 1,
    "eval_batches": 2, "validation_fraction": 0.3,
}  # fmt: skip
ELSEWHERE = {
    "checkpoint_interval": "test_train_command.py: checkpoints in the folder of the run",
    "keep_checkpoints": "test_train_command.py: checkpoints that are removed",
    "data": "packages/training/tests/data/test_text.py: another text",
    "max_skipped_steps": "packages/training/tests/test_loop.py: the run stops",
}
"""Fields that change nothing in two steps without a folder, and the tests that show their effect."""


def test_every_field_of_training_is_tried() -> None:
    assert {*OTHER_TRAIN, *ELSEWHERE} == set(fields_of(TRAIN))


@pytest.mark.parametrize("field", OTHER_TRAIN)
def test_a_field_of_training_changes_the_run(field: str) -> None:
    three = replace(TRAIN, steps=3)  # Adam's first update does not depend on its decay rates
    key = "three steps"
    if key not in _footprints:
        _footprints[key] = second_footprint(RunConfig(model=BASES["gpt"], train=three))
    run = RunConfig(model=BASES["gpt"], train=replace(three, **{field: OTHER_TRAIN[field]}))
    assert footprint(run).differs_in(_footprints[key])


ON_TWO_RANKS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *(
        ("wrap", {"wrap": MegatronDDP()}, {"wrap": replace(MegatronDDP(), **{field: True})})
        for field in (
            "distributed_optimizer",
            "overlap_grad_reduce",
            "average_in_collective",
            "check_for_nan",
            "broadcast_from_data_rank_0",
        )
    ),
    (
        "wrap",
        {"wrap": MegatronDDP(overlap_grad_reduce=True)},
        {"wrap": MegatronDDP(overlap_grad_reduce=True, bucket_size=1000)},
    ),
    (
        "wrap",
        {"precision": Precision(params="bfloat16")},
        {"precision": Precision(params="bfloat16"), "wrap": MegatronDDP(grad_reduce_in_fp32=False)},
    ),
    ("wrap", {"wrap": TorchFSDP2()}, {"wrap": TorchFSDP2(reshard_after_forward=False)}),
    ("precision", {}, {"precision": Precision(params="bfloat16")}),
    (
        "precision",
        {"precision": Precision(params="bfloat16")},
        {"precision": Precision(params="bfloat16", keep_float32=("*layernorm*",))},
    ),
    ("parallelism", {}, {"parallelism": Parallelism(tensor=2)}),
    ("parallelism", {}, {"parallelism": Parallelism(pipeline=2)}),
    ("parallelism", {}, {"parallelism": Parallelism(context=2)}),
    ("parallelism", {"parallelism": Parallelism(tensor=2)}, {"parallelism": Parallelism(tensor=2, sequence=True)}),
    (
        "parallelism",
        {"parallelism": Parallelism(pipeline=2)},
        {"parallelism": Parallelism(pipeline=2, virtual_pipeline=2)},
    ),
    (
        "parallelism",
        {"parallelism": Parallelism(pipeline=2)},
        {"parallelism": Parallelism(pipeline=2, stages=(1, 3))},
    ),
]
"""The section, a run, and the run with one field changed. `expert` and `expert_tensor`: test_moe_parity.py."""


@pytest.mark.parametrize(("section", "before", "after"), ON_TWO_RANKS)
def test_a_field_of_a_layout_changes_the_run(
    section: str, before: dict[str, Any], after: dict[str, Any], two_ranks: RankPool
) -> None:
    """The number of copies is the number of ranks that a layout leaves."""
    model = replace(BASES["gpt"], num_layers=4)
    runs = [RunConfig(model=model, train=replace(TRAIN, global_batch=8), **one) for one in (before, after)]
    first, second = (two_ranks.run(second_footprint, run) for run in runs)
    assert any(one.differs_in(two) for one, two in zip(first, second, strict=True)), section


def test_megatron_fsdp_cannot_be_run_here() -> None:
    """Its fields need a GPU, and `train` says so."""
    for field in fields_of(MegatronFSDP()):
        value = "optim" if field == "sharding" else False
        run = RunConfig(model=BASES["gpt"], train=TRAIN, wrap=replace(MegatronFSDP(), **{field: value}))
        with pytest.raises(ModelwrightError):
            footprint(run)
