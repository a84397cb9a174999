"""Presets have the published shapes; the parameter counts are the published ones."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import modelwright.gpt.presets as module
from modelwright.config import dumps, loads, preset, presets
from modelwright.gpt import GPTModelConfig, gpt_tiny

PUBLISHED = {
    "gpt2_124m": 124_439_808,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama31_405b": 405_853_388_800,
}


def parameters(config: GPTModelConfig) -> int:
    """Parameters of the model, without the rows that pad the vocabulary."""
    hidden, ffn, head = config.hidden_size, config.resolved_ffn_hidden_size, config.resolved_head_dim
    queries, groups = config.num_attention_heads * head, config.resolved_query_groups * head
    gated = 2 if config.activation == "swiglu" else 1
    norm = hidden * (2 if config.normalization == "layernorm" else 1)
    block = hidden * (queries + 2 * groups) + queries * hidden + hidden * ffn * gated + ffn * hidden + 2 * norm
    if config.linear_bias:
        block += queries + 2 * groups + hidden + ffn * gated + hidden
    tables = config.vocab_size * hidden * (1 if config.tie_embeddings else 2)
    positions = config.seq_length * hidden if config.position_embedding == "learned" else 0
    return tables + positions + config.num_layers * block + norm


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str) -> None:
    config = preset(name)
    assert isinstance(config, GPTModelConfig)
    assert parameters(config) == PUBLISHED[name]


def test_every_preset_is_registered_documented_and_comes_back() -> None:
    functions = {
        node.name for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.FunctionDef)
    }
    assert functions == set(module.__all__) <= set(presets())
    for name in functions:
        assert presets()[name].__doc__
        assert loads(dumps(preset(name))) == preset(name)


def test_the_tiny_one_is_the_example() -> None:
    example = Path(__file__).parents[3] / "docs" / "examples" / "gpt-tiny.yaml"
    if not example.exists():
        pytest.skip("the package stands alone")
    assert loads(example.read_text()).model == gpt_tiny()  # type: ignore[union-attr]


def test_the_readme_runs() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n", 1)[1].split("```", 1)[0]
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("kind: gpt\n")
