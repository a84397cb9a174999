"""`GPTModelBuilder` builds the engine's model that a config describes: names, shapes, counts, values, one forward."""

import math
import subprocess
import sys
from typing import Any, override

import pytest
import torch
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from modelwright.builders import builder_for
from modelwright.config import (
    Llama3RopeScaling,
    NoWrap,
    Parallelism,
    Precision,
    fingerprint,
    replace,
)
from modelwright.distributed import BuildError, total_parameters
from modelwright.gpt import GPTModelBuilder, GPTModelConfig
from modelwright.layers import ScaledRotaryEmbedding, SdpaCoreAttention, TorchNorm
from modelwright.layers.dropout import PlacedDropoutAdd
from packages.gpt.tests.test_presets import parameters

LLAMA = GPTModelConfig(
    num_layers=2,
    hidden_size=16,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=6,
    ffn_hidden_size=24,
    vocab_size=60,
    vocab_multiple=32,
    seq_length=8,
)
GPT2 = GPTModelConfig(
    num_layers=2,
    hidden_size=16,
    num_attention_heads=4,
    activation="gelu_tanh",
    normalization="layernorm",
    position_embedding="learned",
    vocab_size=64,
    vocab_multiple=32,
    seq_length=8,
    tie_embeddings=True,
    linear_bias=True,
)
ONE_RANK: dict[str, Any] = {"parallelism": Parallelism(), "precision": Precision(), "wrap": NoWrap()}
LLAMA_BLOCK = {
    "decoder.layers.{a}.input_layernorm.weight": (16,),
    "decoder.layers.{a}.self_attention.linear_qkv.weight": ((4 + 2 * 2) * 6, 16),
    "decoder.layers.{a}.self_attention.linear_proj.weight": (16, 4 * 6),
    "decoder.layers.{b}.pre_mlp_layernorm.weight": (16,),
    "decoder.layers.{b}.mlp.linear_fc1.weight": (2 * 24, 16),
    "decoder.layers.{b}.mlp.linear_fc2.weight": (16, 24),
}
GPT2_BLOCK = {
    "decoder.layers.{a}.input_layernorm.weight": (16,),
    "decoder.layers.{a}.input_layernorm.bias": (16,),
    "decoder.layers.{a}.self_attention.linear_qkv.weight": (48, 16),
    "decoder.layers.{a}.self_attention.linear_qkv.bias": (48,),
    "decoder.layers.{a}.self_attention.linear_proj.weight": (16, 16),
    "decoder.layers.{a}.self_attention.linear_proj.bias": (16,),
    "decoder.layers.{b}.pre_mlp_layernorm.weight": (16,),
    "decoder.layers.{b}.pre_mlp_layernorm.bias": (16,),
    "decoder.layers.{b}.mlp.linear_fc1.weight": (64, 16),
    "decoder.layers.{b}.mlp.linear_fc1.bias": (64,),
    "decoder.layers.{b}.mlp.linear_fc2.weight": (16, 64),
    "decoder.layers.{b}.mlp.linear_fc2.bias": (16,),
}
LLAMA_ENDS = {
    "embedding.word_embeddings.weight": (64, 16),
    "decoder.final_norm.weight": (16,),
    "output_layer.weight": (64, 16),
}
GPT2_ENDS = {
    "embedding.word_embeddings.weight": (64, 16),
    "embedding.position_embeddings.weight": (8, 16),
    "decoder.final_norm.weight": (16,),
    "decoder.final_norm.bias": (16,),
}


def blocks(of: dict[str, tuple[int, ...]], count: int = 2) -> dict[str, tuple[int, ...]]:
    """A block's shapes for each block: attention and MLP are layers of their own."""
    return {name.format(a=2 * i, b=2 * i + 1): shape for i in range(count) for name, shape in of.items()}


def build(groups: ProcessGroupCollection, config: GPTModelConfig, seed: int = 1) -> HybridModel:
    (stage,) = GPTModelBuilder(config).build_distributed_models(groups, **ONE_RANK, seed=seed)
    assert isinstance(stage, HybridModel)
    return stage


def shapes(model: HybridModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def losses(model: HybridModel, config: GPTModelConfig) -> Tensor:
    """[b, s]."""
    torch.manual_seed(0)
    tokens = torch.randint(config.vocab_size, (2, config.seq_length + 1))
    positions = torch.arange(config.seq_length).expand(2, -1)
    answer: Tensor = model(
        input_ids=tokens[:, :-1], position_ids=positions, attention_mask=None, labels=tokens[:, 1:].contiguous()
    )
    return answer


@pytest.mark.parametrize(
    ("config", "expected"),
    [(LLAMA, blocks(LLAMA_BLOCK) | LLAMA_ENDS), (GPT2, blocks(GPT2_BLOCK) | GPT2_ENDS)],
    ids=["llama", "gpt2"],
)
def test_names_and_shapes(
    groups: ProcessGroupCollection, config: GPTModelConfig, expected: dict[str, tuple[int, ...]]
) -> None:
    assert shapes(build(groups, config)) == expected
    assert shapes(GPTModelBuilder(config).build_model(groups)) == expected


@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        GPT2,
        replace(LLAMA, tie_embeddings=True),
        replace(LLAMA, num_layers=3, activation="squared_relu", num_query_groups=1),
        replace(GPT2, tie_embeddings=False, position_embedding="none"),
    ],
)
def test_the_number_of_parameters(groups: ProcessGroupCollection, config: GPTModelConfig) -> None:
    tables = 1 if config.tie_embeddings else 2
    padding = (config.padded_vocab_size - config.vocab_size) * config.hidden_size * tables
    assert total_parameters([build(groups, config)]) == parameters(config) + padding


def test_tied_embeddings(groups: ProcessGroupCollection) -> None:
    config = replace(LLAMA, tie_embeddings=True)
    model = build(groups, config)
    assert shapes(model).keys() == (blocks(LLAMA_BLOCK) | LLAMA_ENDS).keys() - {"output_layer.weight"}
    final: list[Tensor] = []
    model.decoder.register_forward_hook(lambda module, given, answer: final.append(answer))
    first = torch.arange(8)[None]
    logits = model(input_ids=first, position_ids=first, attention_mask=None)
    expected = final[0][:, 0] @ model.embedding.word_embeddings.weight.T
    tokens = config.vocab_size  # the rest is padding
    assert torch.allclose(logits[0, :, :tokens], expected[:, :tokens], atol=1e-6)


def test_norms_of_queries_and_keys(groups: ProcessGroupCollection) -> None:
    model = build(groups, replace(LLAMA, qk_norm=True))
    added = {f"decoder.layers.{{a}}.self_attention.{part}_layernorm.weight": (6,) for part in "qk"}
    assert shapes(model) == blocks(LLAMA_BLOCK | added) | LLAMA_ENDS
    assert type(model.decoder.layers[0].self_attention.q_layernorm) is TorchNorm
    assert losses(model, LLAMA).isfinite().all()


def test_biases_of_queries_keys_and_values_alone(groups: ProcessGroupCollection) -> None:
    added: dict[str, tuple[int, ...]] = {"decoder.layers.{a}.self_attention.linear_qkv.bias": (48,)}
    assert shapes(build(groups, replace(LLAMA, qkv_bias=True))) == blocks(LLAMA_BLOCK | added) | LLAMA_ENDS


@pytest.mark.parametrize("position_embedding", ["rope", "learned", "none"])
def test_positions(groups: ProcessGroupCollection, position_embedding: Any) -> None:
    """One layer of attention sees the order of what came before only where positions enter."""
    model = build(groups, replace(LLAMA, num_layers=1, position_embedding=position_embedding, init_std=0.5))
    tokens, positions = torch.tensor([[1, 2, 3, 4], [2, 1, 3, 4]]), torch.arange(4).expand(2, -1)
    logits = model(input_ids=tokens, position_ids=positions, attention_mask=None)
    assert torch.allclose(logits[0, 3], logits[1, 3], atol=1e-4) == (position_embedding == "none")


def test_rotary_base_and_scaling_reach_the_model(groups: ProcessGroupCollection) -> None:
    plain = build(groups, replace(LLAMA, rotary_base=500000.0)).rotary_pos_emb
    expected = 500000.0 ** (-torch.arange(0, 6, 2) / 6)
    assert torch.allclose(plain.inv_freq, expected)
    scaling = Llama3RopeScaling(factor=4.0, original_seq_length=16)
    scaled = build(groups, replace(LLAMA, rotary_base=500000.0, rope_scaling=scaling)).rotary_pos_emb
    assert type(scaled) is ScaledRotaryEmbedding
    assert torch.allclose(scaled.inv_freq[-1], expected[-1] / 4)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_the_first_loss_is_that_of_guessing(groups: ProcessGroupCollection, config: GPTModelConfig) -> None:
    """An untrained model knows nothing: the loss is the logarithm of the vocabulary."""
    model = build(groups, config)
    loss = losses(model, config)
    assert loss.shape == (2, 8)
    assert loss.mean().item() == pytest.approx(math.log(config.vocab_size), abs=0.05)
    loss.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_every_dropout_of_a_model_has_a_place_of_its_own(groups: ProcessGroupCollection) -> None:
    """Two places with one name would drop the same elements."""
    model = build(groups, replace(LLAMA, num_layers=3))
    places = [model.embedding.embedding_dropout.place.name]
    for layer in model.decoder.layers:
        places += [value.dropout.place.name for value in vars(layer).values() if isinstance(value, PlacedDropoutAdd)]
    places += [part.place for part in model.modules() if isinstance(part, SdpaCoreAttention)]
    layers = [f"decoder.layers.{number}" for number in range(6)]
    expected = [f"{name}.{part}" for name in layers[::2] for part in ("self_attn_bda", "core_attention")]
    assert sorted(places) == sorted(["embedding", *expected, *(f"{name}.mlp_bda" for name in layers[1::2])])


def test_the_future_is_hidden(groups: ProcessGroupCollection) -> None:
    model = build(groups, LLAMA)
    tokens, positions = torch.arange(8)[None], torch.arange(8)[None]
    changed = tokens.clone()
    changed[0, 5] = 40
    one, other = (model(input_ids=given, position_ids=positions, attention_mask=None)[0] for given in (tokens, changed))
    assert torch.allclose(one[:5], other[:5], atol=1e-6)
    assert not torch.allclose(one[5:], other[5:], atol=1e-4)


def test_the_same_seed_gives_the_same_parameters(groups: ProcessGroupCollection) -> None:
    first, second, other = (dict(build(groups, LLAMA, seed).named_parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    drawn = {name for name in first if not torch.equal(first[name], other[name])}
    assert drawn == {name for name in first if "norm" not in name}


def test_a_block_starts_the_same_in_a_deeper_model(groups: ProcessGroupCollection) -> None:
    """Values follow names, so only what is scaled by the depth differs."""
    shallow = dict(build(groups, LLAMA).named_parameters())
    deep = dict(build(groups, replace(LLAMA, num_layers=4)).named_parameters())
    same = {name for name in shallow if torch.equal(shallow[name], deep[name])}
    assert shallow.keys() - same == {name for name in shallow if "linear_proj" in name or "linear_fc2" in name}


def test_building_changes_no_config(groups: ProcessGroupCollection) -> None:
    before = fingerprint(LLAMA)
    build(groups, LLAMA)
    assert fingerprint(LLAMA) == before


def test_a_layout_that_does_not_fit_is_refused_with_the_groups_that_do_not() -> None:
    with pytest.raises(BuildError, match=r"(?s)`tp`.*`num_query_groups` .*`tensor`"):
        GPTModelBuilder(LLAMA).build_distributed_models(
            ProcessGroupCollection(), parallelism=Parallelism(tensor=4), precision=Precision(), wrap=NoWrap()
        )


class FrozenGPTBuilder(GPTModelBuilder):
    """A custom builder for the stock config."""

    @override
    def build_model(self, pg_collection: ProcessGroupCollection, **options: Any) -> HybridModel:
        model = super().build_model(pg_collection, **options)
        model.embedding.requires_grad_(requires_grad=False)
        return model


def test_a_custom_builder(groups: ProcessGroupCollection) -> None:
    assert type(builder_for(LLAMA)) is GPTModelBuilder
    (stage,) = builder_for(LLAMA, builder=FrozenGPTBuilder).build_distributed_models(groups, **ONE_RANK, seed=1)
    frozen = {name for name, parameter in stage.named_parameters() if not parameter.requires_grad}
    assert frozen == {"embedding.word_embeddings.weight"}
    assert torch.equal(stage.output_layer.weight, build(groups, LLAMA).output_layer.weight)


def test_a_gpt_loads_no_part_of_a_mamba_layer() -> None:
    """Whoever builds a GPT need not wait for the scan of Mamba-2, nor depend on it."""
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from modelwright.gpt import GPTModelBuilder, GPTModelConfig\n"
        "config = GPTModelConfig(num_layers=1, hidden_size=8, num_attention_heads=2, vocab_size=16, seq_length=8)\n"
        "GPTModelBuilder(config)\n"
        "parts = 'mixer', 'scan', 'causal_convolution', 'gated_norm', 'heads_over_context'\n"
        "print([part for part in parts if f'modelwright.layers.mamba.{part}' in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
