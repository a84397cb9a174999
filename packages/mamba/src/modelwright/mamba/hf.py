"""How a Mamba model's weights correspond to those of Hugging Face transformers' `Mamba2ForCausalLM`, both ways."""

from modelwright.layers import Entry, Heads, WeightMap
from modelwright.mamba.config import MambaModelConfig

_MIXER = "decoder.layers.{i}.mixer"
_OTHER = "backbone.layers.{i}.mixer"
_SAME = ("A_log", "D", "dt_bias", "out_proj.weight")


def mamba2_map(config: MambaModelConfig) -> WeightMap:
    """The map for one config.

    Args:
        config: Of Mamba layers alone, with RMSNorm, as Mamba-2 has them; tied or not, with or without biases.

    Returns:
        A map whose `to_engine` and `from_engine` are each other's inverse.
    """
    heads, states = config.resolved_mamba_heads, config.mamba_num_groups * config.mamba_state_dim
    channels = heads * config.mamba_head_dim
    convolved = (("x", channels), ("B", states), ("C", states))
    projected = (("z", channels), *convolved, ("dt", heads))
    names = [*_SAME]
    names += ["norm.weight"] if config.gated_norm else []
    names += ["out_proj.bias"] if config.mamba_bias else []
    parts = {"in_proj.weight": projected, "conv1d.weight": convolved}
    parts |= {"conv1d.bias": convolved} if config.conv_bias else {}
    parts |= {"in_proj.bias": projected} if config.mamba_bias else {}
    entries = [Entry(f"{_MIXER}.{name}", (f"{_OTHER}.{name}",)) for name in names]
    entries += [Entry(f"{_MIXER}.{name}", (f"{_OTHER}.{name}",), parts=rows) for name, rows in parts.items()]
    entries += [
        Entry("embedding.word_embeddings.weight", ("backbone.embeddings.weight",), "vocab"),
        Entry("decoder.layers.{i}.norm.weight", ("backbone.layers.{i}.norm.weight",)),
        Entry("decoder.final_norm.weight", ("backbone.norm_f.weight",)),
    ]
    if not config.tie_embeddings:
        entries.append(Entry("output_layer.weight", ("lm_head.weight",), "vocab"))
    return WeightMap(
        entries=tuple(entries),
        blocks=config.blocks,
        layers_per_block=1,
        heads=Heads(heads=1, groups=1, head_dim=1),
        vocab_size=config.vocab_size,
        padded_vocab_size=config.padded_vocab_size,
    )
