"""The map to Llama's names covers the model that is built, and loses nothing either way."""

from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

import modelwright.gpt
from modelwright.config import replace
from modelwright.gpt import GPTModelConfig
from modelwright.gpt.hf import llama_map
from modelwright.layers import WeightMapError
from packages.gpt.tests.test_builder import LLAMA, build
from tests.messages import facts

EXACT = replace(LLAMA, vocab_size=64)
BLOCK = {
    "input_layernorm.weight": (16,),
    "self_attn.q_proj.weight": (24, 16),
    "self_attn.k_proj.weight": (12, 16),
    "self_attn.v_proj.weight": (12, 16),
    "self_attn.o_proj.weight": (16, 24),
    "post_attention_layernorm.weight": (16,),
    "mlp.gate_proj.weight": (24, 16),
    "mlp.up_proj.weight": (24, 16),
    "mlp.down_proj.weight": (16, 24),
}
BIASES = {f"self_attn.{name}_proj.bias": (rows,) for name, rows in (("q", 24), ("k", 12), ("v", 12))}


def state(groups: ProcessGroupCollection, config: GPTModelConfig) -> dict[str, Tensor]:
    """Every parameter, no two alike."""
    torch.manual_seed(0)
    return {name: torch.randn_like(p) for name, p in build(groups, config).named_parameters()}


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_names_and_shapes(groups: ProcessGroupCollection, tied: bool, qkv_bias: bool) -> None:
    config = replace(LLAMA, tie_embeddings=tied, qkv_bias=qkv_bias)
    found = {name: tuple(t.shape) for name, t in llama_map(config).from_engine(state(groups, config)).items()}
    expected: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (60, 16), "model.norm.weight": (16,)}
    expected |= {} if tied else {"lm_head.weight": (60, 16)}
    for block in range(2):
        expected |= {f"model.layers.{block}.{n}": shape for n, shape in (BLOCK | (BIASES if qkv_bias else {})).items()}
    assert found == expected


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("groups_of_queries", [1, 2, 4])
def test_there_and_back(groups: ProcessGroupCollection, tied: bool, qkv_bias: bool, groups_of_queries: int) -> None:
    config = replace(EXACT, tie_embeddings=tied, qkv_bias=qkv_bias, num_query_groups=groups_of_queries)
    engine, weights = state(groups, config), llama_map(config)
    back = weights.to_engine(weights.from_engine(engine))
    assert back.keys() == engine.keys()
    for name, tensor in engine.items():
        assert torch.equal(back[name], tensor), name


def test_rows_that_pad_the_vocabulary_come_back_as_zero(groups: ProcessGroupCollection) -> None:
    engine, weights = state(groups, LLAMA), llama_map(LLAMA)
    table = weights.to_engine(weights.from_engine(engine))["output_layer.weight"]
    assert torch.equal(table[:60], engine["output_layer.weight"][:60])
    assert torch.equal(table[60:], torch.zeros(4, 16))


def test_queries_of_a_group_stand_before_its_key(groups: ProcessGroupCollection) -> None:
    engine = state(groups, LLAMA)
    qkv = engine["decoder.layers.2.self_attention.linear_qkv.weight"]
    hf = llama_map(LLAMA).from_engine(engine)
    assert torch.equal(hf["model.layers.1.self_attn.q_proj.weight"][12:24], qkv[24:36])
    assert torch.equal(hf["model.layers.1.self_attn.k_proj.weight"][6:12], qkv[36:42])
    assert torch.equal(hf["model.layers.1.self_attn.v_proj.weight"][6:12], qkv[42:48])


def test_the_weights_of_another_config(groups: ProcessGroupCollection) -> None:
    weights = llama_map(LLAMA).from_engine(state(groups, LLAMA))
    with pytest.raises(WeightMapError) as caught:
        llama_map(replace(LLAMA, tie_embeddings=True)).to_engine(weights)
    assert facts(caught.value) == ("0 1 lm_head.weight")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"activation": "geglu"},
            "`activation` `swiglu` `LlamaForCausalLM` `geglu`",
        ),
        ({"normalization": "layernorm"}, "`normalization` `rmsnorm` `LlamaForCausalLM`"),
        ({"position_embedding": "learned"}, "`position_embedding` `rope` `LlamaForCausalLM`"),
        ({"rotary_percent": 0.5, "head_dim": 8}, "`rotary_percent` `1.0` `LlamaForCausalLM`"),
        ({"linear_bias": True}, "`linear_bias` `false` `LlamaForCausalLM`"),
        ({"qk_norm": True}, "`qk_norm` `false` `LlamaForCausalLM`"),
    ],
)
def test_a_model_that_computes_something_else_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(WeightMapError) as caught:
        llama_map(replace(EXACT, **changes))
    assert facts(caught.value).startswith(expected)


def test_the_map_is_a_public_name() -> None:
    assert modelwright.gpt.llama_map is llama_map
