"""Variants of a decoder against Hugging Face transformers: logits and the gradient of every weight, with its weights.

Where transformers have a model with one variant alone, that model is the oracle. Gemma 2 and gpt-oss have further
differences, so the oracle is a Llama with their function of attention or their norm in it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DeepseekV3Config,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)
from transformers.masking_utils import eager_mask
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek_v3
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gemma2 import modeling_gemma2 as gemma2
from transformers.models.gpt_oss import modeling_gpt_oss as gpt_oss

from modelwright.config import Parallelism, Precision, YarnRopeScaling, replace
from modelwright.distributed import finalize, initialize
from modelwright.engine import device_runtime
from modelwright.gpt import GPTModelConfig
from modelwright.gpt.hf import llama_map
from modelwright.layers import LatentAttentionLayerSpec, resolve
from modelwright.moe import LatentAttention, MoeModelConfig
from modelwright.testing import RankPool
from tests.integration.jobs import logits_and_gradients
from tests.integration.test_hf_mamba import gathered

SHAPE = GPTModelConfig(
    num_layers=4,
    hidden_size=32,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=48,
    vocab_size=100,
    seq_length=24,
)
LENGTH = 24


def options(config: GPTModelConfig, **more: Any) -> dict[str, Any]:
    """What all configs of transformers share."""
    rope = {"rope_type": "default", "rope_theta": config.rotary_base}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.resolved_ffn_hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.resolved_query_groups,
        "max_position_embeddings": 4 * config.seq_length,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": rope,
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
        "initializer_range": 0.2,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        **more,
    }


def llama(config: GPTModelConfig, **more: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**options(config, **more)))


def mistral(config: GPTModelConfig) -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**options(config, sliding_window=config.sliding_window)))


def qwen2(config: GPTModelConfig) -> PreTrainedModel:
    every = config.full_attention_every or 0
    kinds = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(config.num_layers)]
    more = {"use_sliding_window": True, "sliding_window": config.sliding_window, "layer_types": kinds}
    return Qwen2ForCausalLM(Qwen2Config(**options(config, **more)))


def smollm3(config: GPTModelConfig) -> PreTrainedModel:
    return SmolLM3ForCausalLM(SmolLM3Config(**options(config, no_rope_layer_interval=config.no_rope_every)))


def granite(config: GPTModelConfig) -> PreTrainedModel:
    return GraniteForCausalLM(GraniteConfig(**options(config, attention_multiplier=config.softmax_scale)))


def yarn_llama(config: GPTModelConfig) -> PreTrainedModel:
    scaling = config.rope_scaling
    assert isinstance(scaling, YarnRopeScaling)
    rope = {
        "rope_type": "yarn",
        "rope_theta": config.rotary_base,
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_seq_length,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "truncate": scaling.truncate,
    }
    if scaling.mscale != 1.0:
        rope |= {"mscale": scaling.mscale, "mscale_all_dim": scaling.mscale_all_dim}
    return llama(config, rope_parameters=rope)


def capped_llama(config: GPTModelConfig) -> PreTrainedModel:
    """A Llama with the attention and the output of Gemma 2."""
    AttentionMaskInterface.register("capped", eager_mask)
    AttentionInterface.register("capped", partial(gemma2.eager_attention_forward, softcap=config.attention_softcap))
    model = llama(config, attn_implementation="capped")
    cap = config.logits_softcap
    if cap is not None:
        model.lm_head.register_forward_hook(lambda _, __, output: torch.tanh(output / cap) * cap)
    return model


def sinking_llama(config: GPTModelConfig) -> PreTrainedModel:
    """A Llama with the attention of gpt-oss."""
    AttentionMaskInterface.register("sinks", eager_mask)
    AttentionInterface.register("sinks", gpt_oss.eager_attention_forward)
    model = llama(config, attn_implementation="sinks")
    for layer in model.model.layers:
        sinks = torch.randn(config.num_attention_heads) if config.attention_sinks == "learned" else torch.zeros(1)
        layer.self_attn.sinks = nn.Parameter(sinks.expand(config.num_attention_heads).clone())
    return model


def zero_centered_llama(config: GPTModelConfig) -> PreTrainedModel:
    """A Llama with the norms of Gemma, with weights around 0."""
    model = llama(config)
    for name in [name for name, _ in model.named_modules()]:
        if name.endswith("norm"):
            norm = GemmaRMSNorm(config.hidden_size, eps=config.norm_epsilon)
            nn.init.normal_(norm.weight, std=0.3)
            model.set_submodule(name, norm)
    return model


YARN = YarnRopeScaling(factor=4.0, original_seq_length=64, beta_fast=8.0)
CASES: dict[str, tuple[GPTModelConfig, Callable[[GPTModelConfig], PreTrainedModel]]] = {
    "window in all layers": (replace(SHAPE, sliding_window=5), mistral),
    "alternating windows": (replace(SHAPE, sliding_window=5, full_attention_every=2, qkv_bias=True), qwen2),
    "window but in every third": (replace(SHAPE, sliding_window=3, full_attention_every=3, qkv_bias=True), qwen2),
    "no rope in every second": (replace(SHAPE, no_rope_every=2), smollm3),
    "scale": (replace(SHAPE, softmax_scale=0.05), granite),
    "yarn": (replace(SHAPE, rope_scaling=YARN), yarn_llama),
    "yarn, not truncated": (replace(SHAPE, rope_scaling=replace(YARN, truncate=False)), yarn_llama),
    "yarn, other scale": (replace(SHAPE, rope_scaling=replace(YARN, mscale=2.0, mscale_all_dim=0.5)), yarn_llama),
    "capped scores": (replace(SHAPE, attention_softcap=2.0), capped_llama),
    "capped scores and logits": (replace(SHAPE, attention_softcap=2.0, logits_softcap=3.0), capped_llama),
    "learned sinks": (replace(SHAPE, attention_sinks="learned"), sinking_llama),
    "softmax off by one": (replace(SHAPE, attention_sinks="off_by_one"), sinking_llama),
    "zero-centered norms": (replace(SHAPE, zero_centered_norm=True), zero_centered_llama),
}
PLAIN: dict[str, Any] = {
    "sliding_window": None,
    "full_attention_every": None,
    "no_rope_every": None,
    "softmax_scale": None,
    "attention_softcap": None,
    "logits_softcap": None,
    "attention_sinks": "none",
    "zero_centered_norm": False,
}
"""The fields with which the names of the weights are those of Llama."""


def to_engine(config: GPTModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights, or their gradients, under the engine's names. All but sinks have the names of Llama."""
    sinks = {name: tensors[name] for name in tensors if name.endswith("sinks")}
    rest = {name: value for name, value in tensors.items() if name not in sinks}
    found = dict(llama_map(replace(config, **PLAIN)).to_engine(rest))
    if config.attention_sinks == "learned":
        for name, value in sinks.items():
            layer = 2 * int(name.split(".")[2])
            found[f"decoder.layers.{layer}.self_attention.core_attention.softmax_offset"] = value
    return found


class Expected(NamedTuple):
    """What transformers compute."""

    weights: dict[str, Tensor]
    tokens: Tensor
    direction: Tensor
    logits: Tensor
    gradients: dict[str, Tensor]


def expectation(case: str) -> Expected:
    """Logits and gradients of a model of transformers, under the engine's names."""
    config, build = CASES[case]
    torch.manual_seed(3)
    model = build(config).eval()
    tokens = torch.randint(0, config.vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    shape = (*tokens.shape, config.vocab_size)
    direction = torch.randn(shape, generator=torch.Generator().manual_seed(2)) / tokens.numel()
    logits = model(tokens).logits
    (logits * direction).sum().backward()
    weights = to_engine(config, {name: value.detach().clone() for name, value in model.named_parameters()})
    off_by_one = config.attention_sinks == "off_by_one"
    parameters = {name: one for name, one in model.named_parameters() if not (off_by_one and name.endswith("sinks"))}
    gradients = {name: one.grad for name, one in parameters.items() if one.grad is not None}
    assert gradients.keys() == parameters.keys()
    return Expected(weights, tokens, direction, logits.detach(), to_engine(config, gradients))


def check(answers: list[tuple[Tensor, Any]], expected: Expected) -> None:
    """Logits to 1e-4; every gradient to 1e-4 of the largest in its weight."""
    for logits, _ in answers:
        torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)
    found = gathered([parts for _, parts in answers])
    assert found.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        scale = gradient.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(
            found[name], gradient, atol=1e-4 * scale, rtol=0, msg=lambda message, n=name: f"{n}: {message}"
        )


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_transformers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    expected = expectation(case)
    with device_runtime():
        try:
            answer = logits_and_gradients(
                CASES[case][0], Parallelism(), expected.weights, expected.tokens, expected.direction
            )
        finally:
            finalize()
    check([answer], expected)


@pytest.mark.parametrize("case", ["alternating windows", "capped scores and logits", "learned sinks", "yarn"])
def test_tensor_ranks_compute_the_same(case: str, two_ranks: RankPool) -> None:
    expected = expectation(case)
    answers = two_ranks.run(
        logits_and_gradients,
        CASES[case][0],
        Parallelism(tensor=2),
        expected.weights,
        expected.tokens,
        expected.direction,
    )
    check(answers, expected)


LATENT = MoeModelConfig(
    num_layers=1,
    num_experts=2,
    top_k=2,
    hidden_size=32,
    num_attention_heads=4,
    vocab_size=100,
    seq_length=24,
    latent_attention=LatentAttention(query_rank=12, key_value_rank=8, head_dim=6, rotary_head_dim=4, value_head_dim=5),
    rope_scaling=YarnRopeScaling(factor=4.0, original_seq_length=64, beta_fast=8.0),
    qk_norm=True,
)
PROJECTIONS = {
    "linear_q_down_proj": "q_a_proj",
    "q_layernorm": "q_a_layernorm",
    "linear_q_up_proj": "q_b_proj",
    "linear_kv_down_proj": "kv_a_proj_with_mqa",
    "kv_layernorm": "kv_a_layernorm",
    "linear_kv_up_proj": "kv_b_proj",
    "linear_proj": "o_proj",
}


def deepseek(config: MoeModelConfig) -> tuple[nn.Module, nn.Module]:
    """The attention of DeepSeek-V3 and its rotary embedding."""
    latent, scaling = config.latent_attention, config.rope_scaling
    assert latent is not None
    assert isinstance(scaling, YarnRopeScaling)
    rope = {
        "rope_type": "yarn",
        "rope_theta": config.rotary_base,
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_seq_length,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "mscale": scaling.mscale,
        "mscale_all_dim": scaling.mscale_all_dim,
    }
    theirs = DeepseekV3Config(
        hidden_size=config.hidden_size,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        q_lora_rank=latent.query_rank,
        kv_lora_rank=latent.key_value_rank,
        qk_nope_head_dim=latent.head_dim,
        qk_rope_head_dim=latent.rotary_head_dim,
        v_head_dim=latent.value_head_dim,
        max_position_embeddings=4 * config.seq_length,
        rms_norm_eps=config.norm_epsilon,
        rope_parameters=rope,
        attn_implementation="eager",
    )
    return deepseek_v3.DeepseekV3Attention(theirs, 0), deepseek_v3.DeepseekV3RotaryEmbedding(theirs)


@pytest.mark.parametrize("mscale_all_dim", [0.0, 1.0])
def test_mla_with_yarn_is_that_of_deepseek(mscale_all_dim: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(LATENT.rope_scaling, YarnRopeScaling)
    config = replace(LATENT, rope_scaling=replace(LATENT.rope_scaling, mscale_all_dim=mscale_all_dim))
    theirs, rotary = deepseek(config)
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    hidden_SBH = torch.randn(LENGTH, 2, config.hidden_size)
    positions = torch.arange(LENGTH).expand(2, -1)
    later = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)[None, None]
    expected, _ = theirs(hidden_SBH.transpose(0, 1), rotary(hidden_SBH.transpose(0, 1), positions), later)
    with device_runtime():
        try:
            groups = initialize(Parallelism())
            engine = resolve(config, Parallelism(), Precision())
            layer: Any = LatentAttentionLayerSpec()(config=engine, layer_number=1, pg_collection=groups)
            ours = layer.self_attention
            for mine, other in PROJECTIONS.items():
                getattr(ours, mine).weight.data.copy_(getattr(theirs, other).weight.data)
            found, _ = ours(hidden_SBH, None)
        finally:
            finalize()
    torch.testing.assert_close(found.transpose(0, 1), expected, atol=1e-4, rtol=1e-4)
    for output in (found.transpose(0, 1), expected):
        output.square().sum().backward()
    for mine, other in PROJECTIONS.items():
        wanted, given = getattr(theirs, other).weight.grad, getattr(ours, mine).weight.grad
        torch.testing.assert_close(given, wanted, atol=1e-4 * wanted.abs().max().item(), rtol=0, msg=mine)
