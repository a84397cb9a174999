"""Weight maps between a Mamba model and Hugging Face transformers, in both directions.

`mamba2_map` is for `Mamba2ForCausalLM`, and `nemotron_h_map` for `NemotronHForCausalLM`. The names in both are those of
published checkpoints.
"""

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from modelwright.config import ATTENTION, MAMBA, MLP, MOE, activation_is_gated
from modelwright.layers import Entry, Heads, WeightMap, WeightMapError, check_mapped
from modelwright.mamba.config import MambaModelConfig

# Fields with one value in transformers: in every model, and in those with a layer kind, by its symbol.
_NEEDED: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "": {"normalization": "rmsnorm", "position_embedding": "none"},
        # The engine's gated norm has this constant, whatever `norm_epsilon` says; those of transformers follow it.
        MAMBA.symbol: {"gated_norm": True, "norm_before_gate": False, "d_per_channel": False, "norm_epsilon": 1e-5},
        ATTENTION.symbol: {"linear_bias": False, "qkv_bias": False, "qk_norm": False},
        MLP.symbol: {"linear_bias": False},
    }
)
_SAME = ("A_log", "D", "dt_bias", "out_proj.weight")


def mamba2_map(config: MambaModelConfig) -> WeightMap:
    """Return the weight map of one config to `Mamba2ForCausalLM`.

    Args:
        config: Config with only Mamba-2 layers and with RMSNorm. Tied embeddings and biases are optional.

    Returns:
        The map. `to_engine` and `from_engine` are inverse to each other.

    Raises:
        WeightMapError: The weights would fit, but `Mamba2ForCausalLM` would compute something else.
    """
    other = next((symbol for symbol in config.layers if symbol != MAMBA.symbol), None)
    if other is not None:
        rule = f"`pattern` must contain only `{MAMBA.symbol}` for `Mamba2ForCausalLM`"
        raise WeightMapError(f"{rule}, but contains `{other}`; use `nemotron_h_map`.")
    _check_fields(config, "Mamba2ForCausalLM")
    return _map(config)


def nemotron_h_map(config: MambaModelConfig) -> WeightMap:
    """Return the weight map of one config to `NemotronHForCausalLM`.

    transformers renames `backbone`, as in a checkpoint and here, to `model` when it loads, and back when it saves. It
    also bounds step sizes by `time_step_min`; for equal results set `dt_limit` to the same bound.

    Args:
        config: Config with Mamba-2, attention and MLP layers, RMSNorm, and an activation without a gate. Tied
            embeddings are optional.

    Returns:
        The map. `to_engine` and `from_engine` are inverse to each other.

    Raises:
        WeightMapError: The weights would fit, but `NemotronHForCausalLM` would compute something else.
    """
    if config.has(MOE):
        rule = "`pattern` must be made of `M`, `*` and `-` for `NemotronHForCausalLM`"
        raise WeightMapError(f"{rule}, but contains `{MOE.symbol}`; write a custom map for the experts.")
    _check_fields(config, "NemotronHForCausalLM")
    if config.has(MLP) and activation_is_gated(config.activation):
        rule = "`activation` must have no gate for `NemotronHForCausalLM`"
        raise WeightMapError(f"{rule}, but `{config.activation}` has one; it is `squared_relu` in published models.")
    if config.has(MAMBA) and config.dt_limit[1] != math.inf:
        rule = "`dt_limit` must have no upper bound for `NemotronHForCausalLM`, which ignores `time_step_limit`"
        raise WeightMapError(f"{rule}, but has {config.dt_limit[1]}; use infinity, or write a custom map.")
    return _map(config)


def _check_fields(config: MambaModelConfig, model: str) -> None:
    """Refuse a config whose weights would load into a model that computes something else."""
    for symbol, fields in _NEEDED.items():
        if symbol in {"", *config.symbols}:
            check_mapped(config, fields, model)


def _map(config: MambaModelConfig) -> WeightMap:
    """Return the map; both models of transformers use the same names for the layers they share."""
    entries = [
        Entry("embedding.word_embeddings.weight", ("backbone.embeddings.weight",), "vocab"),
        Entry("decoder.final_norm.weight", ("backbone.norm_f.weight",)),
    ]
    if not config.tie_embeddings:
        entries.append(Entry("output_layer.weight", ("lm_head.weight",), "vocab"))
    of_symbol = {MAMBA.symbol: _mamba, ATTENTION.symbol: _attention, MLP.symbol: _mlp}
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
