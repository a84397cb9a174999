"""`llama_map`: weight map between a GPT and `LlamaForCausalLM` of Hugging Face transformers, in both directions."""

from collections.abc import Mapping
from types import MappingProxyType

from modelwright.gpt.config import GPTModelConfig
from modelwright.layers import Entry, Heads, WeightMap, check_mapped

# Fields with one value in `LlamaForCausalLM`.
_NEEDED: Mapping[str, object] = MappingProxyType(
    {
        "activation": "swiglu",
        "normalization": "rmsnorm",
        "position_embedding": "rope",
        "rotary_percent": 1.0,
        "linear_bias": False,
        "qk_norm": False,
    }
)
_ATTENTION = "decoder.layers.{a}"
_MLP = "decoder.layers.{b}"
_BLOCK = "model.layers.{i}"

_WEIGHTS = (
    Entry("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), "vocab"),
    Entry(f"{_ATTENTION}.input_layernorm.weight", (f"{_BLOCK}.input_layernorm.weight",)),
    Entry(
        f"{_ATTENTION}.self_attention.linear_qkv.weight",
        tuple(f"{_BLOCK}.self_attn.{name}_proj.weight" for name in "qkv"),
        "qkv",
    ),
    Entry(f"{_ATTENTION}.self_attention.linear_proj.weight", (f"{_BLOCK}.self_attn.o_proj.weight",)),
    Entry(f"{_MLP}.pre_mlp_layernorm.weight", (f"{_BLOCK}.post_attention_layernorm.weight",)),
    Entry(f"{_MLP}.mlp.linear_fc1.weight", (f"{_BLOCK}.mlp.gate_proj.weight", f"{_BLOCK}.mlp.up_proj.weight"), "rows"),
    Entry(f"{_MLP}.mlp.linear_fc2.weight", (f"{_BLOCK}.mlp.down_proj.weight",)),
    Entry("decoder.final_norm.weight", ("model.norm.weight",)),
)
_OUTPUT = Entry("output_layer.weight", ("lm_head.weight",), "vocab")
_QKV_BIAS = Entry(
    f"{_ATTENTION}.self_attention.linear_qkv.bias",
    tuple(f"{_BLOCK}.self_attn.{name}_proj.bias" for name in "qkv"),
    "qkv",
)


def llama_map(config: GPTModelConfig) -> WeightMap:
    """Return the weight map of one config.

    Args:
        config: Config with SwiGLU, RMSNorm and rope, as in Llama. Tied embeddings and a bias on queries, keys and
            values (as in Qwen 2) are optional.

    Returns:
        The map. `to_engine` and `from_engine` are inverse to each other.

    Raises:
        WeightMapError: The weights would fit, but `LlamaForCausalLM` would compute something else.
    """
    check_mapped(config, _NEEDED, "LlamaForCausalLM")
    entries: tuple[Entry, ...] = _WEIGHTS
    if not config.tie_embeddings:
        entries += (_OUTPUT,)
    if config.qkv_bias:
        entries += (_QKV_BIAS,)
    return WeightMap(
        entries=entries,
        blocks=config.num_layers,
        heads=Heads(
            heads=config.num_attention_heads, groups=config.resolved_query_groups, head_dim=config.resolved_head_dim
        ),
        vocab_size=config.vocab_size,
        padded_vocab_size=config.padded_vocab_size,
    )
