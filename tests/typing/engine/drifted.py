"""Where the engine's annotations contradict its own calls: each line is rejected, and the day one is not, drop it.

The parts below work at run time. What is wrong is what the engine says about them, so code that puts one into a slot
casts it. Each line carries the error that each checker must give. Checked, never run.
"""

import functools

from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.hybrid.hybrid_block import HybridStack, HybridStackSubmodules
from megatron.core.ssm.mlp_layer import MLPLayer
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.transformer import attention as engine_attention
from megatron.core.transformer import transformer_layer as engine_layer
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.moe import experts as engine_experts
from megatron.core.transformer.moe import moe_layer as engine_moe
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher
from megatron.core.transformer.torch_norm import WrappedTorchNorm

from modelwright import protocols

# Returns the engine's `LayerNormInterface`, which has `forward` but no `__call__`.
norm: protocols.NormBuilder = WrappedTorchNorm  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

# `seq_len_interpolation_factor: float = None`; a context and an input that are declared never to be `None` and are, on
# every training step and on every stage but the first; and a `TransformerBlock` where a `HybridStack` is passed.
rotary: protocols.RotaryEmbeddingBuilder = RotaryEmbedding  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


# `attention_mask: Tensor`, which is `None` under causal masks; `sequence_len_offset: int`, which is a tensor.
def self_attention(submodules: SelfAttentionSubmodules) -> protocols.SelfAttentionBuilder:
    return functools.partial(SelfAttention, submodules=submodules)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportReturnType]


# `attention_mask: Tensor` as above; `hidden_states` is `None` from the second stage on.
def stack(submodules: HybridStackSubmodules) -> protocols.StackBuilder:
    return functools.partial(HybridStack, submodules=submodules)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportReturnType]


# `tokentype_ids: int = None`, which pyright refuses and mypy does not see.
embedding: protocols.EmbeddingBuilder = LanguageModelEmbedding  # pyright: ignore[reportAssignmentType]


# Under partial CUDA graphs a layer returns a list, and pyright reads that into every call; mypy sees `Any`.
def attention_layer(submodules: engine_layer.TransformerLayerSubmodules) -> protocols.AttentionLayerBuilder:
    return functools.partial(engine_layer.TransformerLayer, submodules=submodules)  # pyright: ignore[reportReturnType]


# As above, and `hidden_dropout: float = None`.
def mlp_layer(submodules: engine_layer.TransformerLayerSubmodules) -> protocols.MlpLayerBuilder:
    return functools.partial(MLPLayer, submodules=submodules)  # pyright: ignore[reportReturnType]


# Demands `intermediate_tensors` and a default for `name` of a dense MLP, and never uses either.
def mlp(builder: protocols.MlpBuilder) -> engine_layer.MlpBuilder:
    return builder  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


# Demands that no process groups are accepted, and always passes them.
def core_attention(builder: protocols.CoreAttentionBuilder) -> engine_attention.CoreAttentionBuilder:
    return builder  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


# Demands `backward_dw`, which is called only under `delay_wgrad_compute`, and lacks `name`, which is passed.
def qkv(builder: protocols.LinearQkvBuilder) -> engine_attention.LinearQkvBuilder:
    return builder  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


# `weight` is `None` where it is not allocated, which no mixer asks for.
in_proj: protocols.InProjBuilder = ColumnParallelLinear  # pyright: ignore[reportAssignmentType]

# Unannotated; pyright infers that probabilities may come back as `None`, which the mixture never hands on.
all_to_all: protocols.TokenDispatcherBuilder = MoEAlltoAllTokenDispatcher  # pyright: ignore[reportAssignmentType]


# Lacks `is_mtp_layer` and `padding_mask`, which are passed.
def router(builder: protocols.RouterBuilder) -> engine_moe.RouterBuilder:
    return builder  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


# Demands `backward_dw`, which is called only under `delay_wgrad_compute`, and that no process groups are accepted.
def experts(builder: protocols.ExpertsBuilder) -> engine_moe.ExpertsBuilder:
    return builder  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


# As above.
def shared_experts(builder: protocols.SharedExpertsBuilder) -> engine_moe.SharedExpertsBuilder:
    return builder  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


# As above, and that there is no name of a buffer, which is always passed.
def grouped_linear(builder: protocols.GroupedLinearFc1Builder) -> engine_experts.GroupedLinearFc1Builder:
    return builder  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


# Lacks `name`, which is passed.
def cross_linear(builder: protocols.LinearLayerBuilder) -> engine_attention.LinearLayerBuilder:
    return builder  # type: ignore[return-value]  # pyright: ignore[reportReturnType]
