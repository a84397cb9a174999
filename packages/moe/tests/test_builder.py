"""`MoeModelBuilder` builds the engine's model that a config describes: names, shapes, counts, one forward and backward.

Whatever the routing: a batch of which an expert gets nothing, and one of which an expert gets everything, train too.
"""

import math
from typing import Any

import pytest
import torch
from megatron.core.distributed.finalize_model_grads import finalize_model_grads
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from modelwright.builders import builder_for
from modelwright.config import MegatronDDP, NoWrap, Parallelism, Precision, preset, replace
from modelwright.distributed import local_shards, total_parameters
from modelwright.layers import resolve
from modelwright.moe import LatentAttention, MoeModelBuilder, MoeModelConfig
from modelwright.moe.builder import HeadsNorm
from modelwright.protocols import ModelwrightError
from packages.moe.tests.test_presets import PUBLISHED, parameters
from tests.messages import facts

SMALL = MoeModelConfig(
    num_layers=2,
    hidden_size=16,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=24,
    num_experts=4,
    top_k=2,
    expert_ffn_hidden_size=12,
    vocab_size=60,
    vocab_multiple=32,
    seq_length=8,
)
LATENT = LatentAttention(query_rank=12, key_value_rank=8, head_dim=4, rotary_head_dim=2, value_head_dim=4)
CASES = {
    "experts": SMALL,
    "interleaved": replace(SMALL, num_layers=3, first_dense_layers=1),
    "shared": replace(SMALL, shared_experts=2, shared_expert_ffn_hidden_size=6, shared_expert_gate=True),
    "latent attention": replace(SMALL, num_query_groups=None, latent_attention=LATENT, qk_norm=True),
    "norm over heads": replace(SMALL, qk_norm=True, qk_norm_over="heads", router_pre_softmax=True),
    "grouped": replace(SMALL, router_score="sigmoid", router_groups=2, router_top_groups=1, expert_bias=True),
    "capacity": replace(SMALL, capacity_factor=1.0, z_loss_coefficient=1e-3),
    "padded": replace(SMALL, capacity_factor=1.0, pad_to_capacity=True, drop_policy="position"),
    "all tokens everywhere": replace(SMALL, dispatcher="allgather", load_balancing="seq_aux"),
    "one expert a token": replace(SMALL, top_k=1, router_pre_softmax=True, load_balancing="global_aux"),
    "64-bit routing": replace(SMALL, router_dtype="float64", load_balancing="none"),
}
ONE_RANK: dict[str, Any] = {"parallelism": Parallelism(), "precision": Precision(), "wrap": NoWrap()}


def build(groups: ProcessGroupCollection, config: MoeModelConfig, seed: int = 1) -> HybridModel:
    (stage,) = MoeModelBuilder(config).build_distributed_models(groups, **ONE_RANK, seed=seed)
    assert isinstance(stage, HybridModel)
    return stage


def losses(model: HybridModel, config: MoeModelConfig) -> Tensor:
    """[b, s]."""
    torch.manual_seed(0)
    tokens = torch.randint(config.vocab_size, (2, config.seq_length + 1))
    positions = torch.arange(config.seq_length).expand(2, -1)
    answer: Tensor = model(
        input_ids=tokens[:, :-1], position_ids=positions, attention_mask=None, labels=tokens[:, 1:].contiguous()
    )
    return answer


def test_names_and_shapes_in_the_whole_model(groups: ProcessGroupCollection) -> None:
    whole = {shard.key: tuple(shard.global_shape) for shard, _ in local_shards(build(groups, CASES["shared"]), groups)}
    assert {name: shape for name, shape in whole.items() if name.startswith("decoder.layers.3.")} == {
        "decoder.layers.3.pre_mlp_layernorm.weight": (16,),
        "decoder.layers.3.mlp.router.weight": (4, 16),
        "decoder.layers.3.mlp.experts.experts.linear_fc1.weight": (4, 24, 16),
        "decoder.layers.3.mlp.experts.experts.linear_fc2.weight": (4, 16, 12),
        "decoder.layers.3.mlp.shared_experts.gate_weight": (1, 16),
        "decoder.layers.3.mlp.shared_experts.linear_fc1.weight": (24, 16),
        "decoder.layers.3.mlp.shared_experts.linear_fc2.weight": (16, 12),
    }
    assert whole.keys() == {
        "embedding.word_embeddings.weight",
        "decoder.final_norm.weight",
        "output_layer.weight",
        *(name for name in whole if name.startswith("decoder.layers.")),
    }


@pytest.mark.parametrize("case", CASES)
def test_the_number_of_parameters(groups: ProcessGroupCollection, case: str) -> None:
    config = CASES[case]
    padding = (config.padded_vocab_size - config.vocab_size) * config.hidden_size * 2
    assert total_parameters([build(groups, config)]) == parameters(config) + padding


@pytest.mark.parametrize("case", CASES)
def test_the_first_loss_is_that_of_guessing(groups: ProcessGroupCollection, case: str) -> None:
    config = CASES[case]
    model = build(groups, config)
    loss = losses(model, config)
    assert loss.shape == (2, 8)
    assert loss.mean().item() == pytest.approx(math.log(config.vocab_size), abs=0.05)
    loss.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("dispatcher", ["alltoall", "allgather"])
@pytest.mark.parametrize("busy", [{0, 1}, {2, 3}], ids=["the first experts", "the last experts"])
def test_experts_without_a_token_and_with_all_of_them(
    groups: ProcessGroupCollection, busy: set[int], dispatcher: Any
) -> None:
    """Two experts get every token, two get none; the idle ones have no gradient but a zero one."""
    config = replace(SMALL, dispatcher=dispatcher, load_balancing="none")
    model = build(groups, config)
    for layer in (1, 3):
        router = model.decoder.layers[layer].mlp.router
        forced = torch.tensor([100.0 if expert in busy else 0.0 for expert in range(4)])
        original = router.gating
        router.gating = lambda hidden, original=original, forced=forced: original(hidden) + forced
    losses(model, config).mean().backward()
    for layer in (1, 3):
        for expert, module in enumerate(model.decoder.layers[layer].mlp.experts.local_experts):
            for parameter in module.parameters():
                used = parameter.grad is not None and bool(parameter.grad.any())
                assert used == (expert in busy), (layer, expert)


def test_the_norm_over_heads_is_in_the_slots(groups: ProcessGroupCollection) -> None:
    attention = build(groups, CASES["norm over heads"]).decoder.layers[0].self_attention
    assert [tuple(norm.weight.shape) for norm in (attention.q_layernorm, attention.k_layernorm)] == [(16,), (8,)]
    assert type(attention.q_layernorm) is HeadsNorm
    query = torch.randn(3, 2, 4, 4)
    expected = query / (query.square().mean((-2, -1), keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(attention.q_layernorm(query), expected)


def test_the_bias_of_experts_moves_towards_the_idle_ones(groups: ProcessGroupCollection) -> None:
    """After a step as the engine finishes it; the sizes of the moves are all `expert_bias_rate`."""
    config = replace(CASES["grouped"], num_layers=1, expert_bias_rate=0.25)
    (stage,) = MoeModelBuilder(config).build_distributed_models(groups, **(ONE_RANK | {"wrap": MegatronDDP()}), seed=1)
    router = stage.module.decoder.layers[1].mlp.router
    losses(stage, config).mean().backward()
    load = router.local_tokens_per_expert.clone()
    assert load.sum() == 2 * 8 * config.top_k
    finalize_model_grads([stage], pg_collection=groups)
    torch.testing.assert_close(router.expert_bias, 0.25 * torch.sign(load.mean() - load))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")
def test_a_latent_size_of_experts_needs_transformer_engine() -> None:
    with pytest.raises(ModelwrightError) as caught:
        MoeModelBuilder(replace(SMALL, expert_latent_size=8))
    assert facts(caught.value) == "`expert_latent_size` null 8 'modelwright-layers[te]'"


def test_the_builder_of_the_kind() -> None:
    assert type(builder_for(SMALL)) is MoeModelBuilder


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_engine_takes_what_presets_say(name: str) -> None:
    config = preset(name)
    assert isinstance(config, MoeModelConfig)
    engine = resolve(config, Parallelism(), Precision(params="bfloat16"))
    assert (engine.num_moe_experts, engine.moe_router_topk) == (config.num_experts, config.top_k)


@pytest.mark.parametrize("changes", [{}, {"pad_to_capacity": True, "drop_policy": "position"}])
def test_inference_drops_no_token(changes: dict[str, Any], groups: ProcessGroupCollection) -> None:
    """A capacity counts the tokens of one call, so a text read token by token would lose others than one read whole."""
    options: dict[str, Any] = {"parallelism": Parallelism(), "precision": Precision(), "seed": 5}
    tokens = torch.randint(0, 60, (1, 8), generator=torch.Generator().manual_seed(3))
    positions = torch.arange(8).unsqueeze(0)
    config = replace(SMALL, capacity_factor=0.5, **changes)
    (model,) = builder_for(config).build_for_inference(groups, **options)
    (unlimited,) = builder_for(SMALL).build_for_inference(groups, **options)
    (training,) = builder_for(config).build_distributed_models(groups, wrap=NoWrap(), **options)
    cache = StaticInferenceContext(max_batch_size=1, max_sequence_length=8)
    steps = []
    with torch.no_grad():
        whole = model(tokens, positions, None)
        assert torch.equal(whole, unlimited(tokens, positions, None))
        assert not torch.allclose(whole, training.eval()(tokens, positions, None), atol=1e-3)
        for at in range(8):
            steps.append(model(tokens[:, at : at + 1], positions[:, at : at + 1], None, inference_context=cache))
            cache.increment_sequence_len_offset(1)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=0)
    assert builder_for(config).config.capacity_factor == 0.5
