"""The downstream projects: their own tests pass where the engine cannot be imported, and their parts train in a GPT."""

import importlib
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from modelwright.testing import RankPool

FOLDER = Path(__file__).parents[2] / "docs" / "examples" / "downstream"
PROJECTS = sorted(path.parent.name for path in FOLDER.glob("*/pyproject.toml"))
each_project = pytest.mark.parametrize("project", PROJECTS)


def test_there_are_three() -> None:
    assert PROJECTS == ["gated_mlp", "rms_norm", "sliding_window"]


@each_project
def test_it_depends_on_the_protocols_and_torch_alone(project: str) -> None:
    declared = tomllib.loads((FOLDER / project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [line.split(">")[0] for line in declared["dependencies"]] == ["modelwright-protocols", "torch"]


@each_project
def test_its_own_tests_pass_without_the_engine(project: str) -> None:
    """`None` among the modules makes Python refuse the import, as where the engine is not installed."""
    code = (
        "import sys; sys.modules['megatron'] = None; import pytest; "
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {str(FOLDER / project)!r}]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=FOLDER / project, check=False
    )
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout


def train_with(project: str) -> tuple[list[float], list[str]]:
    """The losses of a small GPT with the project's part, and the names of its modules that the part fills."""
    sys.path.insert(0, str(FOLDER / project / "src"))
    from modelwright.config import RunConfig, TrainConfig
    from modelwright.distributed import initialize
    from modelwright.gpt import GPTModelConfig
    from modelwright.layers import AttentionLayerSpec, MlpLayerSpec, SelfAttentionSpec, decoder_stack
    from modelwright.training import builder_of, train

    part = getattr(importlib.import_module(project), importlib.import_module(project).__all__[0])
    model = GPTModelConfig(
        num_layers=2, hidden_size=64, num_attention_heads=4, num_query_groups=2, vocab_size=256, seq_length=32
    )
    stock = decoder_stack(model)
    if project == "gated_mlp":
        spec = replace(stock, mlp=MlpLayerSpec(mlp=part))
    elif project == "sliding_window":
        attention = SelfAttentionSpec(core_attention=part)
        spec = replace(stock, attention=AttentionLayerSpec(self_attention=attention))
    else:
        layers = {"attention": AttentionLayerSpec(input_layernorm=part), "mlp": MlpLayerSpec(pre_mlp_layernorm=part)}
        spec = replace(stock, final_norm=part, **layers)
    run = RunConfig(model=model, train=TrainConfig(steps=10, micro_batch=8, global_batch=8, lr=3e-3))
    losses = [record.loss for record in train(run, spec=spec)]
    stage = builder_of(run, spec=spec).build_model(initialize(run.parallelism))
    return losses, [name for name, module in stage.named_modules() if type(module) is part]


FILLED = {
    "gated_mlp": ["decoder.layers.1.mlp", "decoder.layers.3.mlp"],
    "rms_norm": [
        "decoder.layers.0.input_layernorm",
        "decoder.layers.1.pre_mlp_layernorm",
        "decoder.layers.2.input_layernorm",
        "decoder.layers.3.pre_mlp_layernorm",
        "decoder.final_norm",
    ],
    "sliding_window": [
        "decoder.layers.0.self_attention.core_attention",
        "decoder.layers.2.self_attention.core_attention",
    ],
}


@each_project
def test_its_part_trains_in_a_gpt(two_ranks: RankPool, project: str) -> None:
    losses, filled = two_ranks.run(train_with, project, ranks=1)[0]
    assert sorted(filled) == sorted(FILLED[project])
    assert losses[-1] < losses[0] - 0.5, losses
