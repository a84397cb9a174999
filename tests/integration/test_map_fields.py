"""Every field of a config against Hugging Face transformers: a map refuses it, or both models compute the same.

Each field is changed alone. The config of transformers is made of what it can express, so a field that it cannot
express, and that the map accepts, gives other logits.
"""

import dataclasses
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import Mamba2Config, Mamba2ForCausalLM, NemotronHConfig, NemotronHForCausalLM

from modelwright.config import (
    ConfigError,
    DecoderConfig,
    Llama3RopeScaling,
    ModelConfig,
    NoWrap,
    Parallelism,
    Precision,
    replace,
)
from modelwright.distributed import RankPool
from modelwright.gpt.hf import llama_map
from modelwright.layers import WeightMap, WeightMapError
from modelwright.mamba import MambaModelConfig
from modelwright.mamba.hf import mamba2_map, nemotron_h_map
from modelwright.moe import LatentAttention
from modelwright.moe.hf import moe_map
from tests.integration import test_hf_llama, test_hf_mamba, test_hf_moe

_ACTIVATIONS = {"squared_relu": "relu2", "gelu_tanh": "gelu_pytorch_tanh"}


def mamba2(config: MambaModelConfig) -> nn.Module:
    made: Any = test_hf_mamba.mamba2(config).config.to_dict()
    return Mamba2ForCausalLM(Mamba2Config(**made | {"layer_norm_epsilon": config.norm_epsilon}))


def nemotron_h(config: MambaModelConfig) -> nn.Module:
    made: Any = test_hf_mamba.nemotron_h(config).config.to_dict()
    more = {
        "layer_norm_epsilon": config.norm_epsilon,
        "mlp_hidden_act": _ACTIVATIONS.get(config.activation, config.activation),
        "conv_kernel": config.conv_width,
        "use_conv_bias": config.conv_bias,
        "use_bias": config.mamba_bias,
        "mamba_proj_bias": config.mamba_bias,
        "time_step_min": config.dt_limit[0],
        "tie_word_embeddings": config.tie_embeddings,
    }
    return NemotronHForCausalLM(NemotronHConfig(**made | more))


def mixture(name: str) -> Callable[[Any], nn.Module]:
    def made(config: Any) -> nn.Module:
        return test_hf_moe.MODELS[name](config, attn_implementation="eager", experts_implementation="eager")

    return made


class Case(typing.NamedTuple):
    """A map, a config to change, and the model of transformers."""

    map_of: Callable[[Any], WeightMap]
    config: Any
    model_of: Callable[[Any], nn.Module]


CASES = {
    "llama": Case(llama_map, replace(test_hf_llama.SHAPE, num_layers=2), test_hf_llama.llama),
    **{name: Case(moe_map, config, mixture(name)) for name, config in test_hf_moe.CONFIGS.items()},
    "mamba2": Case(mamba2_map, test_hf_mamba.SHAPE, mamba2),
    "nemotron_h": Case(nemotron_h_map, test_hf_mamba.NEMOTRON, nemotron_h),
}
OTHERS: dict[str, tuple[Any, ...]] = {
    "activation": ("geglu", "gelu", "gelu_tanh", "relu", "squared_relu", "silu", "swiglu"),
    "pattern": ("*E*-", "M*", "MM", "M-"),
    "rope_scaling": (Llama3RopeScaling(factor=4.0, original_seq_length=64),),
    "latent_attention": (LatentAttention(query_rank=24, key_value_rank=16, head_dim=8, rotary_head_dim=4),),
    "engine": ({"moe_router_force_load_balancing": True}, {"softmax_scale": 0.5}),
    "seq_length": (32, 256),
    "vocab_size": (96,),
    "vocab_multiple": (1, 64),
    "rotary_percent": (0.5,),
    "a_init_range": ((1.0, 2.0),),
    "dt_init_range": ((0.01, 0.02),),
    "dt_limit": ((0.02, 0.06), (0.02, float("inf"))),
    "first_dense_layers": (0, 1, 2),
    "attention_dropout": (0.5,),
    "hidden_dropout": (0.5,),
    "kernels": ("torch",),
    "num_experts": (16,),
    "top_k": (1, 2),
}
WITH: dict[str, dict[str, Any]] = {
    "pattern": {"num_layers": None, "first_dense_layers": 0},
    "latent_attention": {"num_query_groups": None, "head_dim": None, "qk_norm": False, "qk_norm_over": "head"},
    "qk_norm_over": {"qk_norm": True},
    "qk_norm": {"qk_norm_over": "head"},
    "shared_expert_gate": {"shared_experts": 1},
    "shared_expert_ffn_hidden_size": {"shared_experts": 1},
    "router_groups": {"router_groups": 4, "router_top_groups": 2},
    "router_top_groups": {"router_groups": 4, "router_top_groups": 2},
    "expert_bias": {"router_score": "sigmoid", "router_pre_softmax": False},
    "router_score": {"router_pre_softmax": False},
    "pad_to_capacity": {"capacity_factor": 1.0},
    "full_attention_every": {"sliding_window": 8},
}
"""Fields that no valid config changes alone, and what changes with them."""


def others(config: ModelConfig, name: str) -> Iterator[Any]:
    """Yield other values of a field, by its type."""
    if name in OTHERS:
        yield from (value for value in OTHERS[name] if value != getattr(config, name))
        return
    hint, current = typing.get_type_hints(type(config))[name], getattr(config, name)
    options = typing.get_args(hint) if typing.get_origin(hint) is not Literal else (hint,)
    for option in options or (hint,):
        if typing.get_origin(option) is Literal:
            yield from (value for value in typing.get_args(option) if value != current)
        elif option is type(None) and current is not None:
            yield None
        elif option is bool:
            yield not current
        elif option is int:
            yield 2 * current if current else 2
        elif option is float:
            yield 2 * current if current else 0.5


def changed(config: ModelConfig, name: str) -> Iterator[Any]:
    """Yield the configs that differ in a field, or the error of a value that none can have."""
    for value in others(config, name):
        error: ConfigError | None = None
        for base in ({}, WITH.get(name, {})):
            try:
                yield replace(config, **base | {name: value})
            except ConfigError as refused:
                error = refused
                continue
            break
        else:
            yield error


def logits_of_each(models: list[tuple[ModelConfig, dict[str, Tensor]]], tokens_BS: Tensor) -> list[Tensor | str]:
    """Run several models on one rank. The answer for one that cannot be built is the error."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize, load_full_state_dict
    from modelwright.protocols import ModelwrightError
    from tests.integration.jobs import quiet

    quiet()
    groups = initialize(Parallelism())
    answers: list[Tensor | str] = []
    for config, weights in models:
        options: Any = {"parallelism": Parallelism(), "precision": Precision(), "wrap": NoWrap()}
        try:
            stages = builder_for(config).build_distributed_models(groups, **options)
            load_full_state_dict(stages, weights, groups)
        except ModelwrightError as error:
            answers.append(f"{type(error).__name__}: {error}")
            continue
        positions = torch.arange(tokens_BS.size(1)).expand_as(tokens_BS)
        with torch.no_grad():
            answers.append(stages[0].eval()(tokens_BS, positions, None))
    return answers


def expected_of(model: nn.Module, tokens_BS: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Give a model of transformers random weights, and return them and its logits."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if "norm" in name else 0.0
            parameter.copy_(mean + 0.15 * torch.randn(parameter.shape, generator=generator))
        logits: Tensor = model.eval()(tokens_BS, use_cache=False).logits
    return test_hf_mamba.weights_of(model), logits


@pytest.mark.parametrize("case", CASES)
def test_a_field_is_refused_or_computed_alike(case: str, two_ranks: RankPool) -> None:
    map_of, base, model_of = CASES[case]
    tokens = torch.randint(0, 90, (2, 24), generator=torch.Generator().manual_seed(1))
    tried: dict[str, list[str]] = {}
    models: list[tuple[str, Any, dict[str, Tensor], Tensor]] = []
    for field in dataclasses.fields(base):
        # The config as it is once, with the first field.
        for config in [*changed(base, field.name), *([] if models else [base])]:
            if isinstance(config, ConfigError):
                tried.setdefault(field.name, []).append(f"refused: {config}")
                continue
            label = f"{field.name}={getattr(config, field.name)!r}"
            try:
                weight_map = map_of(config)
                model = model_of(config)
                weights, logits = expected_of(model, tokens)
                models.append((label, config, weight_map.to_engine(weights), logits))
            except (WeightMapError, StrictDataclassError) as error:
                tried.setdefault(field.name, []).append(f"{label} refused: {error}")
            else:
                tried.setdefault(field.name, []).append(label)
    (answers,) = two_ranks.run(logits_of_each, [(config, weights) for _, config, weights, _ in models], tokens, ranks=1)
    wrong = [
        label
        for (label, config, _, logits), answer in zip(models, answers, strict=True)
        if isinstance(answer, Tensor) and (answer[..., : config.vocab_size] - logits).abs().max() > 1e-3
    ]
    assert wrong == []
    assert {field.name for field in dataclasses.fields(base)} - tried.keys() <= {"num_layers"}
    assert isinstance(base, DecoderConfig)
