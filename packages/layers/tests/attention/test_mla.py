"""MLA as the engine computes it, written in a few lines, and the linear that makes its vectors."""

import math
from collections.abc import Mapping
from typing import Any, override

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import MLATransformerConfig
from torch import Tensor, nn

from modelwright.config import Parallelism, Precision, config_class
from modelwright.layers import (
    DuplicatedLinear,
    EngineFieldError,
    LatentAttentionLayerSpec,
    LatentAttentionSpec,
    TorchNorm,
    resolve,
)
from modelwright.protocols import ModelwrightError
from packages.layers.tests.toy import ToyConfig
from tests.messages import facts

NOPE, ROPE, VALUE, QUERY_RANK, RANK, HEADS = 6, 4, 5, 7, 9, 4


@config_class
class LatentConfig(ToyConfig):
    """The toy with MLA."""

    norms: bool = True

    @override
    def engine_fields(self) -> Mapping[str, Any]:
        return {
            **super().engine_fields(),
            "multi_latent_attention": True,
            "qk_layernorm": self.norms,
            "q_lora_rank": QUERY_RANK,
            "kv_lora_rank": RANK,
            "qk_head_dim": NOPE,
            "qk_pos_emb_head_dim": ROPE,
            "v_head_dim": VALUE,
            "rope_type": "rope",
        }


def built(groups: ProcessGroupCollection, spec: LatentAttentionSpec, *, norms: bool = True) -> tuple[Any, Any]:
    config = resolve(LatentConfig(norms=norms), Parallelism(), Precision())
    torch.manual_seed(0)
    layer: Any = LatentAttentionLayerSpec(self_attention=spec)(config=config, layer_number=1, pg_collection=groups)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer, config


def rms(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    return hidden / (hidden.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def rotated(hidden: Tensor) -> Tensor:
    """[s, b, n, d], the even places of d against the odd ones, as DeepSeek's weights have them."""
    s, d = hidden.shape[0], hidden.shape[-1]
    angles = torch.arange(s)[:, None] * 10000.0 ** (-torch.arange(0, d, 2) / d)
    cos, sin = (f(angles).repeat(1, 2)[:, None, None] for f in (torch.cos, torch.sin))
    even, odd = hidden[..., 0::2], hidden[..., 1::2]
    return torch.cat([even, odd], dim=-1) * cos + torch.cat([-odd, even], dim=-1) * sin


def expected(attention: Any, hidden_SBH: Tensor, eps: float) -> Tensor:
    s, b, _ = hidden_SBH.shape
    query = rms(attention.linear_q_down_proj(hidden_SBH)[0], attention.q_layernorm.weight, eps)
    query = (query @ attention.linear_q_up_proj.weight.T).view(s, b, HEADS, NOPE + ROPE)
    low, key_rope = attention.linear_kv_down_proj(hidden_SBH)[0].split([RANK, ROPE], dim=-1)
    low = rms(low, attention.kv_layernorm.weight, eps) @ attention.linear_kv_up_proj.weight.T
    key, value = low.view(s, b, HEADS, NOPE + VALUE).split([NOPE, VALUE], dim=-1)
    query = torch.cat([query[..., :NOPE], rotated(query[..., NOPE:])], dim=-1)
    key = torch.cat([key, rotated(key_rope[:, :, None]).expand(-1, -1, HEADS, -1)], dim=-1)
    scores = torch.einsum("sbnd,tbnd->bnst", query, key) / math.sqrt(NOPE + ROPE)
    scores = scores.masked_fill(torch.ones(s, s).triu(1).bool(), -math.inf)
    heads = torch.einsum("bnst,tbnd->sbnd", scores.softmax(-1), value).flatten(2)
    return heads @ attention.linear_proj.weight.T


def test_it_computes_what_the_paper_says(groups: ProcessGroupCollection) -> None:
    layer, config = built(groups, LatentAttentionSpec())
    assert type(config) is MLATransformerConfig
    hidden = torch.randn(8, 2, 16)
    found, _ = layer.self_attention(hidden, None)
    torch.testing.assert_close(found, expected(layer.self_attention, hidden, config.layernorm_epsilon))


def test_names_and_shapes(groups: ProcessGroupCollection) -> None:
    layer, _ = built(groups, LatentAttentionSpec())
    assert {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()} == {
        "input_layernorm.weight": (16,),
        "self_attention.linear_q_down_proj.weight": (QUERY_RANK, 16),
        "self_attention.q_layernorm.weight": (QUERY_RANK,),
        "self_attention.linear_q_up_proj.weight": (HEADS * (NOPE + ROPE), QUERY_RANK),
        "self_attention.linear_kv_down_proj.weight": (RANK + ROPE, 16),
        "self_attention.kv_layernorm.weight": (RANK,),
        "self_attention.linear_kv_up_proj.weight": (HEADS * (NOPE + VALUE), RANK),
        "self_attention.linear_proj.weight": (16, HEADS * VALUE),
    }


def test_norms_are_there_where_the_model_asks_for_them(groups: ProcessGroupCollection) -> None:
    layer, _ = built(groups, LatentAttentionSpec(), norms=False)
    assert {name for name, module in layer.named_modules() if isinstance(module, TorchNorm)} == {"input_layernorm"}


class MyDown(DuplicatedLinear):
    """A custom down-projection, which the engine alone would refuse."""


def test_a_custom_down_projection(groups: ProcessGroupCollection) -> None:
    layer, _ = built(groups, LatentAttentionSpec(linear_kv_down_proj=MyDown))
    assert type(layer.self_attention.linear_kv_down_proj) is MyDown
    assert type(layer.self_attention.linear_q_down_proj) is DuplicatedLinear


def test_a_duplicated_linear_has_no_bias(groups: ProcessGroupCollection) -> None:
    options: dict[str, Any] = dict.fromkeys(("skip_bias_add", "is_expert", "skip_weight_param_allocation"), False)
    options |= {"tp_comm_buffer_name": "down", "tp_group": None, "name": None, "gather_output": False}
    config = resolve(LatentConfig(), Parallelism(), Precision())
    with pytest.raises(ModelwrightError) as caught:
        DuplicatedLinear(4, 2, config=config, init_method=nn.init.zeros_, bias=True, **options)
    assert facts(caught.value) == "`bias` false `DuplicatedLinear` true"


def test_fields_of_latent_attention_alone_are_known_where_it_is() -> None:
    with pytest.raises(EngineFieldError) as caught:
        resolve(LatentConfig(engine={"beta_fats": 1.0}), Parallelism(), Precision())
    assert facts(caught.value) == "`engine.beta_fats` `MLATransformerConfig` `beta_fast`"
    with pytest.raises(EngineFieldError) as caught:
        resolve(LatentConfig(engine={"beta_fast": 8.0}), Parallelism(), Precision())
    assert facts(caught.value) == "`engine.beta_fast` `engine.rope_type: yarn`"
