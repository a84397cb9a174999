"""Hugging Face transformers as the oracle: its Mamba-2 and its Nemotron-H with the same weights give the same logits
and the same gradients."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Mamba2Config, Mamba2ForCausalLM, NemotronHConfig, NemotronHForCausalLM

from modelwright.config import Parallelism, replace
from modelwright.layers import WeightMap
from modelwright.mamba import MambaModelConfig
from modelwright.mamba.hf import mamba2_map, nemotron_h_map
from modelwright.testing import RankPool
from tests.integration.jobs import logits_and_gradients

# The vocabulary is padded from 100 to 128.
SHAPE = MambaModelConfig(
    num_layers=2,
    hidden_size=64,
    mamba_state_dim=16,
    mamba_head_dim=16,
    mamba_num_groups=2,
    chunk_size=8,
    vocab_size=100,
    seq_length=64,
)
# What is not as in SHAPE, the batch and the length.
CASES: dict[str, tuple[dict[str, Any], int, int]] = {
    "two groups": ({}, 2, 32),
    "one group": ({"mamba_num_groups": 1}, 2, 32),
    "eight groups": ({"mamba_num_groups": 8}, 2, 32),
    "heads of 8": ({"mamba_head_dim": 8}, 2, 32),
    "heads of 32, states of 8": ({"mamba_head_dim": 32, "mamba_state_dim": 8}, 2, 32),
    "one head a group": ({"mamba_head_dim": 64}, 2, 32),
    "a length that no chunk divides": ({}, 2, 37),
    "a chunk longer than the sequence": ({"chunk_size": 64}, 2, 21),
    "one long chunk": ({"chunk_size": 32, "mamba_num_groups": 1}, 3, 32),
    "a batch of one": ({}, 1, 19),
    "a single token": ({}, 2, 1),
    "no convolution bias": ({"conv_bias": False}, 2, 24),
    "projection bias": ({"mamba_bias": True}, 2, 24),
    "tied": ({"tie_embeddings": True}, 2, 24),
    "a short convolution": ({"conv_width": 2}, 2, 24),
    "step sizes with limits": ({"dt_limit": (0.02, 0.06)}, 2, 24),
    "three times as wide": ({"expand": 3.0, "num_layers": 3}, 2, 24),
}
ON_TWO = ["two groups", "eight groups", "a length that no chunk divides", "projection bias", "tied", "a batch of one"]
TENSOR_2 = Parallelism(tensor=2)


def mamba2(config: MambaModelConfig) -> Mamba2ForCausalLM:
    """A Mamba-2 of the same shape."""
    return Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.blocks,
            state_size=config.mamba_state_dim,
            head_dim=config.mamba_head_dim,
            num_heads=config.resolved_mamba_heads,
            n_groups=config.mamba_num_groups,
            expand=int(config.expand),
            chunk_size=config.chunk_size,
            conv_kernel=config.conv_width,
            use_conv_bias=config.conv_bias,
            use_bias=config.mamba_bias,
            time_step_limit=config.dt_limit,
            tie_word_embeddings=config.tie_embeddings,
        )
    )


def randomized(model: nn.Module) -> nn.Module:
    """No weight at its initial value, where many are equal, so that none can be taken for another."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Each once: without the output layer where it is the embedding."""
    return {in_checkpoint(name): parameter.detach().clone() for name, parameter in model.named_parameters()}


def in_checkpoint(name: str) -> str:
    """The name that transformers gives it when it saves."""
    return name.replace("model.", "backbone.", 1) if name.startswith("model.") else name


def gathered(ranks: list[dict[str, list[tuple[tuple[int, ...], tuple[int, ...], Tensor]]]]) -> dict[str, Tensor]:
    """Return full tensors from the parts of the ranks. A part that two ranks have must be equal."""
    wholes: dict[str, Tensor] = {}
    for parts in ranks:
        for name, pieces in parts.items():
            for shape, offset, part in pieces:
                whole = wholes.setdefault(name, torch.full(shape, float("nan")))
                window = whole[
                    tuple(slice(start, start + size) for start, size in zip(offset, part.shape, strict=True))
                ]
                if not window.isnan().all():
                    torch.testing.assert_close(window, part, msg=f"the ranks differ in {name}")
                window.copy_(part)
    return wholes


def compare(
    config: MambaModelConfig, model: Any, weights: WeightMap, parallelism: Parallelism, tokens: Tensor, pool: RankPool
) -> None:
    """Logits to 1e-4; every gradient to 1e-4 of the largest in its weight."""
    shape = (*tokens.shape, config.vocab_size)
    direction = torch.randn(shape, generator=torch.Generator().manual_seed(2)) / tokens.numel()
    expected = model(tokens).logits
    (expected * direction).sum().backward()
    whole = weights.to_engine(weights_of(model))
    found = pool.run(
        logits_and_gradients, config, parallelism, whole, tokens, direction, ranks=parallelism.world_size()
    )
    for logits, _ in found:
        torch.testing.assert_close(logits, expected.detach(), atol=1e-4, rtol=0)
    gradients = weights.from_engine(gathered([parts for _, parts in found]))
    wanted = {in_checkpoint(name): parameter.grad for name, parameter in model.named_parameters()}
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert gradient is not None
        scale = gradient.abs().max().item()
        # One token alone has no past, so that nothing depends on how fast it fades.
        assert scale > 0 or (tokens.size(1) == 1 and name.endswith("A_log")), name
        torch.testing.assert_close(
            gradients[name], gradient, atol=1e-4 * scale, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


def tokens_of(config: MambaModelConfig, batch: int, length: int) -> Tensor:
    return torch.randint(0, config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("case", "parallelism"),
    [(case, Parallelism()) for case in CASES] + [(case, TENSOR_2) for case in ON_TWO],
    ids=[*CASES, *(f"{case}, tensor 2" for case in ON_TWO)],
)
def test_logits_and_gradients_are_those_of_mamba2(case: str, parallelism: Parallelism, two_ranks: RankPool) -> None:
    changes, batch, length = CASES[case]
    config = replace(SHAPE, **changes)
    model = randomized(mamba2(config))
    compare(config, model, mamba2_map(config), parallelism, tokens_of(config, batch, length), two_ranks)


@pytest.mark.parametrize("case", ["two groups", "one group", "projection bias", "no convolution bias", "tied"])
def test_the_map_is_its_own_inverse(case: str) -> None:
    config = replace(SHAPE, **CASES[case][0])
    weights = weights_of(randomized(mamba2(config)))
    back = mamba2_map(config).from_engine(mamba2_map(config).to_engine(weights))
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(back[name], value), name


NEMOTRON = replace(
    SHAPE,
    num_layers=None,
    pattern="M-M*-M",
    num_attention_heads=8,
    num_query_groups=2,
    head_dim=16,
    ffn_hidden_size=96,
    activation="squared_relu",
    dt_limit=(0.001, float("inf")),  # what transformers makes of `time_step_min`, whatever `time_step_limit` says
)
# Fields of Mamba-2 layers are refused in a stack that has none.
WITHOUT_MAMBA: dict[str, Any] = {
    field.name: field.default
    for field in dataclasses.fields(MambaModelConfig)
    if field.name in {"mamba_state_dim", "mamba_head_dim", "mamba_num_groups", "chunk_size", "dt_limit"}
}
HYBRIDS: dict[str, tuple[dict[str, Any], int, int]] = {
    "hybrid": ({}, 2, 32),
    "a length that no chunk divides": ({}, 2, 37),
    "eight groups, a chunk longer than the sequence": ({"mamba_num_groups": 8, "chunk_size": 64}, 1, 21),
    "more heads than the width has": ({"mamba_num_heads": 12, "pattern": "*-M-"}, 2, 24),
    "attention and MLP alone": ({"pattern": "*-*-", "num_query_groups": 8, **WITHOUT_MAMBA}, 2, 24),
}


def nemotron_h(config: MambaModelConfig) -> NemotronHForCausalLM:
    """A Nemotron-H of the same shape."""
    return NemotronHForCausalLM(
        NemotronHConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            hybrid_override_pattern=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.resolved_query_groups,
            head_dim=config.resolved_head_dim,
            intermediate_size=config.resolved_ffn_hidden_size,
            ssm_state_size=config.mamba_state_dim,
            mamba_num_heads=config.resolved_mamba_heads,
            mamba_head_dim=config.mamba_head_dim,
            n_groups=config.mamba_num_groups,
            chunk_size=config.chunk_size,
        )
    )


@pytest.mark.parametrize("parallelism", [Parallelism(), TENSOR_2], ids=["one rank", "tensor 2"])
@pytest.mark.parametrize("case", HYBRIDS)
def test_logits_and_gradients_are_those_of_nemotron_h(case: str, parallelism: Parallelism, two_ranks: RankPool) -> None:
    changes, batch, length = HYBRIDS[case]
    config = replace(NEMOTRON, **changes)
    model = randomized(nemotron_h(config))
    compare(config, model, nemotron_h_map(config), parallelism, tokens_of(config, batch, length), two_ranks)


def test_the_names_of_nemotron_h_are_those_of_its_checkpoints(tmp_path: Path) -> None:
    model = nemotron_h(NEMOTRON)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    back = nemotron_h_map(NEMOTRON).from_engine(nemotron_h_map(NEMOTRON).to_engine(saved))
    assert back.keys() == saved.keys()
    for name, value in saved.items():
        assert torch.equal(back[name], value), name
