"""Upstream's own config classes beside ours: five things that they get wrong, and what `convert` makes of them.

Nothing here is a recorded file: upstream's classes are made and written by upstream's code in this process.
"""

import dataclasses
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from megatron.core import activations
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnBackend
from megatron.core.transformer.transformer_config import MLATransformerConfig
from megatron.core.transformer.utils import is_layer_window_attention
from torch.nn import functional as F

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from megatron.training import config as upstream
    from megatron.training.config.yaml_utils import safe_yaml_representers
    from megatron.training.models import GPTModelConfig as UpstreamGPT
    from megatron.training.models import HybridModelConfig as UpstreamHybrid

from modelwright.config import (
    ConfigError,
    Converted,
    MegatronDDP,
    ModelConfig,
    convert,
    convert_file,
    dumps,
    fingerprint,
    loads,
    preset,
    replace,
)
from modelwright.gpt import GPTModelConfig
from modelwright.layers import resolve
from modelwright.mamba import MambaModelConfig
from modelwright.moe import LatentAttention, MoeModelConfig
from tests.config import unread_fields, upstream_defaults
from tests.messages import facts

pytestmark = pytest.mark.filterwarnings("ignore")
OURS = replace(preset("gpt_tiny"), activation="silu")


def transformer(**fields: Any) -> TransformerConfig:
    return TransformerConfig(**{"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, **fields})


def llama(**fields: Any) -> UpstreamGPT:
    engine = transformer(
        num_query_groups=2, ffn_hidden_size=160, normalization="RMSNorm", add_bias_linear=False, gated_linear_unit=True,
        activation_func=F.silu, attention_dropout=0.0, hidden_dropout=0.0, layernorm_epsilon=1e-6, **fields,
    )  # fmt: skip
    return UpstreamGPT(
        transformer=engine, vocab_size=1000, seq_length=128, position_embedding_type="rope", rotary_base=500000,
        should_pad_vocab=True,
    )  # fmt: skip


# The five defects.


def test_silu_comes_back_as_gelu_upstream_and_as_silu_here() -> None:
    theirs = UpstreamGPT(transformer=transformer(activation_func=F.silu), vocab_size=100)
    back = UpstreamGPT.from_dict(theirs.as_dict())
    assert theirs.activation_func is F.silu
    assert back.activation_func is F.gelu

    assert type(OURS).from_dict(OURS.as_dict()) == OURS
    assert resolve_alone(type(OURS).from_dict(OURS.as_dict())).activation_func is F.silu


def test_the_yaml_round_trip_raises_upstream_and_not_here() -> None:
    theirs = UpstreamGPT(transformer=transformer(), vocab_size=100)
    with safe_yaml_representers():
        text = yaml.safe_dump(theirs.as_dict())
    with pytest.raises(TypeError):
        UpstreamGPT.from_dict(yaml.safe_load(text))

    assert loads(dumps(OURS)) == loads(dumps(OURS, full=True)) == OURS


def test_unknown_keys_vanish_upstream_and_are_named_here() -> None:
    data = UpstreamGPT(transformer=transformer(), vocab_size=100).as_dict()
    data["seq_lenght"], data["transformer"]["hidden_dropuot"] = 7, 0.5
    back = UpstreamGPT.from_dict(data)
    assert (back.seq_length, back.transformer.hidden_dropout) == (1024, 0.1)
    assert "seq_lenght" not in vars(back)

    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict({**OURS.as_dict(), "seq_lenght": 7, "hidden_dropuot": 0.5})
    assert facts(caught.value).splitlines() == [
        "unknown_field: `seq_lenght` `gpt` `seq_length`",
        "unknown_field: `hidden_dropuot` `gpt` `hidden_dropout`",
    ]


def test_a_nested_rotary_base_is_reset_upstream_and_kept_here() -> None:
    engine = MLATransformerConfig(num_layers=2, hidden_size=64, num_attention_heads=4, rotary_base=1e6)
    UpstreamGPT(transformer=engine, vocab_size=100)
    assert engine.rotary_base == 10000

    ours = replace(OURS, rotary_base=1e6)
    assert loads(dumps(ours)) == ours
    assert ours.rotary_base == 1e6
    assert replace(ours, seq_length=512).rotary_base == 1e6


def test_a_dictionary_imports_what_it_names_upstream_and_nothing_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text("Config = dict\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    data = UpstreamGPT(transformer=transformer(), vocab_size=100).as_dict()
    hostile = {**data, "_target_": "stranger.Config"}
    for read in (ModelConfig.from_dict, convert):
        with pytest.raises(ConfigError):
            read(hostile)
        assert "stranger" not in sys.modules
    with pytest.raises(TypeError):
        UpstreamGPT.from_dict(hostile)
    assert "stranger" in sys.modules
    del sys.modules["stranger"]


# What `convert` makes of them.


def resolve_alone(config: Any) -> TransformerConfig:
    run = loads(dumps(config))
    assert isinstance(run, GPTModelConfig)
    from modelwright.config import Parallelism, Precision

    return resolve(run, Parallelism(), Precision())


def differences(theirs: TransformerConfig, converted: Converted) -> set[str]:
    """The engine fields in which what we would build differs from what upstream would build."""
    run = converted.config
    ours = resolve(run.model, run.parallelism, run.precision)
    names = [field.name for field in dataclasses.fields(TransformerConfig) if not field.name.startswith("_")]
    return {name for name in names if getattr(ours, name) != getattr(theirs, name)}


# Ours by design: one layer list for attention and MLP, its initialization, and the number format of the pipeline.
BY_DESIGN = {
    "autocast_dtype", "init_method", "is_hybrid_model", "num_layers", "output_layer_init_method", "pipeline_dtype",
    "embedding_init_method", "perform_initialization",
}  # fmt: skip


def test_a_dictionary_becomes_the_same_engine() -> None:
    theirs = llama(
        tensor_model_parallel_size=2, sequence_parallel=True, bf16=True, params_dtype=torch.bfloat16,
        attention_backend=AttnBackend.unfused, recompute_granularity="selective", recompute_modules=["core_attn"],
        cross_entropy_loss_fusion=True, embedding_init_method_std=0.5,
    )  # fmt: skip
    converted = convert(theirs.as_dict(), changes=["model.activation=swiglu"])
    assert differences(theirs.transformer, converted) <= BY_DESIGN | {"attention_backend"}
    model = converted.config.model
    assert isinstance(model, GPTModelConfig)
    assert (model.num_layers, model.vocab_size, model.vocab_multiple, model.seq_length) == (2, 1000, 256, 128)
    assert (model.position_embedding, model.rotary_base, model.activation) == ("rope", 500000.0, "swiglu")
    assert (converted.config.parallelism.tensor, converted.config.parallelism.sequence) == (2, True)
    assert converted.config.precision.params == "bfloat16"
    assert dict(model.engine) == {
        "recompute_granularity": "selective",
        "cross_entropy_loss_fusion": True,
        "embedding_init_method_std": 0.5,
    }
    reported = {one.path: one.reason for one in converted.unmapped}
    assert set(reported) == {"transformer.activation_func", "transformer.attention_backend"}
    assert reported["transformer.attention_backend"] == "no part of the backend `torch` reads it"


def test_what_nothing_in_the_model_reads_is_reported() -> None:
    theirs = llama(qk_clip=True, moe_router_dtype="fp32", deterministic_mode=True)
    converted = convert(theirs.as_dict(), changes=["model.activation=swiglu"])
    reported = {one.path: one.value for one in converted.unmapped}
    assert reported["transformer.qk_clip"] is True
    assert reported["transformer.moe_router_dtype"] == "fp32"
    assert dict(converted.config.model.engine) == {"deterministic_mode": True}


def test_variants_of_attention_become_fields_of_ours() -> None:
    """Upstream counts blocks, and the engine the layers of a pattern, so lists and intervals do not carry over."""
    theirs = llama(
        window_size=(7, 0), window_attn_skip_freq=2, no_rope_freq=2, softmax_scale=0.5, softmax_type="learnable",
        layernorm_zero_centered_gamma=True,
    )  # fmt: skip
    converted = convert(theirs.as_dict(), changes=["model.activation=swiglu"])
    model = converted.config.model
    assert isinstance(model, GPTModelConfig)
    assert (model.sliding_window, model.full_attention_every, model.no_rope_every) == (8, 2, 2)
    assert (model.softmax_scale, model.attention_sinks, model.zero_centered_norm) == (0.5, "learned", True)
    assert dict(model.engine) == {}
    engine = resolve(model, converted.config.parallelism, converted.config.precision)
    attention = [1, 3]  # layer numbers
    assert [is_layer_window_attention(engine.window_size, engine.window_attn_skip_freq, n) for n in attention] == [
        is_layer_window_attention(theirs.transformer.window_size, 2, block) for block in (1, 2)
    ]
    assert [engine.no_rope_freq[n - 1] for n in attention] == theirs.transformer.no_rope_freq


def test_the_table_of_fields_that_nothing_reads_is_current() -> None:
    assert unread_fields.PATH.read_text(encoding="utf-8") == unread_fields.text(), (
        "run `uv run python -m tests.config.regenerate`"
    )


def test_the_dictionary_survives_a_file(tmp_path: Path) -> None:
    """The dictionary as YAML by upstream's representers and as JSON gives the same run."""
    theirs = llama()
    with safe_yaml_representers():
        (tmp_path / "model.yaml").write_text(yaml.safe_dump(theirs.as_dict()))
    (tmp_path / "model.json").write_text(
        json.dumps(theirs.as_dict(), default=lambda one: getattr(one, "name", str(one)))
    )
    direct = convert(theirs.as_dict())
    for name in ("model.yaml", "model.json"):
        assert fingerprint(convert_file(tmp_path / name).config) == fingerprint(direct.config)


def test_a_function_that_a_file_names_is_mapped_by_its_name() -> None:
    """`run_config.yaml` of other writers contains functions as `_target_` with `_call_: false`."""
    data = UpstreamGPT(transformer=transformer(), vocab_size=100).as_dict()
    names = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu, "squared_relu": activations.squared_relu}
    for name, function in names.items():
        data["transformer"]["activation_func"] = yaml.safe_load(_represented(function))
        converted = convert(data)
        assert converted.config.model.activation == name  # type: ignore[attr-defined]
        assert converted.unmapped == ()
    data["transformer"]["activation_func"] = yaml.safe_load(_represented(activations.quick_gelu))
    with pytest.raises(ConfigError, match=r"`megatron\.core\.activations\.quick_gelu`"):
        convert(data)


def _represented(function: Any) -> str:
    with safe_yaml_representers():
        return yaml.safe_dump(function)


def test_a_hybrid_of_attention_and_mlp_is_a_gpt() -> None:
    engine = transformer(num_layers=6, add_bias_linear=False)
    theirs = UpstreamHybrid(transformer=engine, vocab_size=100, hybrid_layer_pattern="*-*-|*-", seq_length=64)
    converted = convert(theirs.as_dict())
    assert isinstance(converted.config.model, GPTModelConfig)
    assert (converted.config.model.num_layers, converted.config.model.position_embedding) == (3, "none")
    paths = [one.path for one in converted.unmapped]
    assert paths == ["hybrid_layer_pattern", "transformer.activation_func"]


# Models with experts, MLA and Mamba-2 layers. The engine that we would build has the same fields as upstream's.

EXPERTS: dict[str, Any] = {
    "num_moe_experts": 8, "moe_router_topk": 3, "moe_ffn_hidden_size": 48, "moe_aux_loss_coeff": 0.02,
    "moe_z_loss_coeff": 1e-3, "moe_router_score_function": "sigmoid", "moe_router_enable_expert_bias": True,
    "moe_router_bias_update_rate": 2e-3, "moe_router_topk_scaling_factor": 2.5, "moe_router_num_groups": 4,
    "moe_router_group_topk": 2, "moe_router_dtype": "fp64", "moe_router_load_balancing_type": "seq_aux_loss",
    "moe_token_dispatcher_type": "alltoall", "moe_expert_capacity_factor": 1.5, "moe_token_drop_policy": "position",
    "moe_shared_expert_intermediate_size": 96, "add_bias_linear": False, "normalization": "RMSNorm",
    "attention_dropout": 0.0, "hidden_dropout": 0.0, "expert_model_parallel_size": 2,
}  # fmt: skip


def with_experts(**fields: Any) -> UpstreamGPT:
    return UpstreamGPT(
        transformer=transformer(**(EXPERTS | fields)), vocab_size=100, position_embedding_type="rope", seq_length=64
    )


def test_a_gpt_with_experts_is_a_moe() -> None:
    theirs = with_experts()
    converted = convert(theirs.as_dict())
    model = converted.config.model
    assert isinstance(model, MoeModelConfig)
    assert (model.num_layers, model.num_experts, model.top_k, model.shared_ffn_hidden_size) == (2, 8, 3, 96)
    assert differences(theirs.transformer, converted) <= BY_DESIGN | {"attention_backend"}
    assert [one.path for one in converted.unmapped] == ["transformer.activation_func"]


@pytest.mark.parametrize("name", sorted(EXPERTS))
def test_each_field_of_the_experts_is_converted(name: str) -> None:
    """A field at upstream's default is converted as well as one that is changed."""
    default = TransformerConfig.__dataclass_fields__[name].default
    together = {"moe_router_num_groups": "moe_router_group_topk", "moe_router_group_topk": "moe_router_num_groups"}
    changed = {name: default, **{other: None for mine, other in together.items() if mine == name}}
    changed |= {"moe_router_enable_expert_bias": False} if name == "moe_router_score_function" else {}
    if name in ("num_moe_experts", "normalization", "add_bias_linear"):
        changed = {
            "num_moe_experts": 4,
            "moe_router_topk": 2,
            "moe_shared_expert_intermediate_size": None,
            "normalization": "LayerNorm",
        }
    theirs = with_experts(**changed | ({"moe_expert_capacity_factor": None} if "dispatcher" in name else {}))
    converted = convert(theirs.as_dict())
    unread = {"model.drop_policy": "moe_token_drop_policy", "model.expert_bias_rate": "moe_router_bias_update_rate"}
    dropped = {unread[one.path] for one in converted.unmapped if one.path in unread}
    assert differences(theirs.transformer, converted) <= BY_DESIGN | dropped


@pytest.mark.parametrize(
    ("every", "layers"),
    [(1, "*E*E*E*E"), (2, "*E*-*E*-"), ([0, 1, 1, 1], "*-*E*E*E"), ([0, 1, 0, 1], "*-*E*-*E")],
)
def test_the_layers_with_experts_are_those_of_upstream(every: Any, layers: str) -> None:
    """The rule is that of the engine's own GPT: block i has experts if i is a multiple of the interval."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
    from megatron.core.transformer.moe.moe_layer import MoELayer

    theirs = with_experts(num_layers=4, moe_layer_freq=every)
    model = convert(theirs.as_dict()).config.model
    assert isinstance(model, MoeModelConfig)
    assert model.layers == layers
    specs = get_gpt_decoder_block_spec(theirs.transformer, use_transformer_engine=False, pp_rank=0).layer_specs
    has_experts = [getattr(spec.submodules.mlp, "func", None) is MoELayer for spec in specs]
    assert "".join("*E" if one else "*-" for one in has_experts) == layers


def test_mla_is_converted() -> None:
    engine = MLATransformerConfig(
        **{"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, **EXPERTS}, q_lora_rank=24, kv_lora_rank=16,
        qk_head_dim=8, qk_pos_emb_head_dim=4, v_head_dim=8, rope_type="rope",
    )  # fmt: skip
    theirs = UpstreamGPT(transformer=engine, vocab_size=100, position_embedding_type="rope", seq_length=64)
    converted = convert(theirs.as_dict())
    model = converted.config.model
    assert isinstance(model, MoeModelConfig)
    assert model.layers == "+E+E"
    latent = LatentAttention(query_rank=24, key_value_rank=16, head_dim=8, rotary_head_dim=4, value_head_dim=8)
    assert model.latent_attention == latent
    assert differences(engine, converted) <= BY_DESIGN


def test_mla_with_another_rope_is_refused() -> None:
    engine = MLATransformerConfig(num_layers=2, hidden_size=64, num_attention_heads=4, **EXPERTS, rope_type="yarn")
    data = UpstreamGPT(transformer=engine, vocab_size=100, position_embedding_type="rope", seq_length=64).as_dict()
    with pytest.raises(ConfigError) as caught:
        convert(data)
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("wrong_value", "transformer.rope_type")
    assert facts(problem.message) == "`transformer.rope_type` `rope` `yarn`"


def test_a_hybrid_with_experts_is_a_moe() -> None:
    theirs = UpstreamHybrid(
        transformer=transformer(num_layers=6, is_hybrid_model=True, **EXPERTS), vocab_size=100,
        hybrid_layer_pattern="*-*E|*E", seq_length=64,
    )  # fmt: skip
    converted = convert(theirs.as_dict())
    assert isinstance(converted.config.model, MoeModelConfig)
    assert converted.config.model.pattern == "*-*E*E"
    assert differences(theirs.transformer, converted) <= BY_DESIGN - {"num_layers", "is_hybrid_model"}
    assert [one.path for one in converted.unmapped] == ["hybrid_layer_pattern", "transformer.activation_func"]


@pytest.mark.parametrize("pattern", ["MM", "M*-", "M*-ME"])
def test_a_hybrid_with_mamba_layers_is_a_mamba(pattern: str) -> None:
    experts = EXPERTS if "E" in pattern else {"attention_dropout": 0.0, "add_bias_linear": False}
    engine = transformer(
        **{"num_layers": len(pattern), "is_hybrid_model": True, "mamba_state_dim": 32, "mamba_head_dim": 16} | experts,
        mamba_num_groups=2, mamba_num_heads=8,
    )  # fmt: skip
    theirs = UpstreamHybrid(transformer=engine, vocab_size=100, hybrid_layer_pattern=pattern, seq_length=64)
    converted = convert(theirs.as_dict())
    model = converted.config.model
    assert isinstance(model, MambaModelConfig)
    assert (model.layers, model.mamba_state_dim, model.mamba_num_heads) == (pattern, 32, 8)
    unread = {"num_attention_heads", "num_query_groups", "kv_channels", "ffn_hidden_size"}
    unread |= {"activation_func", "gated_linear_unit"}
    assert differences(engine, converted) <= BY_DESIGN - {"num_layers", "is_hybrid_model"} | (
        unread if pattern == "MM" else set()
    )
    reported = {one.path for one in converted.unmapped}
    assert ("model.num_attention_heads" in reported) == (pattern == "MM")


@pytest.mark.parametrize(
    "data",
    [
        lambda: UpstreamHybrid(transformer=transformer(), vocab_size=9, hybrid_layer_pattern="MG").as_dict(),
        lambda: UpstreamGPT(transformer=transformer(num_moe_experts=4, mtp_num_layers=1), vocab_size=9).as_dict(),
        lambda: UpstreamGPT(transformer=transformer(multi_latent_attention=True), vocab_size=9).as_dict(),
    ],
)
def test_a_model_that_no_family_can_be_is_refused(data: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(data())
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("wrong_value", "_target_")
    for family in ("gpt", "moe"):
        assert f"`modelwright.{family}.from_megatron`" in problem.message


def run_file(path: Path) -> Path:
    container = upstream.PretrainConfigContainer(
        train=upstream.TrainingConfig(train_iters=50, micro_batch_size=2, global_batch_size=16, manual_gc=True),
        model=llama(tensor_model_parallel_size=2),
        optimizer=OptimizerConfig(lr=1e-3, min_lr=1e-5, weight_decay=0.1, clip_grad=0.5),
        scheduler=upstream.SchedulerConfig(lr_decay_style="cosine", lr_warmup_iters=5, lr_decay_iters=40),
        ddp=DistributedDataParallelConfig(overlap_grad_reduce=True, check_for_nan_in_grad=True),
        logger=upstream.LoggerConfig(log_interval=7),
        checkpoint=upstream.CheckpointConfig(save_interval=20, most_recent_k=2, save="/somewhere"),
        rng=upstream.RNGConfig(seed=99),
    )
    container.to_yaml(str(path))
    return path


def test_a_run_file_of_upstreams_own_writing(tmp_path: Path) -> None:
    converted = convert_file(run_file(tmp_path / "run_config.yaml"), changes=["model.activation=swiglu"])
    run = converted.config
    assert (run.train.steps, run.train.micro_batch, run.train.global_batch, run.train.seed) == (50, 2, 16, 99)
    assert (run.train.lr, run.train.weight_decay, run.train.clip_grad) == (1e-3, 0.1, 0.5)
    assert dataclasses.asdict(run.train.lr_schedule) == {"warmup_steps": 5, "min_lr": 1e-5, "decay_steps": 40}
    assert (run.train.checkpoint_interval, run.train.keep_checkpoints) == (20, 2)
    assert isinstance(run.wrap, MegatronDDP)
    assert (run.wrap.overlap_grad_reduce, run.wrap.check_for_nan) == (True, True)
    assert run.parallelism.tensor == 2
    assert {(one.path, one.value) for one in converted.unmapped} == {
        ("model.transformer.activation_func", None),
        ("train.manual_gc", True),
        ("logger.log_interval", 7),
        ("checkpoint.save", "/somewhere"),
    }
    assert loads(dumps(run)) == run


def test_what_is_added_to_a_run_file_is_listed(tmp_path: Path) -> None:
    """Whatever key comes: it is mapped, or it is in the list."""
    path = run_file(tmp_path / "run_config.yaml")
    data = yaml.safe_load(path.read_text())
    before = {one.path for one in convert(data).unmapped}
    data["train"]["stranger"] = {"_target_": "os.system", "_args_": ["id"]}
    data["model"]["transformer"]["stranger"] = "x"
    data["model"]["stranger"] = [1]
    data["stranger"] = {"a": 1}
    after = {one.path for one in convert(data).unmapped}
    assert after - before == {"train.stranger", "model.transformer.stranger", "model.stranger", "stranger"}


# The tables that this rests on.


def test_the_table_of_defaults_is_that_of_the_installed_upstream() -> None:
    assert upstream_defaults.PATH.read_text(encoding="utf-8") == upstream_defaults.text(), (
        "run `uv run python -m tests.config.regenerate`"
    )


def test_what_convert_holds_back_is_what_resolve_decides() -> None:
    """A field that `resolve` refuses in `engine:` must be mapped or left out, or a converted file would not build."""
    from modelwright.config import FIXED_ENGINE_FIELDS
    from modelwright.layers.stack.resolution import _parallel_fields, _precision_fields

    run = convert(llama().as_dict()).config
    computed = {*_parallel_fields(run.parallelism), *_precision_fields(run.precision)}
    owned = {*FIXED_ENGINE_FIELDS, *run.model.engine_fields(), *computed}
    data = llama().as_dict()
    for name in sorted(owned - {"activation"}):
        value = data["transformer"].get(name)
        data["transformer"][name] = (not value) if isinstance(value, bool) else value
    data["transformer"] |= {"tensor_model_parallel_size": 1, "sequence_parallel": False, "fp16": False, "bf16": False}
    assert set(convert(data).config.model.engine) & owned == set()
