"""LoRA adapters beside the linears of a toy, on one rank."""

import dataclasses
from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.identity_op import IdentityOp
from torch import nn
from torch.nn.functional import linear

from modelwright.config import NoWrap, Parallelism, Precision
from modelwright.distributed import StateDictError, load_full_state_dict, local_shards, unwrapped
from modelwright.layers import (
    AttentionLayerSpec,
    ColumnLora,
    LoraLinear,
    MlpLayerSpec,
    RowLora,
    SelfAttentionSpec,
    StackSpec,
    TorchNorm,
    with_lora,
)
from modelwright.protocols import ConformanceError, ModelwrightError, explain
from packages.layers.tests.toy import ToyBuilder, ToyConfig, build, logits
from tests.messages import facts

SLOTS: Any = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")
EVERYWHERE = with_lora(StackSpec(), rank=2, alpha=6, slots=SLOTS)


def adapters(model: nn.Module) -> dict[str, LoraLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


@pytest.mark.parametrize(
    "config",
    [ToyConfig(), ToyConfig(activation="gelu", bias=True), ToyConfig(activation="geglu", bias=True)],
    ids=["gated", "biases", "gated with biases"],
)
def test_it_starts_as_the_bare_model(groups: ProcessGroupCollection, config: ToyConfig) -> None:
    adapted, bare = build(groups, config, spec=EVERYWHERE), build(groups, config)
    assert torch.equal(logits(adapted), logits(bare))
    assert sorted(name.rpartition(".")[2] for name in adapters(adapted)) == sorted(SLOTS)


def test_names_in_the_whole_model_are_those_without_adapters(groups: ProcessGroupCollection) -> None:
    bare, adapted = (
        {shard.key: local for shard, local in local_shards(model, groups)}
        for model in (build(groups), build(groups, spec=EVERYWHERE))
    )
    added = set(adapted) - set(bare)
    assert len(added) == 2 * len(SLOTS)
    assert all(name.endswith((".lora_a", ".lora_b")) for name in added)
    assert "decoder.layers.1.mlp.linear_fc1.lora_b" in added
    assert all(torch.equal(local, adapted[name]) for name, local in bare.items())


def test_whole_weights_of_the_bare_model_fit(groups: ProcessGroupCollection) -> None:
    bare = build(groups)
    whole = {shard.key: torch.zeros(shard.global_shape) for shard, _ in local_shards(bare, groups)}
    adapted = build(groups, spec=EVERYWHERE)
    with pytest.raises(StateDictError, match=r"`decoder\.layers\.0\.self_attention\.linear_proj\.lora_a` is missing"):
        load_full_state_dict([adapted], whole, groups)
    load_full_state_dict([adapted], whole, groups, keep=("*.lora_?",))
    for part in adapters(adapted).values():
        assert not part.base.weight.any()
        assert part.lora_a.any()


def test_a_build_on_the_meta_device_is_equal(groups: ProcessGroupCollection) -> None:
    direct, meta = build(groups, spec=EVERYWHERE), build(groups, spec=EVERYWHERE, meta=True)
    for (name, one), (_, other) in zip(direct.named_parameters(), meta.named_parameters(), strict=True):
        assert torch.equal(one, other), name
        assert one.requires_grad == other.requires_grad


def test_the_change_is_the_papers(groups: ProcessGroupCollection) -> None:
    model = build(groups, ToyConfig(activation="gelu"), spec=EVERYWHERE)
    for part in adapters(model).values():
        nn.init.normal_(part.lora_b)
        base: Any = part.base
        given = torch.randn(3, 1, part.lora_a.size(1))
        expected = linear(given, base.weight + 6 / 2 * part.lora_b @ part.lora_a)
        torch.testing.assert_close(part(given)[0], expected)


def test_a_is_drawn_and_b_is_zero(groups: ProcessGroupCollection) -> None:
    model = build(groups, ToyConfig(hidden_size=256), spec=with_lora(StackSpec(), rank=64, alpha=6))
    for part in adapters(model).values():
        assert part.lora_a.std().item() == pytest.approx(1 / 256**0.5, rel=0.05)
        assert not part.lora_b.any()


def test_the_linear_is_frozen_and_the_adapter_is_not(groups: ProcessGroupCollection) -> None:
    model = build(groups, ToyConfig(bias=True), spec=EVERYWHERE)
    for part in adapters(model).values():
        trained = {name: parameter.requires_grad for name, parameter in part.named_parameters()}
        assert trained == {"lora_a": True, "lora_b": True, "base.weight": False, "base.bias": False}


def test_adapters_may_stay_float32(groups: ProcessGroupCollection) -> None:
    precision = Precision(params="bfloat16", keep_float32=("*.lora_?",))
    (stage,) = ToyBuilder(ToyConfig(), spec=EVERYWHERE).build_distributed_models(
        groups, parallelism=Parallelism(), precision=precision, wrap=NoWrap()
    )
    model: Any = unwrapped(stage)
    for part in adapters(model).values():
        assert (part.lora_a.dtype, part.lora_b.dtype) == (torch.float32, torch.float32)
        output, _ = part(torch.ones(2, 1, part.lora_a.size(1), dtype=torch.bfloat16))
        assert output.dtype == torch.bfloat16


def test_the_other_parts_of_a_spec_stay(groups: ProcessGroupCollection) -> None:
    attention = AttentionLayerSpec(self_attention=SelfAttentionSpec(q_layernorm=TorchNorm, k_layernorm=TorchNorm))
    spec = StackSpec(attention=attention)
    adapted = with_lora(spec, rank=8, alpha=16, slots=("linear_proj",))
    inner = dataclasses.replace(attention.self_attention, linear_proj=RowLora(RowParallelLinear, rank=8, alpha=16))  # type: ignore[type-var]
    assert adapted == dataclasses.replace(spec, attention=dataclasses.replace(attention, self_attention=inner))


def test_explain_opens_an_adapter() -> None:
    text = explain(ColumnLora(ColumnParallelLinear, rank=8, alpha=16))
    assert "base" in text
    assert "ColumnParallelLinear" in text


def refused(call: Any) -> str:
    with pytest.raises(ModelwrightError) as caught:
        call()
    return facts(caught.value)


def test_what_is_refused() -> None:
    assert refused(lambda: ColumnLora(ColumnParallelLinear, rank=0, alpha=1)) == "`rank` 0 0 8"
    assert refused(lambda: RowLora(RowParallelLinear, rank=1, alpha=-1)) == "`alpha` 0 -1 8"
    wrong: Any = ("linear_qvk",)
    assert (
        refused(lambda: with_lora(StackSpec(), rank=1, alpha=1, slots=wrong))
        == "`slots` linear_qkv linear_proj linear_fc1 linear_fc2 'linear_qvk' `linear_qkv`"
    )
    assert (
        refused(lambda: with_lora(StackSpec(), rank=1, alpha=1, slots=()))
        == "`slots` linear_qkv linear_proj linear_fc1 linear_fc2"
    )


def test_a_linear_that_is_fused_with_its_norm() -> None:
    spec = StackSpec(mlp=MlpLayerSpec(pre_mlp_layernorm=IdentityOp))
    with_lora(spec, rank=1, alpha=1)
    assert (
        refused(lambda: with_lora(spec, rank=1, alpha=1, slots=("linear_fc1",))) == "`linear_fc1` `te` `slots` `torch`"
    )


def test_a_custom_layer() -> None:
    own: Any = AttentionLayerSpec().__call__  # fits the slot, and is no spec
    assert (
        refused(lambda: with_lora(StackSpec(attention=own), rank=1, alpha=1))
        == "`attention` `AttentionLayerSpec` `SelfAttentionSpec` `with_lora` `ColumnLora` `RowLora`"
    )


def test_a_base_that_is_no_linear() -> None:
    with pytest.raises(ConformanceError, match=r"^`TorchNorm` .*`LinearProjBuilder`"):
        RowLora(TorchNorm, rank=1, alpha=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("is_expert", "what"), [(True, ""), (False, "`tp_group`")])
def test_where_it_cannot_be(groups: ProcessGroupCollection, is_expert: bool, what: str) -> None:
    config: Any = build(groups).config
    found = refused(
        lambda: RowLora(RowParallelLinear, rank=1, alpha=1)(
            16,
            16,
            config=config,
            init_method=config.init_method,
            bias=False,
            input_is_parallel=True,
            skip_bias_add=True,
            is_expert=is_expert,
            tp_comm_buffer_name="fc2",
            tp_group=None,
            name=None,
        )
    )
    assert found.startswith(what)
