"""A user's part in every slot is what is built, and what the model calls."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor, nn

from modelwright.layers import (
    AttentionLayerSpec,
    MlpLayerSpec,
    MlpSpec,
    SdpaCoreAttention,
    SelfAttentionSpec,
    StackSpec,
    TorchNorm,
)
from packages.layers.tests.toy import ToyConfig, build, logits


class MyNorm(TorchNorm):
    """A norm."""


class MyColumn(ColumnParallelLinear):
    """A linear layer that splits its output."""


class MyRow(RowParallelLinear):
    """A linear layer that splits its input."""


class MyCore(SdpaCoreAttention):
    """A core attention."""


class MyEmbedding(LanguageModelEmbedding):
    """An embedding."""


class MyRotary(RotaryEmbedding):
    """A rotary embedding."""


class MyAttention(nn.Module):
    """A self-attention written from nothing: the mean of what came before."""

    def __init__(self, *, config: Any, layer_number: int, pg_collection: Any, name: str | None, **slot: Any) -> None:
        super().__init__()
        self.layer_number = layer_number
        self.scale = nn.Parameter(torch.ones(config.hidden_size))

    def forward(self, hidden_SBH: Tensor, /, *, attention_mask: Tensor | None, **slot: Any) -> tuple[Tensor, None]:
        count = torch.arange(1, hidden_SBH.size(0) + 1)[:, None, None]
        return hidden_SBH.cumsum(0) / count * self.scale, None


class MyMlp(nn.Module):
    """An MLP written from nothing."""

    def __init__(self, *, config: Any, pg_collection: Any, is_mtp_layer: bool, name: str | None) -> None:
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_SBH: Tensor, /, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return self.linear(hidden_SBH).tanh(), None


class MyLayer(TransformerLayer):
    """A whole layer that does nothing."""

    def __init__(
        self, *, config: Any, layer_number: int, pg_collection: Any, name: str | None = None, **slot: Any
    ) -> None:
        super().__init__(
            config, TransformerLayerSubmodules(), layer_number=layer_number, pg_collection=pg_collection, **slot
        )

    def forward(self, *, hidden_states: Tensor, attention_mask: Tensor | None, **slot: Any) -> tuple[Tensor, None]:
        return hidden_states, None


ATTENTION, MLP = "decoder.layers.0", "decoder.layers.1"


def in_attention(**parts: Any) -> StackSpec:
    return StackSpec(attention=AttentionLayerSpec(self_attention=SelfAttentionSpec(**parts)))


SLOTS: dict[str, tuple[StackSpec, type[nn.Module]]] = {
    f"{ATTENTION}.self_attention.linear_qkv": (in_attention(linear_qkv=MyColumn), MyColumn),
    f"{ATTENTION}.self_attention.core_attention": (in_attention(core_attention=MyCore), MyCore),
    f"{ATTENTION}.self_attention.linear_proj": (in_attention(linear_proj=MyRow), MyRow),
    f"{ATTENTION}.self_attention.q_layernorm": (in_attention(q_layernorm=MyNorm, k_layernorm=TorchNorm), MyNorm),
    f"{ATTENTION}.self_attention.k_layernorm": (in_attention(q_layernorm=TorchNorm, k_layernorm=MyNorm), MyNorm),
    f"{ATTENTION}.self_attention": (StackSpec(attention=AttentionLayerSpec(self_attention=MyAttention)), MyAttention),
    f"{ATTENTION}.input_layernorm": (StackSpec(attention=AttentionLayerSpec(input_layernorm=MyNorm)), MyNorm),
    ATTENTION: (StackSpec(attention=MyLayer), MyLayer),
    f"{MLP}.pre_mlp_layernorm": (StackSpec(mlp=MlpLayerSpec(pre_mlp_layernorm=MyNorm)), MyNorm),
    f"{MLP}.mlp": (StackSpec(mlp=MlpLayerSpec(mlp=MyMlp)), MyMlp),
    f"{MLP}.mlp.linear_fc1": (StackSpec(mlp=MlpLayerSpec(mlp=MlpSpec(linear_fc1=MyColumn))), MyColumn),
    f"{MLP}.mlp.linear_fc2": (StackSpec(mlp=MlpLayerSpec(mlp=MlpSpec(linear_fc2=MyRow))), MyRow),
    MLP: (StackSpec(mlp=MyLayer), MyLayer),
    "decoder.final_norm": (StackSpec(final_norm=MyNorm), MyNorm),
    "embedding": (StackSpec(embedding=MyEmbedding), MyEmbedding),
    "rotary_pos_emb": (StackSpec(rotary_embedding=MyRotary), MyRotary),
    "output_layer": (StackSpec(output_layer=MyColumn), MyColumn),
}

CONFIGS = {path: ToyConfig(qk_norm=path.endswith(("q_layernorm", "k_layernorm"))) for path in SLOTS}
SUBCLASSED = [path for path, (_, part) in SLOTS.items() if part not in (MyAttention, MyMlp, MyLayer)]


def recorded(model: HybridModel) -> list[type[nn.Module]]:
    """The class of every module that a forward calls."""
    called: list[type[nn.Module]] = []
    handles = [
        module.register_forward_hook(lambda module, given, answer: called.append(type(module)))
        for module in model.modules()
    ]
    answer = logits(model)
    for handle in handles:
        handle.remove()
    assert answer.shape == (1, 8, 32)
    assert answer.isfinite().all()
    answer.sum().backward()
    return called


@pytest.mark.parametrize("path", SLOTS)
def test_the_part_is_built_and_called(groups: ProcessGroupCollection, path: str) -> None:
    spec, part = SLOTS[path]
    model = build(groups, CONFIGS[path], spec=spec)
    assert [name for name, module in model.named_modules() if type(module) is part] == [path]
    called = recorded(model)
    # The engine computes rotary angles once for all forwards of a length.
    assert called.count(part) == 1
    for name, parameter in model.get_submodule(path).named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize("path", SUBCLASSED)
def test_a_subclass_that_changes_nothing_changes_nothing(groups: ProcessGroupCollection, path: str) -> None:
    config = CONFIGS[path]
    stock = in_attention(q_layernorm=TorchNorm, k_layernorm=TorchNorm) if config.qk_norm else StackSpec()
    with_part = logits(build(groups, config, spec=SLOTS[path][0]))
    assert torch.equal(with_part, logits(build(groups, config, spec=stock)))


@pytest.mark.parametrize("slot", ["self_attn_bda", "mlp_bda"])
def test_bias_dropout_add(groups: ProcessGroupCollection, slot: str) -> None:
    chosen: list[bool] = []

    def my_bda(training: bool, fused: bool) -> Callable[..., Tensor]:
        chosen.append(training)
        stock: Callable[..., Tensor] = get_bias_dropout_add(training, fused)
        return lambda branch, residual, prob: 2 * stock(branch, residual, prob)

    spec = StackSpec()
    layer = {"self_attn_bda": "attention", "mlp_bda": "mlp"}[slot]
    spec = replace(spec, **{layer: replace(getattr(spec, layer), **{slot: my_bda})})
    model = build(groups, spec=spec)
    assert chosen == []
    changed = logits(model)
    model.eval()
    logits(model)
    assert chosen == [True, False]
    assert not torch.allclose(changed, logits(build(groups)))


@pytest.mark.parametrize("slot", ["embedding", "output_layer"])
def test_swapped_ends_stay_tied(groups: ProcessGroupCollection, slot: str) -> None:
    part = {"embedding": MyEmbedding, "output_layer": MyColumn}[slot]
    config = ToyConfig(tie_embeddings=True)
    model = build(groups, config, spec=StackSpec(**{slot: part}))  # type: ignore[arg-type]
    assert model.output_layer.weight is None
    assert torch.equal(logits(model), logits(build(groups, config)))
    logits(model).sum().backward()


def test_a_part_of_one_position_in_attention_uses_its_layer_number(groups: ProcessGroupCollection) -> None:
    model = build(groups, spec=SLOTS[f"{ATTENTION}.self_attention"][0])
    assert model.get_submodule(f"{ATTENTION}.self_attention").layer_number == 1
