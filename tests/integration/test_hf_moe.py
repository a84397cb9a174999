"""Hugging Face transformers' models of experts as the oracle: the same weights give the same logits and gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from modelwright.config import Parallelism, preset, replace
from modelwright.moe import MoeModelConfig, mixtral_8x7b, olmoe_1b_7b, qwen3_30b_a3b
from modelwright.moe.hf import moe_map
from modelwright.testing import RankPool
from tests.integration.moe_jobs import logits_and_gradients
from tests.integration.test_moe_parts import whole_state

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_query_groups": 2,
    "num_experts": 8,
    "top_k": 3,
    "expert_ffn_hidden_size": 48,
    "ffn_hidden_size": 96,
    "load_balancing": "none",
    "load_balancing_coefficient": 1e-2,
    "z_loss_coefficient": 0.0,
    "vocab_size": 128,
    "seq_length": 64,
}
# The presets, made small, with what sets each apart kept: weights of experts that add up to one or do not, norms of
# queries and keys over each head or over all, a head size that is not hidden / heads, a block without experts.
CONFIGS: dict[str, MoeModelConfig] = {
    "mixtral": replace(mixtral_8x7b(), **SMALL, num_layers=2),
    "qwen3": replace(qwen3_30b_a3b(), **SMALL, num_layers=3, first_dense_layers=1, head_dim=16),
    "olmoe": replace(olmoe_1b_7b(), **SMALL | {"num_query_groups": 4}, num_layers=2),
}
LAYOUTS = {"one rank": Parallelism(), "expert 2": Parallelism(data=2, expert=2)}


def shape(config: MoeModelConfig) -> dict[str, Any]:
    """Fields of the configs of all three."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.blocks,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.resolved_query_groups,
        "num_experts_per_tok": config.top_k,
        "max_position_embeddings": config.seq_length,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_base},
        "tie_word_embeddings": config.tie_embeddings,
        "pad_token_id": None,  # a padding token has no gradient there
    }


def mixtral(config: MoeModelConfig, **options: Any) -> nn.Module:
    sizes = {"intermediate_size": config.resolved_expert_ffn_hidden_size, "num_local_experts": config.num_experts}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**shape(config), **sizes, **options))


def qwen3(config: MoeModelConfig, **options: Any) -> nn.Module:
    sizes = {
        "intermediate_size": config.resolved_ffn_hidden_size,
        "moe_intermediate_size": config.resolved_expert_ffn_hidden_size,
        "num_experts": config.num_experts,
        "head_dim": config.resolved_head_dim,
        "mlp_only_layers": list(range(config.first_dense_layers)),
        "norm_topk_prob": True,
    }
    return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**shape(config), **sizes, **options))


def olmoe(config: MoeModelConfig, **options: Any) -> nn.Module:
    sizes = {"intermediate_size": config.resolved_expert_ffn_hidden_size, "num_experts": config.num_experts}
    return transformers.OlmoeForCausalLM(transformers.OlmoeConfig(**shape(config), **sizes, **options))


MODELS: dict[str, Callable[..., nn.Module]] = {"mixtral": mixtral, "qwen3": qwen3, "olmoe": olmoe}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.fixture(params=CONFIGS)
def case(request: pytest.FixtureRequest) -> tuple[MoeModelConfig, nn.Module]:
    """Return a config, and a model of transformers of its shape with random weights."""
    config = CONFIGS[request.param]
    torch.manual_seed(7)
    model = MODELS[request.param](config, attn_implementation="eager", experts_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if "norm" in name else 0.0
            parameter.copy_(mean + 0.15 * torch.randn_like(parameter))
    return config, model.eval()


def routed(model: nn.Module) -> list[Tensor]:
    """Logits of every router, filled by the forward passes that follow."""
    found: list[Tensor] = []
    for name, module in model.named_modules():
        if name.endswith(".mlp.gate") and hasattr(module, "top_k"):
            module.register_forward_hook(lambda module, given, answer: found.append(answer[0].detach()))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_and_gradients_are_those_of_transformers(
    layout: str, case: tuple[MoeModelConfig, nn.Module], two_ranks: RankPool
) -> None:
    config, model = case
    text = torch.randint(0, config.vocab_size, (4, config.seq_length + 1), generator=torch.Generator().manual_seed(1))
    tokens, labels = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    routers = routed(model)
    expected: Tensor = model(tokens).logits
    best = torch.cat(routers).softmax(-1).sort(descending=True).values
    assert len(routers) == config.layers.count("E")
    assert (best[:, config.top_k - 1] - best[:, config.top_k]).min() > 1e-6  # no ties, so that rounding decides nothing
    nn.functional.cross_entropy(expected.flatten(0, 1), labels.flatten()).backward()

    weight_map, parallelism = moe_map(config), LAYOUTS[layout]
    whole = weight_map.to_engine(weights(model))
    ranks = two_ranks.run(
        logits_and_gradients, config, parallelism, whole, tokens, labels, ranks=parallelism.world_size()
    )
    for logits, _ in ranks:
        torch.testing.assert_close(logits, expected.detach(), atol=1e-4, rtol=0)
    gradients = weight_map.from_engine(whole_state([part for _, parts in ranks for part in parts]))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 1e-3, name
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4, rtol=0, msg=name)


def test_the_map_is_its_own_inverse(case: tuple[MoeModelConfig, nn.Module]) -> None:
    config, model = case
    state = weights(model)
    back = moe_map(config).from_engine(moe_map(config).to_engine(state))
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(back[name], value), name


def test_presets_have_as_many_weights_as_the_model_of_transformers() -> None:
    """The counts that the presets' own test has; here they come from the classes that the checkpoints load into."""
    from packages.moe.tests.test_presets import PUBLISHED

    found: dict[str, int] = {}
    with torch.device("meta"):
        for name, make in (("mixtral_8x7b", mixtral), ("qwen3_30b_a3b", qwen3), ("olmoe_1b_7b", olmoe)):
            config = preset(name)
            assert isinstance(config, MoeModelConfig)
            found[name] = sum(parameter.numel() for parameter in make(config).parameters())
        deepseek = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config())
        found["deepseek_v3"] = sum(parameter.numel() for parameter in deepseek.parameters())
    assert found == PUBLISHED
