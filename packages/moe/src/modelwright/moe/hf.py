"""`moe_map`: weight map between an MoE model and Mixtral, Qwen3-MoE and OLMoE of Hugging Face transformers, both ways.

`MixtralForCausalLM`, `Qwen3MoeForCausalLM` and `OlmoeForCausalLM` have the same weight names. The names here are those
of `model.state_dict()` in transformers 5: the experts of a layer are one tensor with the expert as its first dim, as in
the engine's full model. Saved files may name each expert separately. Loading them with transformers gives these names.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from modelwright.config import MLP, MOE
from modelwright.layers import Entry, Heads, WeightMap, check_mapped
from modelwright.moe.config import MoeModelConfig

# Fields with one value in these models of transformers.
_NEEDED: Mapping[str, object] = MappingProxyType(
    {
        "activation": "swiglu",
        "normalization": "rmsnorm",
        "position_embedding": "rope",
        "rotary_percent": 1.0,
        "linear_bias": False,
        "latent_attention": None,
        "shared_experts": 0,
        "expert_latent_size": None,
        "router_score": "softmax",
        "router_scaling": None,
        "router_groups": None,
        "expert_bias": False,
        "capacity_factor": None,
    }
)
_ENDS = (
    Entry("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), "vocab"),
    Entry("decoder.final_norm.weight", ("model.norm.weight",)),
)
_OUTPUT = Entry("output_layer.weight", ("lm_head.weight",), "vocab")
_NORMS = (
    Entry("decoder.layers.{a}.input_layernorm.weight", ("model.layers.{i}.input_layernorm.weight",)),
    Entry("decoder.layers.{b}.pre_mlp_layernorm.weight", ("model.layers.{i}.post_attention_layernorm.weight",)),
)
_ATTENTION = (
    Entry(
        "decoder.layers.{a}.self_attention.linear_qkv.weight",
        tuple(f"model.layers.{{i}}.self_attn.{name}_proj.weight" for name in "qkv"),
        "qkv",
    ),
    Entry("decoder.layers.{a}.self_attention.linear_proj.weight", ("model.layers.{i}.self_attn.o_proj.weight",)),
)
_QK_NORM = tuple(
    Entry(
        f"decoder.layers.{{a}}.self_attention.{name}_layernorm.weight",
        (f"model.layers.{{i}}.self_attn.{name}_norm.weight",),
    )
    for name in "qk"
)
_QKV_BIAS = Entry(
    "decoder.layers.{a}.self_attention.linear_qkv.bias",
    tuple(f"model.layers.{{i}}.self_attn.{name}_proj.bias" for name in "qkv"),
    "qkv",
)
_SECOND = {
    MLP.symbol: (
        Entry(
            "decoder.layers.{b}.mlp.linear_fc1.weight",
            ("model.layers.{i}.mlp.gate_proj.weight", "model.layers.{i}.mlp.up_proj.weight"),
            "rows",
        ),
        Entry("decoder.layers.{b}.mlp.linear_fc2.weight", ("model.layers.{i}.mlp.down_proj.weight",)),
    ),
    MOE.symbol: (
        Entry("decoder.layers.{b}.mlp.router.weight", ("model.layers.{i}.mlp.gate.weight",)),
        Entry(
            "decoder.layers.{b}.mlp.experts.experts.linear_fc1.weight", ("model.layers.{i}.mlp.experts.gate_up_proj",)
        ),
        Entry("decoder.layers.{b}.mlp.experts.experts.linear_fc2.weight", ("model.layers.{i}.mlp.experts.down_proj",)),
    ),
}
"""Entries of the second layer of a block, by its symbol."""


def moe_map(config: MoeModelConfig) -> WeightMap:
    """Return the weight map of one config.

    Args:
        config: Config with SwiGLU, RMSNorm, rope and only routed experts, as in these models. Norms of queries and
            keys, a bias on queries, keys and values, tied embeddings, and blocks with an MLP are optional.

    Returns:
        The map between names in the full models. `to_engine` and `from_engine` are inverse to each other.

    Raises:
        WeightMapError: The weights would fit, but those models would compute something else.
    """
    check_mapped(config, _NEEDED, "MixtralForCausalLM")
    return WeightMap(
        entries=(*_ENDS, *(() if config.tie_embeddings else (_OUTPUT,)), *_blocks(config)),
        blocks=config.blocks,
        heads=Heads(heads=config.heads, groups=config.resolved_query_groups, head_dim=config.resolved_head_dim),
        vocab_size=config.vocab_size,
        padded_vocab_size=config.padded_vocab_size,
    )


def _blocks(config: MoeModelConfig) -> Iterator[Entry]:
    """Yield the entries of each block separately, because blocks differ."""
    attention = (*_NORMS, *_ATTENTION, *(_QK_NORM if config.qk_norm else ()))
    if config.qkv_bias:
        attention += (_QKV_BIAS,)
    for i, second in enumerate(config.layers[1::2]):
        index = {"i": i, "a": 2 * i, "b": 2 * i + 1}
        for entry in (*attention, *_SECOND[second]):
            yield Entry(entry.engine.format(**index), tuple(name.format(**index) for name in entry.other), entry.layout)
