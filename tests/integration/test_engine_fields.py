"""The table of engine fields: it is complete, and what it calls honored has an effect."""

import dataclasses
import warnings
from collections.abc import Iterator
from dataclasses import replace as replace_part
from pathlib import Path
from typing import Any

import pytest
from megatron.core.transformer import MLATransformerConfig
from typer.testing import CliRunner

from modelwright.builders import builder_for
from modelwright.cli.app import app
from modelwright.config import (
    ConfigError,
    DecoderConfig,
    Llama3RopeScaling,
    ModelConfig,
    Parallelism,
    Precision,
    RunConfig,
    TrainConfig,
    replace,
    save,
)
from modelwright.distributed import finalize
from modelwright.engine import device_runtime
from modelwright.engine.fields import engine_config_fields
from modelwright.gpt import GPTModelConfig
from modelwright.layers import (
    EngineFieldError,
    EngineFieldWarning,
    StackSpec,
    TorchNorm,
    decoder_stack,
    register_stack,
    resolve,
)
from modelwright.layers.engine_fields.honored import HONORED
from modelwright.layers.engine_fields.owned import OWNED
from modelwright.layers.engine_fields.refused import REFUSED
from modelwright.layers.engine_fields.table import FIXED, VERDICTS
from modelwright.layers.engine_fields.verdict import Honored, Owned
from modelwright.mamba import MambaModelConfig
from modelwright.moe import LatentAttention, MoeModelConfig
from modelwright.protocols import ModelwrightError
from modelwright.testing import RankPool
from tests.integration.footprint import Footprint, footprint, second_footprint

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_attention_heads": 4,
    "ffn_hidden_size": 24,
    "vocab_size": 256,
    "seq_length": 8,
}
LATENT = LatentAttention(query_rank=8, key_value_rank=8, head_dim=4, rotary_head_dim=4, value_head_dim=4)
MODELS: dict[str, DecoderConfig] = {
    "gpt": GPTModelConfig(num_layers=2, **SIZES),
    "moe": MoeModelConfig(num_layers=2, num_experts=4, top_k=2, shared_experts=1, **SIZES),
    "mla": MoeModelConfig(num_layers=2, num_experts=4, top_k=2, latent_attention=LATENT, **SIZES),
    "mamba": MambaModelConfig(
        pattern="M*-E", num_experts=4, top_k=2, mamba_head_dim=8, mamba_state_dim=8, chunk_size=4, **SIZES
    ),
}
FULL = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}

ALONE: dict[str, tuple[str, dict[str, Any], Any]] = {
    "rotary_interleaved": ("gpt", {}, True),
    "qk_l2_norm": ("gpt", {}, True),
    "glu_linear_offset": ("gpt", {}, 1.0),
    "activation_func_clamp_value": ("moe", {}, 0.01),
    "embedding_init_method_std": ("gpt", {}, 0.5),
    "calculate_per_token_loss": ("gpt", {}, True),
    "moe_input_jitter_eps": ("moe", {}, 0.5),
    "moe_apply_probs_on_input": ("moe", {}, True),
    "moe_router_force_load_balancing": ("moe", {}, True),
    "moe_router_force_biased": ("moe", {}, 2.0),
    "attention_output_gate": ("gpt", {}, True),
    "deterministic_mode": ("gpt", {}, True),
    "cross_entropy_loss_fusion": ("gpt", {}, True),
    "recompute_granularity": ("gpt", {}, "selective"),
    "recompute_modules": ("gpt", {"recompute_granularity": "selective"}, ["mlp"]),
    "recompute_method": ("gpt", {**FULL, "recompute_num_layers": 3}, "block"),
    "recompute_num_layers": ("gpt", FULL, 2),
    "mlp_chunks_for_training": ("gpt", {}, 2),
    "moe_shared_expert_overlap": ("moe", {}, True),
}
"""For a field: a model that reads it, other fields of `engine:` that it needs, and another value."""

PIPELINE, INTERLEAVED = Parallelism(pipeline=2), Parallelism(pipeline=2, virtual_pipeline=2)
ON_TWO_RANKS: dict[str, tuple[str, Parallelism, dict[str, Any], Any]] = {
    "variable_seq_lengths": ("moe", PIPELINE, {}, True),
    "batch_p2p_sync": ("gpt", PIPELINE, {}, False),
    "deallocate_pipeline_outputs": ("gpt", PIPELINE, {}, True),
    "overlap_p2p_comm_warmup_flush": ("deep gpt", INTERLEAVED, {}, True),
    "microbatch_group_size_per_vp_stage": ("deep gpt", INTERLEAVED, {}, 4),
    "clone_scatter_output_in_embedding": ("gpt", Parallelism(tensor=2, sequence=True), {}, False),
    "distribute_saved_activations": ("gpt", Parallelism(tensor=2), FULL, True),
}
"""As `ALONE`, on two ranks in a layout."""


@pytest.fixture(autouse=True)
def runtime() -> Iterator[None]:
    """The engine on a CPU."""
    with device_runtime():
        yield
        finalize()


def run_of(model: ModelConfig, parallelism: Parallelism | None = None) -> RunConfig:
    train = TrainConfig(steps=1, micro_batch=2, global_batch=8, eval_batches=1)
    return RunConfig(model=model, parallelism=parallelism or Parallelism(), train=train)


def model_of(name: str, engine: dict[str, Any]) -> DecoderConfig:
    model = replace(MODELS["gpt"], num_layers=4) if name == "deep gpt" else MODELS[name]
    return replace(model, engine=engine)


# It is complete.


def test_every_field_of_the_installed_engine_has_one_verdict() -> None:
    """A new version of the engine with another field fails here: give the field a verdict."""
    assert set(VERDICTS) == set(engine_config_fields())
    assert len(VERDICTS) == len(FIXED) + len(OWNED) + len(HONORED) + len(REFUSED)


def test_every_honored_field_is_read_by_the_engine() -> None:
    """Those without a reader have their effect when the config is made."""
    unread = {name for name in HONORED if not engine_config_fields()[name].read_by}
    assert unread == {"embedding_init_method_std"}


def test_what_resolve_sets_is_owned() -> None:
    for model in MODELS.values():
        names = {*model.engine_fields(), *vars(resolve(model, Parallelism(), Precision()))} & set(OWNED)
        assert set(model.engine_fields()) - {"activation"} <= names | set(HONORED)


def test_every_owner_is_a_field_of_ours() -> None:
    known = {field.name for cls in (MoeModelConfig, MambaModelConfig) for field in dataclasses.fields(cls)}
    for name, verdict in OWNED.items():
        assert isinstance(verdict, Owned)
        section, _, field = verdict.by.partition(".")
        holder = {"parallelism": Parallelism, "precision": Precision, "latent_attention": LatentAttention}.get(section)
        fields = {one.name for one in dataclasses.fields(holder)} if holder and field else known
        assert (field or section) in fields, name


# What it calls honored has an effect.


def test_every_honored_field_of_the_torch_backend_is_tested() -> None:
    torch = {name for name, one in HONORED.items() if isinstance(one, Honored) and "torch" in one.backends}
    assert torch == {*ALONE, *ON_TWO_RANKS}


_baselines: dict[str, Footprint] = {}


def footprint_of(model: DecoderConfig) -> Footprint:
    """The footprint of a model on one rank, from the second run on, when the caches of the process are filled."""
    key = repr(model)
    if key not in _baselines:
        _baselines[key] = (footprint if _baselines else second_footprint)(run_of(model))
    return _baselines[key]


@pytest.mark.parametrize("name", ALONE)
def test_an_honored_field_changes_what_the_table_says(name: str) -> None:
    model, needed, value = ALONE[name]
    with_field, without = (model_of(model, engine) for engine in ({**needed, name: value}, needed))
    verdict = HONORED[name]
    assert isinstance(verdict, Honored)
    assert verdict.effect in footprint_of(with_field).differs_in(footprint_of(without))


THROUGH_ENGINE: dict[str, Any] = {
    "softmax_scale": 2.0,
    "no_rope_freq": [1, 0, 0, 0],
    "window_size": [2, 0],
    "softmax_type": "learnable",
    "layernorm_zero_centered_gamma": True,
}
"""Owned fields that `engine:` may set as long as our field has its default."""


@pytest.mark.parametrize("name", THROUGH_ENGINE)
def test_an_owned_field_may_be_set_where_ours_is_not(name: str) -> None:
    given = footprint_of(model_of("gpt", {name: THROUGH_ENGINE[name]}))
    assert given.differs_in(footprint_of(MODELS["gpt"]))


def test_a_window_of_the_engine_is_a_sliding_window() -> None:
    """`window_size` says how far a token looks back, and `sliding_window` how many tokens it sees."""
    ours, theirs = replace(MODELS["gpt"], sliding_window=4), model_of("gpt", {"window_size": [3, 0]})
    assert footprint_of(ours) == footprint_of(theirs)
    both = replace(ours, engine={"window_size": [3, 0]})
    with pytest.raises(EngineFieldError, match=r"`engine\.window_size` is set by `sliding_window`"):
        resolve(both, Parallelism(), Precision())


@pytest.mark.parametrize("name", ["window_attn_skip_freq", "no_rope_freq"])
def test_an_interval_of_layers_is_refused(name: str) -> None:
    """In a pattern of attention and MLP, every second layer is no attention, and the field would do nothing."""
    assert "every`" in str(refused_interval(name))


def refused_interval(name: str) -> EngineFieldError:
    with pytest.raises(EngineFieldError) as caught:
        resolve(model_of("gpt", {"window_size": [2, 0], name: 2}), Parallelism(), Precision())
    return caught.value


@pytest.mark.parametrize("name", ON_TWO_RANKS)
def test_an_honored_field_changes_what_the_ranks_do(name: str, two_ranks: RankPool) -> None:
    model, layout, needed, value = ON_TWO_RANKS[name]
    runs = [run_of(model_of(model, engine), layout) for engine in (needed, {**needed, name: value})]
    before, after = (two_ranks.run(second_footprint, run) for run in runs)
    verdict = HONORED[name]
    assert isinstance(verdict, Honored)
    assert any(verdict.effect in one.differs_in(two) for one, two in zip(after, before, strict=True))
    assert after[0].values == pytest.approx(before[0].values, rel=1e-5)


# What it refuses is refused, with the reason.


def refusal(model: ModelConfig, engine: dict[str, Any], **options: Any) -> str:
    with pytest.raises(EngineFieldError) as caught:
        resolve(replace(model, engine=engine), options.pop("parallelism", Parallelism()), Precision(), **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "engine", "facts"),
    [
        ("gpt", {"mtp_num_layers": 1}, "multi-token prediction"),
        ("gpt", {"qk_clip": True}, "training script"),
        ("gpt", {"num_moe_experts": 4}, "MoE layers"),
        ("gpt", {"multi_latent_attention": True}, "MLA layers"),
        ("gpt", {"fp8": "e4m3"}, "backend `te`"),
        ("gpt", {"attention_backend": "flash"}, "backend `te`"),
        ("gpt", {"variable_seq_lengths": True}, "`parallelism.pipeline` above 1"),
        ("gpt", {"recompute_modules": ["mlp"]}, "`engine.recompute_granularity: selective`"),
        ("mla", {"softmax_scale": 2.0}, "attention layers"),
        ("mamba", {"fp32_residual_connection": True}, "`precision.params: float32`"),
    ],
)
def test_a_field_without_effect_is_refused_with_the_reason(model: str, engine: dict[str, Any], facts: str) -> None:
    message = refusal(MODELS[model], engine)
    assert message.startswith(f"`engine.{next(iter(engine))}` must be left out, because ")
    assert facts in message


def test_the_default_of_a_field_is_not_refused() -> None:
    """It says what happens anyway."""
    defaults = {"fp8": None, "mtp_num_layers": None, "attention_backend": "auto", "recompute_modules": None}
    resolve(replace(MODELS["gpt"], engine=defaults), Parallelism(), Precision())


def test_no_field_of_the_engine_is_without_a_type() -> None:
    """`engine_config_fields` reads the same class that `resolve` makes."""
    assert {field.name for field in dataclasses.fields(MLATransformerConfig) if field.name[0] != "_"} == set(
        engine_config_fields()
    )


# The command and the backend.


def my_norm(**arguments: Any) -> TorchNorm:
    """A custom part, which may read any field."""
    return TorchNorm(**arguments)


def my_stack(config: DecoderConfig) -> StackSpec:
    return replace_part(decoder_stack(config), final_norm=my_norm)


@pytest.mark.parametrize("stack", [None, "engine-fields-stack"])
def test_validate_refuses_a_silent_field_and_warns_with_a_custom_part(stack: str | None, tmp_path: Path) -> None:
    register_stack("engine-fields-stack", my_stack)
    path = tmp_path / "run.yaml"
    save(RunConfig(model=model_of("gpt", {"mtp_num_layers": 1}), stack=stack), path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = CliRunner().invoke(app, ["config", "validate", "--engine", str(path)])
    told = [str(one.message) for one in caught if one.category is EngineFieldWarning]
    if stack is None:
        assert done.exit_code == 2
        assert not told
    else:
        assert done.exit_code == 0
        assert [f"`{__name__}.my_norm`" in one and "`engine.mtp_num_layers`" in one for one in told] == [True]


def test_transformer_engine_cannot_bound_scores() -> None:
    capped = replace(MODELS["gpt"], attention_softcap=30.0)
    resolve(capped, Parallelism(), Precision())
    with pytest.raises(ConfigError, match=r"`attention_softcap` must be null with the backend `te`"):
        resolve(capped, Parallelism(), Precision(), backend="te")


def test_transformer_engine_gets_windows_and_sinks() -> None:
    """Its attention reads the engine's own fields."""
    model = replace(MODELS["gpt"], sliding_window=4, full_attention_every=2, attention_sinks="learned")
    engine = resolve(model, Parallelism(), Precision(), backend="te")
    assert (engine.window_size, engine.window_attn_skip_freq, engine.softmax_type) == (
        (3, 0),
        [1, 1, 0, 1],
        "learnable",
    )


def test_a_spec_without_rotary_embedding_does_not_hide_a_scaling() -> None:
    scaled = replace(MODELS["gpt"], rope_scaling=Llama3RopeScaling())
    with pytest.raises(ModelwrightError, match=r"`rotary_embedding` of the spec must be set"):
        builder_for(scaled, spec=StackSpec())
