"""`resolve` makes the engine's config afresh, passes `engine:` through, and refuses what cannot be meant."""

import dataclasses
import math

import pytest
import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnBackend
from torch.nn import functional as F

from modelwright.config import FIXED_ENGINE_FIELDS, ModelConfig, Parallelism, Precision, fingerprint, replace
from modelwright.distributed import NormalInit
from modelwright.layers import (
    AttentionLayerSpec,
    EngineFieldError,
    EngineFieldWarning,
    MlpLayerSpec,
    SelfAttentionSpec,
    StackSpec,
    TorchNorm,
    resolve,
)
from modelwright.layers.engine_fields.custom_parts import custom_parts
from modelwright.layers.engine_fields.values import engine_value
from packages.layers.tests.toy import ToyConfig
from tests.messages import facts


def resolved(parallelism: Parallelism | None = None, precision: Precision | None = None, **engine: object) -> object:
    return resolve(ToyConfig(engine=engine), parallelism or Parallelism(), precision or Precision())


def refused(**engine: object) -> str:
    with pytest.raises(EngineFieldError) as caught:
        resolved(**engine)  # type: ignore[arg-type]
    return facts(caught.value)


def test_the_fields_of_the_model() -> None:
    engine = resolve(ToyConfig(init_std=0.5), Parallelism(), Precision())
    assert type(engine) is TransformerConfig
    assert engine.hidden_size == 16
    assert engine.num_query_groups == 2
    assert engine.kv_channels == 4
    assert engine.activation_func is F.silu
    assert engine.gated_linear_unit is True
    assert engine.is_hybrid_model is True
    assert engine.init_method == NormalInit(0.5)
    assert engine.output_layer_init_method == NormalInit(0.5 / math.sqrt(2))


def test_the_fields_of_the_parallelism() -> None:
    engine = resolve(
        replace(ToyConfig(), groups=4), Parallelism(tensor=2, sequence=True, pipeline=2, context=1), Precision()
    )
    assert (engine.tensor_model_parallel_size, engine.pipeline_model_parallel_size) == (2, 2)
    assert engine.sequence_parallel is True
    assert engine.virtual_pipeline_model_parallel_size is None
    assert (engine.overlap_p2p_comm, engine.batch_p2p_comm) == (False, True)


def test_virtual_stages_are_sent_to_one_by_one() -> None:
    """Batched sends between two ranks pair up crosswise, and nothing but the loss would tell."""
    engine = resolve(ToyConfig(), Parallelism(pipeline=2, virtual_pipeline=2), Precision())
    assert engine.virtual_pipeline_model_parallel_size == 2
    assert (engine.overlap_p2p_comm, engine.batch_p2p_comm) == (True, False)


@pytest.mark.parametrize(
    ("params", "dtype", "bf16", "fp16"),
    [
        ("float32", torch.float32, False, False),
        ("bfloat16", torch.bfloat16, True, False),
        ("float16", torch.float16, False, True),
    ],
)
def test_the_fields_of_the_precision(params: str, dtype: torch.dtype, bf16: bool, fp16: bool) -> None:
    engine = resolve(ToyConfig(), Parallelism(), Precision(params=params))  # type: ignore[arg-type]
    assert (engine.params_dtype, engine.pipeline_dtype, engine.autocast_dtype) == (dtype, dtype, dtype)
    assert (engine.bf16, engine.fp16) == (bf16, fp16)


def test_any_other_field_of_the_engine_passes() -> None:
    engine = resolve(
        ToyConfig(
            engine={"recompute_granularity": "selective", "recompute_modules": ["core_attn"], "softmax_scale": 2}
        ),
        Parallelism(),
        Precision(),
    )
    assert engine.recompute_granularity == "selective"
    assert engine.recompute_modules == ["core_attn"]
    assert engine.softmax_scale == 2


def test_members_of_enums_and_dtypes_go_by_their_names() -> None:
    engine = resolve(ToyConfig(engine={"attention_backend": "flash"}), Parallelism(), Precision(), backend="te")
    assert engine.attention_backend is AttnBackend.flash
    assert engine_value("bfloat16", torch.dtype | None) is torch.bfloat16
    assert (
        refused(attention_backend="flesh")
        == "`engine.attention_backend` `flash` `fused` `unfused` `local` `auto` 'flesh'"
    )


def test_what_the_engine_itself_refuses() -> None:
    """Its own words follow, which name its fields without backticks."""
    assert "recompute_method" in refused(recompute_granularity="full")


def test_functions_are_refused() -> None:
    assert refused(grad_scale_func="os.system") == "`engine.grad_scale_func`"


def test_none_is_a_value_where_the_engine_allows_it() -> None:
    assert resolve(ToyConfig(engine={"softmax_scale": None}), Parallelism(), Precision()).softmax_scale is None


def test_an_unknown_field_and_what_was_meant() -> None:
    assert (
        refused(recompute_granularty="selective")
        == "`engine.recompute_granularty` `TransformerConfig` `recompute_granularity`"
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("fp32_residual_connection", "yes", "'yes'"),
        ("fp32_residual_connection", 1, "1"),
        ("moe_router_topk", "two", "'two'"),
        ("moe_router_topk", True, "True"),
        ("softmax_scale", "big", "'big'"),
        ("recompute_modules", "core_attn", "'core_attn'"),
        ("recompute_modules", [1], "1"),
        ("mamba_training_ssm_states_dtype", "float31", "'float31'"),
    ],
)
def test_a_value_of_another_type(name: str, value: object, expected: str) -> None:
    found = refused(**{name: value})
    assert found.startswith(f"`engine.{name}`")
    assert found.endswith(f" {expected}")


@pytest.mark.parametrize(
    "name",
    ["hidden_size", "tensor_model_parallel_size", "batch_p2p_comm", "bf16", "init_method"],
)
def test_a_field_with_another_owner(name: str) -> None:
    assert refused(**{name: 1}) == f"`engine.{name}`"


@pytest.mark.parametrize("name", FIXED_ENGINE_FIELDS)
def test_a_field_with_one_value_in_every_model(name: str) -> None:
    """No field of ours sets it, so the message says that it is fixed, and why."""
    fixed = FIXED_ENGINE_FIELDS[name]
    assert getattr(resolve(ToyConfig(), Parallelism(), Precision()), name) is fixed.value
    assert refused(**{name: not fixed.value}) == f"`engine.{name}` {fixed.value} {facts(fixed.reason)}".strip()


def test_everything_wrong_is_said_at_once() -> None:
    assert refused(hidden_size=8, no_such_thing_at_all=1, moe_router_topk="two") == (
        "`engine.hidden_size`\n`engine.no_such_thing_at_all` `TransformerConfig`\n`engine.moe_router_topk` 'two'"
    )


@pytest.mark.parametrize("value", [[], [1, "a"], [[1]], {"a": 1}, "text", 0.5, None], ids=str)
def test_every_field_of_the_engine_has_a_verdict(value: object) -> None:
    """No annotation of the engine makes the check itself fail."""
    names = [field.name for field in dataclasses.fields(TransformerConfig)]
    found = refused(no_such_thing_at_all=1, **dict.fromkeys(names, value))
    assert "`engine.no_such_thing_at_all`" in found
    assert "`engine.hidden_size`" in found


def test_resolving_twice_gives_equal_and_separate_configs() -> None:
    config = ToyConfig(engine={"recompute_modules": ["core_attn"], "recompute_granularity": "selective"})
    before = fingerprint(config)
    first, second = (resolve(config, Parallelism(), Precision()) for _ in range(2))
    assert first is not second
    assert vars(first) == vars(second)
    assert first.recompute_modules is not second.recompute_modules
    first.hidden_size = 99
    assert first.recompute_modules is not None
    first.recompute_modules.append("mlp")
    assert vars(resolve(config, Parallelism(), Precision())) == vars(second)
    assert fingerprint(config) == before


def test_a_config_that_says_nothing_of_the_engine() -> None:
    with pytest.raises(EngineFieldError) as caught:
        resolve(ModelConfig(), Parallelism(), Precision())
    assert facts(caught.value) == "`engine_fields` `ModelConfig` `activation` `init_method_std` `num_layers`"


def custom_norm(**arguments: object) -> TorchNorm:
    """A custom part: it may read any field."""
    return TorchNorm(**arguments)  # type: ignore[arg-type]


def test_a_field_without_effect_is_refused() -> None:
    assert refused(mtp_num_layers=1, qk_clip=True) == "`engine.mtp_num_layers`\n`engine.qk_clip`"


def test_with_a_custom_part_the_refusal_is_a_warning_that_names_it() -> None:
    spec = StackSpec(mlp=MlpLayerSpec(pre_mlp_layernorm=custom_norm))
    config = ToyConfig(engine={"mtp_num_layers": 1})
    with pytest.warns(EngineFieldWarning) as caught:
        assert resolve(config, Parallelism(), Precision(), spec=spec).mtp_num_layers == 1
    part = f"{__name__}.custom_norm"
    assert [facts(one.message) for one in caught if one.category is EngineFieldWarning] == [
        f"`engine.mtp_num_layers` `{part}` `engine.mtp_num_layers`"
    ]


def test_the_parts_of_the_engine_that_no_backend_uses_are_custom_too() -> None:
    attention = SelfAttentionSpec(core_attention=DotProductAttention)  # type: ignore[arg-type]
    assert custom_parts(StackSpec(attention=AttentionLayerSpec(self_attention=attention))) == (
        "megatron.core.transformer.dot_product_attention.DotProductAttention",
    )
    assert custom_parts(StackSpec()) == ()


def test_the_layers_of_the_pattern_decide() -> None:
    engine = {"moe_input_jitter_eps": 0.1}
    resolve(ToyConfig(engine=engine), Parallelism(), Precision(), pattern="*E")
    resolve(ToyConfig(engine=engine), Parallelism(), Precision())  # any layer may be there
    with pytest.raises(EngineFieldError) as caught:
        resolve(ToyConfig(engine=engine), Parallelism(), Precision(), pattern="*-|*-")
    assert facts(caught.value) == "`engine.moe_input_jitter_eps`"


def test_initial_values_of_the_embedding_do_not_depend_on_the_layout() -> None:
    engine = resolve(ToyConfig(engine={"embedding_init_method_std": 0.5}), Parallelism(), Precision())
    assert engine.embedding_init_method == NormalInit(0.5)
