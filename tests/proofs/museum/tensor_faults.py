"""Faults of tensor and sequence parallelism, in bare Megatron models."""

from functools import partial
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, vocab_parallel_cross_entropy
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer import ModuleSpec
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from torch import Tensor, nn

from tests.proofs.museum.bare import config_of, layer_of, model_of

LINEARS = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)


def with_mlp(groups: Any, layout: Any, mlp: Any, **fields: Any) -> Any:
    """The model with another MLP."""
    layer = layer_of()
    layer.mlp = partial(mlp.as_mlp_submodule, submodules=LINEARS)
    return model_of(groups, config_of(groups, layout, **fields), layer)


class UnmarkedNorm(nn.Module):
    """RMSNorm without the mark `sequence_parallel`: each tensor rank keeps the gradient of its own tokens."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **unused: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


def unmarked_norm(groups: Any, layout: Any) -> Any:
    """The norms of all layers lack the mark."""
    return model_of(groups, config_of(groups, layout), layer_of(norm=UnmarkedNorm))


def unmarked_final_norm(groups: Any, layout: Any) -> Any:
    """Only the last norm lacks the mark."""
    return model_of(groups, config_of(groups, layout), layer_of(), norm=UnmarkedNorm)


class GatedMlp(MLP):
    """An MLP with a gate for each token, as the shared experts of Qwen2-MoE have. The gate lacks the mark."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.gate = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        output, bias = super().forward(hidden_states, *args, **kwargs)
        return output * torch.sigmoid(self.gate(hidden_states)), bias


def unmarked_gate(groups: Any, layout: Any) -> Any:
    """A gate in front of each MLP."""
    return with_mlp(groups, layout, GatedMlp)


class LearnedSwish(nn.Module):
    """Swish with a learned slope. All tensor ranks share the slope, each has the gradient of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.slope * x)


class SwishMlp(MLP):
    """An MLP with a learned activation between its sharded matrices."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.swish = LearnedSwish()

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        inner, _ = self.linear_fc1(hidden_states)
        gate, value = inner.chunk(2, dim=-1)
        return self.linear_fc2(self.swish(gate) * value)


def unsummed_slope(groups: Any, layout: Any) -> Any:
    """A replicated weight of which the gradient is not summed over the tensor ranks."""
    return with_mlp(groups, layout, SwishMlp)


def attention_with(core: Any = DotProductAttention, **parts: Any) -> ModuleSpec:
    """The engine's attention with other parts."""
    return ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear, core_attention=core, linear_proj=RowParallelLinear, **parts
        ),
    )


def sinks_outside_the_norm(groups: Any, layout: Any) -> Any:
    """The engine's learned attention sinks, which it does not mark as sharded."""
    return model_of(groups, config_of(groups, layout, softmax_type="learnable", init_method_std=0.3), layer_of())


class GatheredGPT(GPTModel):
    """A GPT with gathered logits. The loss gets a copy, as under bfloat16, because it changes them in place."""

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        return super().compute_language_model_loss(labels, logits.clone())


def gathered_logits(groups: Any, layout: Any) -> Any:
    """The engine's GPT with gathered logits, which its vocabulary-parallel loss takes for a shard."""
    return model_of(groups, config_of(groups, layout), layer_of(), kind=GatheredGPT, parallel_output=False)


class SmoothedGPT(GPTModel):
    """A GPT with label smoothing in the engine's vocabulary-parallel loss."""

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        loss = vocab_parallel_cross_entropy(
            logits.clone(), labels.transpose(0, 1).contiguous(), label_smoothing=0.2, tp_group=self.pg_collection.tp
        )
        return loss.transpose(0, 1).contiguous()


def smoothed_labels(groups: Any, layout: Any) -> Any:
    """Label smoothing with the logits of one rank."""
    return model_of(groups, config_of(groups, layout), layer_of(), kind=SmoothedGPT)


class CountedTwice(MLP):
    """An MLP with a replicated projection that is marked as sharded, as TE marked every linear."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.duplicated = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        tensor_parallel.set_tensor_model_parallel_attributes(self.duplicated.weight, True, 0, 1)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().forward(self.duplicated(hidden_states), *args, **kwargs)


def counted_twice(groups: Any, layout: Any) -> Any:
    """A replicated weight in front of each MLP."""
    return with_mlp(groups, layout, CountedTwice)


class DropoutInTheFork(MLP):
    """An MLP with dropout of its summed output, drawn with the seeds of the tensor ranks."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output, bias = super().forward(*args, **kwargs)
        with get_cuda_rng_tracker().fork():
            return nn.functional.dropout(output, 0.2), bias


def dropout_in_the_fork(groups: Any, layout: Any) -> Any:
    """Dropout that differs between tensor ranks."""
    return with_mlp(groups, layout, DropoutInTheFork)


class Bias(nn.Module):
    """A bias of its own, replicated on the tensor ranks."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((size,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class BiasOnEveryRank(MLP):
    """An MLP that adds a replicated bias before the sum over the tensor ranks."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.added = Bias(config.hidden_size)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        inner, _ = self.linear_fc1(hidden_states)
        gate, value = inner.chunk(2, dim=-1)
        weight = self.linear_fc2.weight
        output = self.added(nn.functional.linear(nn.functional.silu(gate) * value, weight))
        return tensor_parallel.reduce_from_tensor_model_parallel_region(output, group=self.tp_group), None


def bias_on_every_rank(groups: Any, layout: Any) -> Any:
    """A bias that is summed over the tensor ranks."""
    return with_mlp(groups, layout, BiasOnEveryRank)


class UncopiedInput(MLP):
    """An MLP with a hand-written first matrix: the gradient of its input is not summed over the tensor ranks."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        inner = nn.functional.linear(hidden_states, self.linear_fc1.weight)
        gate, value = inner.chunk(2, dim=-1)
        return self.linear_fc2(nn.functional.silu(gate) * value)


def uncopied_input(groups: Any, layout: Any) -> Any:
    """Input gradients of the tensor ranks that are not summed."""
    return with_mlp(groups, layout, UncopiedInput)


class LocalScale(DotProductAttention):
    """Core attention that scales by the number of heads of the rank."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.temperature = self.num_attention_heads_per_partition**0.5

    def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(query * self.temperature, *args, **kwargs)


def local_scale(groups: Any, layout: Any) -> Any:
    """A scale of scores that depends on the tensor size."""
    layer = layer_of()
    layer.self_attention = attention_with(LocalScale)
    return model_of(groups, config_of(groups, layout), layer)


class NormOverTheShard(MLP):
    """An MLP with a norm of its inner activation, over the channels of the rank instead of all of them."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        inner, _ = self.linear_fc1(hidden_states)
        gate, value = inner.chunk(2, dim=-1)
        activated = nn.functional.silu(gate) * value
        return self.linear_fc2(nn.functional.rms_norm(activated, activated.shape[-1:]))


def norm_over_the_shard(groups: Any, layout: Any) -> Any:
    """A norm over sharded channels."""
    return with_mlp(groups, layout, NormOverTheShard)


class DividedBias(MLP):
    """An MLP with a bias that each tensor rank divides before the sum, and its gradient with it."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.added = Bias(config.hidden_size)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        inner, _ = self.linear_fc1(hidden_states)
        gate, value = inner.chunk(2, dim=-1)
        output = nn.functional.linear(nn.functional.silu(gate) * value, self.linear_fc2.weight)
        output = output + self.added.bias / self.tp_group.size()
        return tensor_parallel.reduce_from_tensor_model_parallel_region(output, group=self.tp_group), None


def divided_bias(groups: Any, layout: Any) -> Any:
    """A bias with a gradient that is divided by the tensor size."""
    return with_mlp(groups, layout, DividedBias)


class SummedTwice(MLP):
    """An MLP with a gate of which the gradient is summed over tensor ranks that have it already."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.gate = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        output, bias = super().forward(hidden_states, *args, **kwargs)
        gate = tensor_parallel.copy_to_tensor_model_parallel_region(self.gate.weight, group=self.tp_group)
        return output * torch.sigmoid(nn.functional.linear(hidden_states, gate)), bias


def summed_twice(groups: Any, layout: Any) -> Any:
    """A replicated gate with a gradient that is summed once too often."""
    return with_mlp(groups, layout, SummedTwice)


class GroupScale(nn.Module):
    """A scale of two groups of channels. A rank with one group keeps a flat weight, which the engine does not decay."""

    def __init__(self, size: int, group: Any) -> None:
        super().__init__()
        self.group = group
        self.weight = nn.Parameter(torch.ones(2 // group.size(), size).squeeze(0))
        tensor_parallel.set_tensor_model_parallel_attributes(self.weight, group.size() > 1, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.view(-1, 1, self.weight.size(-1))
        return (x.unflatten(-1, (scale.size(0), -1)) * scale.squeeze(1)).flatten(-2)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> Any:
        before = len(sharded_offsets)
        flat = self.weight.ndim == 1
        own = [(before, self.group.rank(), self.group.size())] if flat else []
        shard = ShardedTensor.from_rank_offsets(
            f"{prefix}weight", self.weight, *sharded_offsets, *own, prepend_axis_num=before + int(flat)
        )
        return {f"{prefix}weight": shard}


class ScaledMlp(MLP):
    """An MLP with a scale of two groups of its inner channels."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.scale = GroupScale(config.ffn_hidden_size // 2, self.tp_group)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        inner, _ = self.linear_fc1(hidden_states)
        gate, value = inner.chunk(2, dim=-1)
        return self.linear_fc2(self.scale(nn.functional.silu(gate) * value))

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> Any:
        found = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        return found | self.scale.sharded_state_dict(f"{prefix}scale.", sharded_offsets, metadata)


def undecayed_scale(groups: Any, layout: Any) -> Any:
    """A weight that the optimizer puts into another group on two tensor ranks."""
    return with_mlp(groups, layout, ScaledMlp)
