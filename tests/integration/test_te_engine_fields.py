"""The backend `te` on a stand-in for Transformer Engine: its engine fields have an effect, and its numbers are right.

Megatron-Core's own code around Transformer Engine runs here, and our backend `te` is built as on a GPU. Transformer
Engine itself is replaced by a package in plain PyTorch that records how it is used (`te_stand_in`). So these tests show
what reaches Transformer Engine, and nothing about its kernels: `test_te_backend.py` has tests for a GPU.
"""

import math
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from modelwright.config import DecoderConfig, Parallelism, Precision, RunConfig, replace
from modelwright.layers import EngineFieldError, resolve
from modelwright.layers.engine_fields.honored import HONORED
from modelwright.layers.engine_fields.verdict import Honored
from tests.integration.te_jobs import Seen, both_seen, curve, saved_and_resumed, unchecked_values
from tests.integration.te_ranks import TIMEOUT, StandInRanks
from tests.integration.test_engine_fields import ALONE as ALSO_TORCH
from tests.integration.test_engine_fields import MODELS, run_of

type Row = tuple[DecoderConfig, Parallelism, dict[str, Any], dict[str, Any]]
type Pairs = dict[str, "list[Future[tuple[Seen, Seen]]]"]

GPT, MOE = MODELS["gpt"], MODELS["moe"]
DEEP = replace(GPT, num_layers=6)
ONE_EXPERT = replace(MOE, top_k=1, router_pre_softmax=True)
HERE, TWO_TENSOR, TWO_CONTEXT = Parallelism(), Parallelism(tensor=2), Parallelism(context=2)
FP8, FP4 = {"fp8": "e4m3"}, {"fp4": "e2m1"}
CURRENT, HISTORY = {**FP8, "fp8_recipe": "tensorwise"}, {**FP8, "fp8_amax_history_len": 4}
ENDS = {**CURRENT, "first_last_layers_bf16": True}
OFFLOADED = {
    "fine_grained_activation_offloading": True,
    "offload_modules": ["core_attn", "attn_proj"],
    "min_offloaded_tensor_size": 1,
}

ROWS: dict[str, Row] = {
    "attention_backend": (GPT, HERE, {}, {"attention_backend": "flash"}),
    "flash_attention_version": (GPT, HERE, {}, {"flash_attention_version": 3}),
    "cp_comm_type": (GPT, TWO_CONTEXT, {}, {"cp_comm_type": "all_gather"}),
    "cross_entropy_fusion_impl": (GPT, HERE, {"cross_entropy_loss_fusion": True}, {"cross_entropy_fusion_impl": "te"}),
    "disable_parameter_transpose_cache": (GPT, HERE, FP8, {"disable_parameter_transpose_cache": True}),
    "symmetric_ar_type": (GPT, TWO_TENSOR, {}, {"symmetric_ar_type": "two_shot"}),
    "use_transformer_engine_op_fuser": (MOE, HERE, {}, {"use_transformer_engine_op_fuser": True}),
    "moe_permute_fusion": (MOE, HERE, {}, {"moe_permute_fusion": True}),
    "moe_router_fusion": (MOE, HERE, {}, {"moe_router_fusion": True}),
    "moe_router_padding_for_quantization": (MOE, HERE, FP8, {"moe_router_padding_for_quantization": True}),
    "fine_grained_activation_offloading": (GPT, HERE, {}, OFFLOADED),
    "offload_modules": (GPT, HERE, OFFLOADED, {"offload_modules": ["core_attn"]}),
    "min_offloaded_tensor_size": (GPT, HERE, OFFLOADED, {"min_offloaded_tensor_size": 10**6}),
    "activation_offload_fraction": (DEEP, HERE, OFFLOADED, {"activation_offload_fraction": 0.5}),
    "fine_grained_offloading_max_inflight_offloads": (
        GPT,
        HERE,
        OFFLOADED,
        {"fine_grained_offloading_max_inflight_offloads": 0},
    ),
    "fp8": (GPT, HERE, {}, FP8),
    "fp8_recipe": (GPT, HERE, FP8, {"fp8_recipe": "tensorwise"}),
    "fp8_margin": (GPT, HERE, FP8, {"fp8_margin": 1}),
    "fp8_amax_history_len": (GPT, HERE, FP8, {"fp8_amax_history_len": 4}),
    "fp8_amax_compute_algo": (GPT, HERE, HISTORY, {"fp8_amax_compute_algo": "max"}),
    "fp8_dot_product_attention": (GPT, HERE, FP8, {"fp8_dot_product_attention": True}),
    "fp8_multi_head_attention": (GPT, HERE, FP8, {"fp8_multi_head_attention": True}),
    "tp_only_amax_red": (GPT, Parallelism(data=2), FP8, {"tp_only_amax_red": True}),
    "fp4": (GPT, HERE, {}, FP4),
    "first_last_layers_bf16": (GPT, HERE, CURRENT, {"first_last_layers_bf16": True}),
    "num_layers_at_start_in_bf16": (GPT, HERE, ENDS, {"num_layers_at_start_in_bf16": 2}),
    "num_layers_at_end_in_bf16": (GPT, HERE, ENDS, {"num_layers_at_end_in_bf16": 2}),
}
"""For a field that only parts of Transformer Engine read: a model and a layout, other fields of `engine:` that it
needs, and what is set beside them."""

ON_BOTH: dict[str, Row] = {
    name: (MODELS[model], HERE, needed, {name: value}) for name, (model, needed, value) in ALSO_TORCH.items()
} | {"moe_apply_probs_on_input": (ONE_EXPERT, HERE, {}, {"moe_apply_probs_on_input": True})}
"""The same for the fields that parts of both backends read, on one rank."""

ENVIRONMENT = {
    "use_transformer_engine_op_fuser": {"NVTE_CUTEDSL_FUSED_GROUPED_MLP": "1"},
    "deterministic_mode": {"NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0"},
}
"""Environment variables that the engine asks for beside a field."""


@pytest.fixture(scope="module")
def ranks() -> Iterator[StandInRanks]:
    """Two processes with the stand-in."""
    with StandInRanks() as started:
        yield started


def on_te(model: DecoderConfig, layout: Parallelism, engine: dict[str, Any], steps: int = 1) -> RunConfig:
    run = run_of(replace(model, engine={**model.engine, **engine}), layout)
    return replace(run, backend="te", train=replace(run.train, steps=steps, global_batch=4))


def started(ranks: StandInRanks, name: str, row: Row) -> "list[Future[tuple[Seen, Seen]]]":
    """Begin a run without the field and one with it; offloading takes its decisions after a first step."""
    model, layout, needed, more = row
    steps = 2 if OFFLOADED.keys() & {**needed, **more} else 1
    runs = on_te(model, layout, needed, steps), on_te(model, layout, {**needed, **more}, steps)
    if layout != HERE:
        return ranks.together(both_seen, *runs)
    return [ranks.alone(both_seen, *runs, environment=ENVIRONMENT.get(name))]


@pytest.fixture(scope="module")
def found(ranks: StandInRanks) -> Pairs:
    """What both runs of every row do on each rank. All are begun at once, because there are two processes."""
    return {name: started(ranks, name, row) for name, row in {**ON_BOTH, **ROWS}.items()}


# The fields that it calls honored have an effect.


def test_every_honored_field_of_transformer_engine_is_tested() -> None:
    only_te = {name for name, one in HONORED.items() if isinstance(one, Honored) and one.backends == ("te",)}
    assert only_te == set(ROWS)


@pytest.mark.parametrize("name", [*ON_BOTH, *ROWS])
def test_an_honored_field_changes_what_the_table_says(name: str, found: Pairs) -> None:
    verdict = HONORED[name]
    assert isinstance(verdict, Honored)
    pairs = [job.result(timeout=TIMEOUT) for job in found[name]]
    assert any(verdict.effect in after.differs_in(before) for before, after in pairs)


def test_two_equal_runs_are_seen_as_equal(ranks: StandInRanks) -> None:
    """So what differs above differs because of the field."""
    for model, engine in ((GPT, {}), (MOE, FP8), (DEEP, OFFLOADED)):
        run = on_te(model, HERE, engine, steps=2)
        before, after = ranks.alone(both_seen, run, run).result(timeout=TIMEOUT)
        assert before == after


# What it refuses has none, or cannot work.


@pytest.mark.parametrize(
    ("engine", "facts"),
    [
        ({**FP8, "fp8_wgrad": False}, "ignores it"),
        ({**FP8, "fp8_param": True}, "drawn afterwards"),
        ({**FP4, "fp4_recipe": "custom"}, "use `engine.fp4`"),
        ({**OFFLOADED, "delta_offload_bytes_across_pp_ranks": 1}, "loses count"),
        ({**CURRENT, "fp8_margin": 1}, "`engine.fp8_recipe: delayed`"),
        ({**CURRENT, "fp8_multi_head_attention": True}, "`engine.fp8_recipe: delayed`"),
        ({**FP8, "fp8_recipe": "blockwise", "fp8_dot_product_attention": True}, "than `blockwise`"),
        ({**FP8, "first_last_layers_bf16": True}, "than `delayed`"),
        ({"attention_backend": "fused", "flash_attention_version": 3}, "`engine.attention_backend: auto` or `flash`"),
        ({"use_transformer_engine_op_fuser": True}, "MoE layers"),
        ({"fine_grained_activation_offloading": True}, "`engine.offload_modules`"),
        ({**OFFLOADED, "offload_modules": ["mlp_norm"]}, "two layers"),
        ({**OFFLOADED, "activation_offload_fraction": 0.0}, "a value above 0"),
    ],
)
def test_a_field_without_effect_is_refused_with_the_reason(engine: dict[str, Any], facts: str) -> None:
    assert facts in refusal(GPT, HERE, engine)


@pytest.mark.parametrize(
    ("model", "layout", "engine", "facts"),
    [
        (GPT, TWO_CONTEXT, {"cp_comm_type": "a2a+p2p"}, "`a2a+p2p`"),
        (GPT, Parallelism(tensor=2, sequence=True), {"symmetric_ar_type": "two_shot"}, "`parallelism.sequence: false`"),
        (MOE, HERE, {"use_transformer_engine_op_fuser": True}, "`NVTE_CUTEDSL_FUSED_GROUPED_MLP=1`"),
        (MOE, HERE, {"moe_apply_probs_on_input": True}, "`top_k: 1`"),
        (GPT, Parallelism(pipeline=2), OFFLOADED, "two layers for every pipeline stage"),
        (MODELS["mla"], HERE, {"attention_backend": "flash"}, "attention layers"),
    ],
)
def test_a_field_that_does_not_fit_the_model_or_layout_is_refused(
    model: DecoderConfig, layout: Parallelism, engine: dict[str, Any], facts: str
) -> None:
    assert facts in refusal(model, layout, engine)


def refusal(model: DecoderConfig, layout: Parallelism, engine: dict[str, Any]) -> str:
    with pytest.raises(EngineFieldError) as caught:
        resolve(replace(model, engine=engine), layout, Precision(), backend="te")
    return str(caught.value)


@pytest.mark.parametrize(
    ("needed", "more"),
    [
        (FP8, {"fp8_wgrad": False}),
        (CURRENT, {"fp8_margin": 1}),
        (CURRENT, {"fp8_amax_history_len": 4}),
        (CURRENT, {"fp8_amax_compute_algo": "max"}),
        (CURRENT, {"fp8_multi_head_attention": True}),
        ({**FP8, "fp8_recipe": "blockwise"}, {"fp8_dot_product_attention": True}),
    ],
)
def test_what_is_refused_as_silent_is_silent(ranks: StandInRanks, needed: dict[str, Any], more: dict[str, Any]) -> None:
    runs = on_te(GPT, HERE, needed), on_te(GPT, HERE, {**needed, **more})
    before, after = ranks.alone(both_seen, *runs, False).result(timeout=TIMEOUT)
    assert before == after


def test_a_narrow_parameter_would_start_from_memory_that_nothing_wrote(ranks: StandInRanks) -> None:
    """The reason to refuse it; when initial values reach such parameters, this fails and the field can be honored."""
    runs = [on_te(GPT, HERE, engine) for engine in (CURRENT, {**CURRENT, "fp8_param": True})]
    expected, found = (ranks.alone(unchecked_values, run).result(timeout=TIMEOUT) for run in runs)
    assert not all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(found, expected, strict=True))


# Its numbers are those of the backend `torch`.

VARIANTS: dict[str, tuple[DecoderConfig, Parallelism]] = {
    **{name: (model, HERE) for name, model in MODELS.items()},
    "layernorm": (replace(GPT, normalization="layernorm", linear_bias=True, activation="gelu"), HERE),
    "norms of queries and keys": (replace(GPT, qk_norm=True), HERE),
    "zero-centered norms": (replace(GPT, zero_centered_norm=True), HERE),
    "softmax scale": (replace(GPT, softmax_scale=2.0, num_query_groups=2), HERE),
    "windows": (replace(GPT, sliding_window=3, full_attention_every=2), HERE),
    "off-by-one sinks": (replace(GPT, attention_sinks="off_by_one"), HERE),
    "learned sinks": (replace(GPT, attention_sinks="learned"), HERE),
    "layers without rope": (replace(GPT, no_rope_every=2), HERE),
    "tensor 2": (GPT, TWO_TENSOR),
    "tensor 2 with sequences": (replace(GPT, attention_sinks="learned"), Parallelism(tensor=2, sequence=True)),
    "context 2 with windows": (replace(GPT, sliding_window=3), TWO_CONTEXT),
    "pipeline 2": (GPT, Parallelism(pipeline=2)),
    "expert 2": (MOE, Parallelism(expert=2)),
    "mamba tensor 2": (replace(MODELS["mamba"], mamba_num_groups=2), Parallelism(tensor=2, sequence=True)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_and_gradient_are_those_of_the_backend_torch(name: str, ranks: StandInRanks) -> None:
    model, layout = VARIANTS[name]
    run = replace(on_te(model, layout, {}, steps=2), name=name)
    curves: list[list[float]] = []
    for one in (run, replace(run, backend="torch")):
        jobs = [ranks.alone(curve, one)] if layout == HERE else ranks.together(curve, one)
        curves.append([value for job in jobs for step in job.result(timeout=TIMEOUT) for value in step])
    found, expected = curves
    assert found == pytest.approx(expected, rel=1e-5)


# Checkpoints.


@pytest.mark.parametrize("model", ["gpt", "moe"])
def test_scales_that_are_not_saved_are_named(model: str, ranks: StandInRanks, tmp_path: Path) -> None:
    told = resumed_with(ranks, MODELS[model], HISTORY, tmp_path / "delayed")
    assert ["`engine.fp8_recipe: delayed`" in one for one in told[0]] == [True]
    assert not told[1]
    assert resumed_with(ranks, MODELS[model], CURRENT, tmp_path / "tensorwise") == ([], True)


def resumed_with(
    ranks: StandInRanks, model: DecoderConfig, engine: dict[str, Any], folder: Path
) -> tuple[list[str], bool]:
    run = on_te(model, HERE, engine, steps=4)
    run = replace(run, train=replace(run.train, checkpoint_interval=2))
    return ranks.alone(saved_and_resumed, run, folder).result(timeout=TIMEOUT)
