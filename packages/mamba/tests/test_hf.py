"""The maps to the names of Hugging Face cover the models that are built, and lose nothing either way."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from modelwright.config import replace
from modelwright.distributed import local_shards
from modelwright.layers import WeightMap, WeightMapError
from modelwright.mamba import MambaModelConfig
from modelwright.mamba.hf import mamba2_map, nemotron_h_map
from packages.mamba.tests.test_builder import HYBRID, MAMBA, build
from tests.messages import facts

EXACT = replace(MAMBA, vocab_size=64)
MIXER = {
    "in_proj.weight": (84, 16),
    "conv1d.weight": (48, 1, 4),
    "conv1d.bias": (48,),
    "dt_bias": (4,),
    "A_log": (4,),
    "D": (4,),
    "norm.weight": (32,),
    "out_proj.weight": (16, 32),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_embeddings": True},
    "biases": {"mamba_bias": True},
    "no convolution bias": {"conv_bias": False},
    "one group": {"mamba_num_groups": 1},
}


def state(groups: ProcessGroupCollection, config: MambaModelConfig) -> dict[str, Tensor]:
    """Every parameter by its name in a checkpoint, no two alike."""
    torch.manual_seed(0)
    model = build(groups, config)
    return {shard.key: torch.randn_like(local) for shard, local in local_shards(model, groups)}


def expected_shapes(config: MambaModelConfig) -> dict[str, tuple[int, ...]]:
    mixer: dict[str, tuple[int, ...]] = dict(MIXER)
    if config.mamba_bias:
        mixer |= {"in_proj.bias": (84,), "out_proj.bias": (16,)}
    if not config.conv_bias:
        del mixer["conv1d.bias"]
    if config.mamba_num_groups == 1:
        mixer |= {"in_proj.weight": (76, 16), "conv1d.weight": (40, 1, 4), "conv1d.bias": (40,)}
    found: dict[str, tuple[int, ...]] = {
        "backbone.embeddings.weight": (config.vocab_size, 16),
        "backbone.norm_f.weight": (16,),
    }
    found |= {} if config.tie_embeddings else {"lm_head.weight": (config.vocab_size, 16)}
    for layer in range(2):
        found[f"backbone.layers.{layer}.norm.weight"] = (16,)
        found |= {f"backbone.layers.{layer}.mixer.{name}": shape for name, shape in mixer.items()}
    return found


@pytest.mark.parametrize("option", OPTIONS)
def test_names_and_shapes(groups: ProcessGroupCollection, option: str) -> None:
    config = replace(MAMBA, **OPTIONS[option])
    found = {name: tuple(t.shape) for name, t in mamba2_map(config).from_engine(state(groups, config)).items()}
    assert found == expected_shapes(config)


@pytest.mark.parametrize("option", OPTIONS)
def test_there_and_back(groups: ProcessGroupCollection, option: str) -> None:
    config = replace(EXACT, **OPTIONS[option])
    engine, weights = state(groups, config), mamba2_map(config)
    back = weights.to_engine(weights.from_engine(engine))
    assert back.keys() == engine.keys()
    for name, tensor in engine.items():
        assert torch.equal(back[name], tensor), name


def test_a_hybrid_has_the_names_of_nemotron_h(groups: ProcessGroupCollection) -> None:
    config = replace(HYBRID, activation="squared_relu", vocab_size=64, num_query_groups=2)
    engine, weights = state(groups, config), nemotron_h_map(config)
    theirs = weights.from_engine(engine)
    shapes = {name: tuple(t.shape) for name, t in theirs.items() if ".layers." in name and ".layers.0." not in name}
    assert shapes == {
        "backbone.layers.1.norm.weight": (16,),
        "backbone.layers.1.mixer.q_proj.weight": (16, 16),
        "backbone.layers.1.mixer.k_proj.weight": (8, 16),
        "backbone.layers.1.mixer.v_proj.weight": (8, 16),
        "backbone.layers.1.mixer.o_proj.weight": (16, 16),
        "backbone.layers.2.norm.weight": (16,),
        "backbone.layers.2.mixer.up_proj.weight": (24, 16),
        "backbone.layers.2.mixer.down_proj.weight": (16, 24),
    }
    back = weights.to_engine(theirs)
    assert back.keys() == engine.keys()
    for name, tensor in engine.items():
        assert torch.equal(back[name], tensor), name


def test_rows_that_pad_the_vocabulary_come_back_as_zero(groups: ProcessGroupCollection) -> None:
    engine, weights = state(groups, MAMBA), mamba2_map(MAMBA)
    table = weights.to_engine(weights.from_engine(engine))["output_layer.weight"]
    assert torch.equal(table[:60], engine["output_layer.weight"][:60])
    assert torch.equal(table[60:], torch.zeros(4, 16))


def test_the_rows_of_a_projection_stand_as_z_x_b_c_dt(groups: ProcessGroupCollection) -> None:
    engine = state(groups, MAMBA)
    whole = mamba2_map(MAMBA).from_engine(engine)["backbone.layers.1.mixer.in_proj.weight"]
    rows = dict(zip(("z", "x", "B", "C", "dt"), whole.split([32, 32, 8, 8, 4]), strict=True))
    for name, part in rows.items():
        assert torch.equal(part, engine[f"decoder.layers.1.mixer.in_proj.weight.{name}"])


def test_the_weights_of_another_config(groups: ProcessGroupCollection) -> None:
    weights = mamba2_map(MAMBA).from_engine(state(groups, MAMBA))
    with pytest.raises(WeightMapError) as caught:
        mamba2_map(replace(MAMBA, tie_embeddings=True, num_layers=3)).to_engine(weights)
    assert facts(caught.value) == (
        "9 backbone.layers.2.mixer.A_log backbone.layers.2.mixer.D backbone.layers.2.mixer.conv1d.bias "
        "backbone.layers.2.mixer.conv1d.weight 1 lm_head.weight"
    )


@pytest.mark.parametrize(
    ("make", "config", "expected"),
    [
        (
            mamba2_map,
            HYBRID,
            "`pattern` `M` `Mamba2ForCausalLM` `*` `nemotron_h_map`",
        ),
        (
            mamba2_map,
            replace(MAMBA, gated_norm=False),
            "`gated_norm` `true` `Mamba2ForCausalLM` `false`",
        ),
        (
            mamba2_map,
            replace(MAMBA, normalization="layernorm"),
            "`normalization` `rmsnorm` `Mamba2ForCausalLM` `layernorm`",
        ),
        (
            nemotron_h_map,
            replace(HYBRID, position_embedding="rope"),
            "`position_embedding` `none` `NemotronHForCausalLM` `rope`",
        ),
        (
            mamba2_map,
            replace(MAMBA, norm_epsilon=1e-6),
            "`norm_epsilon` `1e-05` `Mamba2ForCausalLM` `1e-06`",
        ),
        (
            nemotron_h_map,
            replace(HYBRID, pattern="M*", ffn_hidden_size=None, dt_limit=(0.0, 0.5)),
            "`dt_limit` `NemotronHForCausalLM` `time_step_limit` 0.5",
        ),
        (
            nemotron_h_map,
            HYBRID,
            "`activation` `NemotronHForCausalLM` `swiglu` `squared_relu`",
        ),
        (
            nemotron_h_map,
            replace(HYBRID, pattern="M*E", num_experts=4, top_k=2, activation="squared_relu"),
            "`pattern` `M` `*` `-` `NemotronHForCausalLM` `E`",
        ),
    ],
)
def test_a_model_that_computes_something_else_is_refused(
    make: Callable[[MambaModelConfig], WeightMap], config: MambaModelConfig, expected: str
) -> None:
    with pytest.raises(WeightMapError) as caught:
        make(config)
    assert facts(caught.value) == expected
