"""Hugging Face transformers' Llama as the oracle: the same weights give the same logits, on one rank and on two."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from modelwright.config import Llama3RopeScaling, Parallelism, replace
from modelwright.gpt import GPTModelConfig
from modelwright.gpt.hf import llama_map
from modelwright.testing import RankPool
from tests.integration.jobs import logits

# Grouped queries, and a head size that is not hidden / heads; the vocabulary is padded from 100 to 128.
SHAPE = GPTModelConfig(
    num_layers=3,
    hidden_size=64,
    num_attention_heads=8,
    num_query_groups=2,
    head_dim=16,
    ffn_hidden_size=160,
    vocab_size=100,
    seq_length=128,
    rotary_base=500000.0,
)
CASES = {
    "untied": SHAPE,
    "tied": replace(SHAPE, tie_embeddings=True),
    "scaled rope": replace(SHAPE, rope_scaling=Llama3RopeScaling(factor=4.0, original_seq_length=64)),
}


def llama(config: GPTModelConfig) -> LlamaForCausalLM:
    """A Llama of the same shape with random weights."""
    torch.manual_seed(7)
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": config.rotary_base}
    if (scaling := config.rope_scaling) is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_seq_length,
        }
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.resolved_ffn_hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.resolved_query_groups,
            head_dim=config.resolved_head_dim,
            max_position_embeddings=config.seq_length,
            rms_norm_eps=config.norm_epsilon,
            rope_parameters=rope,
            tie_word_embeddings=config.tie_embeddings,
            attn_implementation="eager",
            initializer_range=0.2,
        )
    )
    return model.eval()


def weights(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """Without the output layer where it is the embedding."""
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return state


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("parallelism", [Parallelism(), Parallelism(tensor=2)], ids=["one rank", "tensor 2"])
def test_logits_are_those_of_llama(case: str, parallelism: Parallelism, two_ranks: RankPool) -> None:
    config, model = CASES[case], llama(CASES[case])
    tokens = torch.randint(0, config.vocab_size, (2, config.seq_length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(tokens).logits
    whole = llama_map(config).to_engine(weights(model))
    for ours in two_ranks.run(logits, config, parallelism, whole, tokens, ranks=parallelism.world_size()):
        torch.testing.assert_close(ours[..., : config.vocab_size], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_the_map_is_its_own_inverse(case: str) -> None:
    config = CASES[case]
    state = weights(llama(config))
    back = llama_map(config).from_engine(llama_map(config).to_engine(state))
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(back[name], value), name
