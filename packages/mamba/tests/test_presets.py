"""Presets have the published shapes; the parameter counts are the published ones."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import modelwright.mamba.presets as module
from modelwright.config import dumps, loads, preset, presets
from modelwright.mamba import MambaModelConfig

PUBLISHED = {
    "mamba2_130m": 128_989_632,
    "mamba2_2_7b": 2_702_599_680,
    "nemotron_h_8b": 8_100_852_736,
}
EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
# What the published config files say, where it is not what this family's defaults say: `config.json` of
# state-spaces/mamba2-130m and mamba2-2.7b with the defaults of the `Mamba2` that they name, and of
# nvidia/Nemotron-H-8B-Base-8K.
MAMBA2 = {"chunk_size": 256, "vocab_size": 50277, "vocab_multiple": 16, "seq_length": 2048, "tie_embeddings": True}
STATED = {
    "mamba2_130m": {"num_layers": 24, "hidden_size": 768, **MAMBA2},
    "mamba2_2_7b": {"num_layers": 64, "hidden_size": 2560, **MAMBA2},
    "nemotron_h_8b": {
        "pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_query_groups": 8,
        "head_dim": 128,
        "ffn_hidden_size": 21504,
        "activation": "squared_relu",
        "mamba_num_heads": 128,
        "mamba_num_groups": 8,
        "vocab_size": 131072,
        "seq_length": 8192,
    },
}
# The defaults that those files agree with.
SHARED = {
    "mamba_state_dim": 128, "mamba_head_dim": 64, "expand": 2.0, "conv_width": 4, "conv_bias": True, "conv_init": None,
    "mamba_bias": False, "gated_norm": True, "norm_before_gate": False, "d_per_channel": False,
    "a_init_range": (1.0, 16.0), "dt_init_range": (0.001, 0.1), "dt_init_floor": 1e-4,
    "dt_limit": (0.0, float("inf")), "normalization": "rmsnorm", "norm_epsilon": 1e-5, "position_embedding": "none",
    "linear_bias": False, "qkv_bias": False, "qk_norm": False,
}  # fmt: skip


def parameters(config: MambaModelConfig) -> int:
    """Parameters of the model: its tables have the rows that pad the vocabulary, as the published counts do."""
    hidden, heads = config.hidden_size, config.resolved_mamba_heads
    inner, states = heads * config.mamba_head_dim, 2 * config.mamba_num_groups * config.mamba_state_dim
    in_proj, out_proj = hidden * (2 * inner + states + heads), inner * hidden
    convolution = (inner + states) * (config.conv_width + config.conv_bias)
    of_heads = 2 * heads + (inner if config.d_per_channel else heads)
    biases = (2 * inner + states + heads + hidden) * config.mamba_bias
    mamba = hidden + in_proj + convolution + of_heads + inner * config.gated_norm + out_proj + biases
    queries, groups = (count * config.resolved_head_dim for count in (config.heads, config.resolved_query_groups))
    attention = hidden + hidden * (queries + 2 * groups) + queries * hidden
    gated = 2 if config.activation == "swiglu" else 1
    mlp = hidden + hidden * config.resolved_ffn_hidden_size * (gated + 1)
    layers = sum({"M": mamba, "*": attention, "-": mlp}[symbol] for symbol in config.layers)
    tables = config.padded_vocab_size * hidden * (1 if config.tie_embeddings else 2)
    return tables + layers + hidden


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str) -> None:
    config = preset(name)
    assert isinstance(config, MambaModelConfig)
    assert parameters(config) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_field_is_the_published_one(name: str) -> None:
    config = preset(name)
    assert isinstance(config, MambaModelConfig)
    moved = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.default is dataclasses.MISSING or getattr(config, field.name) != field.default
    }
    assert {key: value for key, value in moved.items() if value is not None and key != "engine"} == STATED[name]
    assert {key: getattr(config, key) for key in SHARED} == SHARED


def test_the_layers_of_nemotron_h() -> None:
    config = preset("nemotron_h_8b")
    assert isinstance(config, MambaModelConfig)
    assert {symbol: config.layers.count(symbol) for symbol in "M*-"} == {"M": 24, "*": 4, "-": 24}
    assert config.blocks == 52


def test_every_preset_is_registered_documented_and_comes_back() -> None:
    functions = {
        node.name for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.FunctionDef)
    }
    public = {name for name in functions if not name.startswith("_")}
    assert public == set(module.__all__) <= set(presets())
    for name in public:
        assert presets()[name].__doc__
        assert loads(dumps(preset(name))) == preset(name)


@pytest.mark.parametrize("name", ["mamba_tiny", "hybrid_tiny"])
def test_the_tiny_ones_are_the_examples(name: str) -> None:
    example = EXAMPLES / f"{name.replace('_', '-')}.yaml"
    if not example.exists():
        pytest.skip("the package stands alone")
    assert loads(example.read_text()).model == preset(name)  # type: ignore[union-attr]


def test_the_readme_runs() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n", 1)[1].split("```", 1)[0]
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("kind: mamba\n")
