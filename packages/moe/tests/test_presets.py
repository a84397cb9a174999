"""Presets have the published shapes; the parameter counts, all and those that a token meets, are the published ones."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import modelwright.moe.presets as module
from modelwright.config import dumps, loads, preset, presets
from modelwright.moe import MoeModelConfig, moe_tiny

PUBLISHED = {
    "mixtral_8x7b": 46_702_792_704,
    "olmoe_1b_7b": 6_919_161_856,
    "qwen3_30b_a3b": 30_532_122_624,
    "deepseek_v3": 671_026_404_352,
}
# As the reports round them: arXiv:2401.04088 section 1, 2409.02060 table 1, 2505.09388 table 2, 2412.19437 section 4.2.
PUBLISHED_ACTIVE = {"mixtral_8x7b": 13e9, "olmoe_1b_7b": 1.3e9, "qwen3_30b_a3b": 3.3e9, "deepseek_v3": 37e9}


def parameters(config: MoeModelConfig, *, active: bool = False) -> int:
    """Parameters of the model, or of those what one token meets, without the rows that pad the vocabulary."""
    hidden = config.hidden_size
    tables = config.vocab_size * hidden * (1 if config.tie_embeddings else 2)
    layers = {"*": attention(config), "+": latent_attention(config), "E": mixture(config, active=active)}
    layers["-"] = 3 * hidden * config.resolved_ffn_hidden_size
    return tables + hidden + sum(hidden + layers[symbol] for symbol in config.layers)


def attention(config: MoeModelConfig) -> int:
    head = config.resolved_head_dim
    queries, groups = config.heads * head, config.resolved_query_groups * head
    norms = 2 * head if config.qk_norm_over == "head" else queries + groups
    return config.hidden_size * (2 * queries + 2 * groups) + (norms if config.qk_norm else 0)


def latent_attention(config: MoeModelConfig) -> int:
    latent = config.latent_attention
    if latent is None:
        return 0
    low, query = latent.key_value_rank, latent.query_rank
    down = config.hidden_size * (query + low + latent.rotary_head_dim)
    keys_and_values = low * (latent.head_dim + latent.value_head_dim)
    up = query * (latent.head_dim + latent.rotary_head_dim) + keys_and_values
    out = latent.value_head_dim * config.hidden_size
    return down + config.heads * (up + out) + (query + low if config.qk_norm else 0)


def mixture(config: MoeModelConfig, *, active: bool) -> int:
    experts = config.top_k if active else config.num_experts
    width = experts * config.resolved_expert_ffn_hidden_size + config.shared_ffn_hidden_size
    gate = config.hidden_size if config.shared_expert_gate else 0
    return config.hidden_size * (config.num_experts + 3 * width) + gate


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str) -> None:
    config = preset(name)
    assert isinstance(config, MoeModelConfig)
    assert parameters(config) == PUBLISHED[name]
    assert parameters(config, active=True) == pytest.approx(PUBLISHED_ACTIVE[name], rel=0.03)


def test_every_preset_is_registered_documented_and_comes_back() -> None:
    functions = {
        node.name for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.FunctionDef)
    }
    assert functions == set(module.__all__) <= set(presets())
    for name in functions:
        assert presets()[name].__doc__
        assert loads(dumps(preset(name))) == preset(name)


def test_the_tiny_one_is_the_example() -> None:
    example = Path(__file__).parents[3] / "docs" / "examples" / "moe-tiny.yaml"
    if not example.exists():
        pytest.skip("the package stands alone")
    assert loads(example.read_text()).model == moe_tiny()  # type: ignore[union-attr]


def test_the_readme_runs() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n", 1)[1].split("```", 1)[0]
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("kind: moe\n")
