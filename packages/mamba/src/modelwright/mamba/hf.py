"""How a Mamba model's weights correspond to those of Hugging Face transformers, in both directions.

`mamba2_map` is for `Mamba2ForCausalLM`, `nemotron_h_map` for `NemotronHForCausalLM`; the names of both are those of
published checkpoints.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from modelwright.config import activation_is_gated
from modelwright.layers import Entry, Heads, WeightMap, WeightMapError, check_mapped
from modelwright.mamba.config import MambaModelConfig

# What transformers has no choice of, for every model and for those with layers of a symbol.
_NEEDED: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "": {"normalization": "rmsnorm", "position_embedding": "none"},
        "M": {"gated_norm": True, "norm_before_gate": False, "d_per_channel": False},
        "*": {"linear_bias": False, "qkv_bias": False, "qk_norm": False},
        "-": {"linear_bias": False},
    }
)
_SAME = ("A_log", "D", "dt_bias", "out_proj.weight")


def mamba2_map(config: MambaModelConfig) -> WeightMap:
    """The map for one config.

    Args:
        config: Of Mamba layers alone, with RMSNorm, as Mamba-2 has them; tied or not, with or without biases.

    Returns:
        A map whose `to_engine` and `from_engine` are each other's inverse.

    Raises:
        WeightMapError: That model computes something else than the config says.
    """
    other = next((symbol for symbol in config.layers if symbol != "M"), None)
    if other is not None:
        rule = "`pattern` must be made of `M` alone for `Mamba2ForCausalLM`"
        raise WeightMapError(f"{rule}, but holds `{other}`; use `nemotron_h_map`.")
    _check_fields(config, "Mamba2ForCausalLM")
    return _map(config)


def nemotron_h_map(config: MambaModelConfig) -> WeightMap:
    """The map for one config.

    Args:
        config: Of layers of Mamba, attention and MLP, with RMSNorm and an activation without a gate, as Nemotron-H has
            them; tied or not.

    Returns:
        A map whose `to_engine` and `from_engine` are each other's inverse. transformers calls `model` what is
        `backbone` in a checkpoint and here, and renames it when it loads and saves. It also keeps step sizes above
        `time_step_min`, which `dt_limit` has to say for equal results.

    Raises:
        WeightMapError: That model computes something else than the config says.
    """
    if "E" in config.symbols:
        rule = "`pattern` must be made of `M`, `*` and `-` for `NemotronHForCausalLM`"
        raise WeightMapError(f"{rule}, but holds `E`; write a map of your own for the experts.")
    _check_fields(config, "NemotronHForCausalLM")
    if "-" in config.symbols and activation_is_gated(config.activation):
        rule = "`activation` must have no gate for `NemotronHForCausalLM`"
        raise WeightMapError(f"{rule}, but `{config.activation}` has one; it is `squared_relu` in published models.")
    return _map(config)


def _check_fields(config: MambaModelConfig, model: str) -> None:
    """Refuse what would load and then compute something else."""
    for symbol, fields in _NEEDED.items():
        if symbol in {"", *config.symbols}:
            check_mapped(config, fields, model)


def _map(config: MambaModelConfig) -> WeightMap:
    """Both name what they share alike."""
    entries = [
        Entry("embedding.word_embeddings.weight", ("backbone.embeddings.weight",), "vocab"),
        Entry("decoder.final_norm.weight", ("backbone.norm_f.weight",)),
    ]
    if not config.tie_embeddings:
        entries.append(Entry("output_layer.weight", ("lm_head.weight",), "vocab"))
    of_symbol = {"M": _mamba, "*": _attention, "-": _mlp}
    for index, symbol in enumerate(config.layers):
        entries += of_symbol[symbol](config, f"decoder.layers.{index}", f"backbone.layers.{index}")
    return WeightMap(
        entries=tuple(entries),
        blocks=1,
        heads=Heads(heads=config.heads, groups=config.resolved_query_groups, head_dim=config.resolved_head_dim),
        vocab_size=config.vocab_size,
        padded_vocab_size=config.padded_vocab_size,
    )


def _mamba(config: MambaModelConfig, ours: str, theirs: str) -> Iterator[Entry]:
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
    yield Entry(f"{ours}.norm.weight", (f"{theirs}.norm.weight",))
    for name in names:
        yield Entry(f"{ours}.mixer.{name}", (f"{theirs}.mixer.{name}",))
    for name, rows in parts.items():
        yield Entry(f"{ours}.mixer.{name}", (f"{theirs}.mixer.{name}",), parts=rows)


def _attention(_: MambaModelConfig, ours: str, theirs: str) -> Iterator[Entry]:
    queries, keys, values = (f"{theirs}.mixer.{name}_proj.weight" for name in "qkv")
    yield Entry(f"{ours}.input_layernorm.weight", (f"{theirs}.norm.weight",))
    yield Entry(f"{ours}.self_attention.linear_qkv.weight", (queries, keys, values), "qkv")
    yield Entry(f"{ours}.self_attention.linear_proj.weight", (f"{theirs}.mixer.o_proj.weight",))


def _mlp(_: MambaModelConfig, ours: str, theirs: str) -> Iterator[Entry]:
    yield Entry(f"{ours}.pre_mlp_layernorm.weight", (f"{theirs}.norm.weight",))
    yield Entry(f"{ours}.mlp.linear_fc1.weight", (f"{theirs}.mixer.up_proj.weight",))
    yield Entry(f"{ours}.mlp.linear_fc2.weight", (f"{theirs}.mixer.down_proj.weight",))
