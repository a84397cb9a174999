"""The map to the names of transformers covers the model that is built, and loses nothing either way."""

from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from modelwright.config import replace
from modelwright.distributed import load_full_state_dict, local_shards
from modelwright.layers import WeightMapError
from modelwright.moe import MoeModelConfig
from modelwright.moe.hf import moe_map
from packages.moe.tests.test_builder import SMALL, build
from tests.messages import facts

MIXED = replace(SMALL, first_dense_layers=1)
CASES: dict[str, MoeModelConfig] = {
    "experts": SMALL,
    "an MLP first": MIXED,
    "by pattern": replace(SMALL, num_layers=None, pattern="*E*-*E"),
    "tied": replace(SMALL, tie_embeddings=True),
    "with biases": replace(SMALL, qkv_bias=True),
    "with norms": replace(SMALL, qk_norm=True),
}
ATTENTION = {
    "input_layernorm.weight": (16,),
    "self_attn.q_proj.weight": (16, 16),
    "self_attn.k_proj.weight": (8, 16),
    "self_attn.v_proj.weight": (8, 16),
    "self_attn.o_proj.weight": (16, 16),
    "post_attention_layernorm.weight": (16,),
}
MLP = {"mlp.gate_proj.weight": (24, 16), "mlp.up_proj.weight": (24, 16), "mlp.down_proj.weight": (16, 24)}
EXPERTS = {"mlp.gate.weight": (4, 16), "mlp.experts.gate_up_proj": (4, 24, 16), "mlp.experts.down_proj": (4, 16, 12)}


def whole(groups: ProcessGroupCollection, config: MoeModelConfig) -> tuple[Any, dict[str, Tensor]]:
    """A model, and weights for it by their names in the whole model, no two alike and no padded row but zero."""
    torch.manual_seed(0)
    model = build(groups, config)
    shapes = {shard.key: tuple(shard.global_shape) for shard, _ in local_shards(model, groups)}
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    for name in ("embedding.word_embeddings.weight", "output_layer.weight"):
        if name in state:
            state[name][config.vocab_size :] = 0
    return model, state


def test_names_and_shapes(groups: ProcessGroupCollection) -> None:
    _, state = whole(groups, MIXED)
    found = {name: tuple(value.shape) for name, value in moe_map(MIXED).from_engine(state).items()}
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (60, 16))
    expected["model.norm.weight"] = (16,)
    expected |= {f"model.layers.0.{name}": shape for name, shape in (ATTENTION | MLP).items()}
    expected |= {f"model.layers.1.{name}": shape for name, shape in (ATTENTION | EXPERTS).items()}
    assert found == expected


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_and_into_the_model(groups: ProcessGroupCollection, case: str) -> None:
    config = CASES[case]
    model, state = whole(groups, config)
    back = moe_map(config).to_engine(moe_map(config).from_engine(state))
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(back[name], value), name
    load_full_state_dict([model], back, groups)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"activation": "geglu"},
            "`activation` `swiglu` `MixtralForCausalLM`",
        ),
        ({"router_score": "sigmoid"}, "`router_score` `softmax` `MixtralForCausalLM`"),
        ({"router_scaling": 2.5}, "`router_scaling` `null` `MixtralForCausalLM`"),
        ({"position_embedding": "none"}, "`position_embedding` `rope` `MixtralForCausalLM`"),
        ({"capacity_factor": 0.5}, "`capacity_factor` `null` `MixtralForCausalLM`"),
        ({"shared_experts": 1}, "`shared_experts` `0` `MixtralForCausalLM`"),
        ({"normalization": "layernorm"}, "`normalization` `rmsnorm` `MixtralForCausalLM`"),
    ],
)
def test_a_model_that_computes_something_else_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(WeightMapError) as caught:
        moe_map(replace(SMALL, **changes))
    assert facts(caught.value).startswith(expected)


def test_the_weights_of_another_config(groups: ProcessGroupCollection) -> None:
    _, state = whole(groups, SMALL)
    with pytest.raises(WeightMapError) as caught:
        moe_map(MIXED).from_engine(state)
    assert facts(caught.value) == (
        "2 decoder.layers.1.mlp.linear_fc1.weight decoder.layers.1.mlp.linear_fc2.weight 3 "
        "decoder.layers.1.mlp.experts.experts.linear_fc1.weight "
        "decoder.layers.1.mlp.experts.experts.linear_fc2.weight decoder.layers.1.mlp.router.weight"
    )
