"""Parts as users write them, each of which both type checkers must accept in its slot. Checked, never run."""

import functools
from collections.abc import Callable
from typing import Any, Self, override

from megatron.core.inference.contexts.base_context import BaseInferenceContext
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from modelwright.protocols import (
    BiasDropoutAddBuilder,
    BiasDropoutAddInterface,
    CoreAttentionBuilder,
    EmbeddingBuilder,
    LinearFc1Builder,
    LinearQkvBuilder,
    MlpBuilder,
    MlpInterface,
    NormBuilder,
    NormInterface,
    OutputLayerBuilder,
    ProcessGroups,
    RotaryEmbeddingBuilder,
    SelfAttentionBuilder,
    StackInterface,
    SupportsSetLayerNumber,
    SupportsWeight,
    check_conformance,
)


class ExactMlp(nn.Module):
    """Written to the letter of the Protocol."""

    def __init__(
        self,
        *,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        is_mtp_layer: bool,
        name: str | None,
    ) -> None:
        super().__init__()

    @override
    def forward(self, hidden_SBH: Tensor, /, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return hidden_SBH, None


class WideMlp(nn.Module):
    """Takes more than is passed, asks for less than is given, promises more than is asked."""

    def __init__(self, config: object, pg_collection: ProcessGroups, *, ffn_size: int = 8, **slot: object) -> None:
        super().__init__()

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, scale: float = 1.0) -> tuple[Tensor, None]:
        return x * scale, None

    def set_layer_number(self, layer_number: int) -> None:
        """Wants to know its layer."""


class NamedMlp(nn.Module, MlpInterface):
    """Names its Interface: last among the bases, or assigning a parameter would fail."""

    @override
    def forward(self, hidden_SBH: Tensor, /, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return hidden_SBH, None

    @classmethod
    def for_slot(
        cls, config: TransformerConfig, pg_collection: ProcessGroupCollection, is_mtp_layer: bool, name: str | None
    ) -> Self:
        """Take what the slot passes."""
        return cls()


def build_mlp(*, width: int, **slot: object) -> ExactMlp | WideMlp:
    """Choose one of two parts."""
    raise NotImplementedError


class MlpFactory:
    """A builder with state."""

    def __call__(self, **slot: Any) -> MlpInterface:
        """Build."""
        return NamedMlp()


exact: MlpBuilder = ExactMlp
wide: MlpBuilder = WideMlp
bound: MlpBuilder = functools.partial(WideMlp, ffn_size=16)
by_classmethod: MlpBuilder = NamedMlp.for_slot
by_function: MlpBuilder = functools.partial(build_mlp, width=8)
by_instance: MlpBuilder = MlpFactory()
check_conformance(MlpBuilder, WideMlp)


def supports(part: WideMlp) -> SupportsSetLayerNumber:
    """A part that wants a sometimes-member has it."""
    return part


class Norm(nn.Module):
    """A norm with another name for its input."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


norm: NormBuilder = Norm


def call_norm(built: NormInterface, hidden_SBH: Tensor) -> Tensor:
    """What an Interface is called with comes out typed."""
    return built(hidden_SBH)


class Linear(nn.Module):
    """Fits both column-parallel slots."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        config: TransformerConfig,
        init_method: Callable[[Tensor], None],
        gather_output: bool,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        tp_group: ProcessGroup | None,
        stride: int = 1,
        name: str | None = None,
    ) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor) -> tuple[Tensor, Tensor | None]:
        return hidden_SBH, None


qkv: LinearQkvBuilder = Linear
fc1: LinearFc1Builder = Linear


class CoreAttention(nn.Module):
    """A core attention that looks at nothing but query, key and value."""

    def __init__(self, config: TransformerConfig, layer_number: int, **slot: object) -> None:
        super().__init__()

    def forward(
        self,
        query_SBND: Tensor,
        key_SBND: Tensor,
        value_SBND: Tensor,
        attention_mask: Tensor | None,
        *,
        attn_mask_type: AttnMaskType,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> Tensor:
        return value_SBND


core_attention: CoreAttentionBuilder = CoreAttention


class SelfAttention(nn.Module):
    """A self-attention that ignores most of what it is told."""

    def __init__(self, config: TransformerConfig, layer_number: int, **slot: object) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor, attention_mask: Tensor | None, **call: object) -> tuple[Tensor, None]:
        return hidden_SBH, None


self_attention: SelfAttentionBuilder = SelfAttention


def add(x_with_bias: tuple[Tensor, Tensor | None], residual: Tensor, prob: float) -> Tensor:
    """Add the residual and nothing else."""
    return x_with_bias[0] + residual


def choose_add(training: bool, fused: bool) -> BiasDropoutAddInterface:
    """Choose."""
    return add


bias_dropout_add: BiasDropoutAddBuilder = choose_add


class Embedding(nn.Module):
    """An embedding with a table."""

    def __init__(self, *, config: TransformerConfig, vocab_size: int, **slot: object) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, 8)

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        return input_ids


embedding: EmbeddingBuilder = Embedding


class Rotary(nn.Module):
    """A rotary embedding."""

    def __init__(self, *, kv_channels: int, rotary_base: float, **slot: object) -> None:
        super().__init__()

    def forward(self, max_seq_len: int, packed_seq: bool = False) -> Tensor:
        raise NotImplementedError

    def get_rotary_seq_len(
        self,
        inference_context: BaseInferenceContext | None,
        stack: StackInterface,
        hidden_SBH: Tensor | None,
        config: TransformerConfig,
        packed_seq_params: PackedSeqParams | None,
    ) -> int:
        """Ask the stack from the second stage on."""
        given = hidden_SBH if hidden_SBH is not None else stack.input_tensor
        return 0 if given is None else given.shape[0]


rotary: RotaryEmbeddingBuilder = Rotary


class OutputLayer(nn.Module):
    """An output layer with a weight of its own."""

    def __init__(self, input_size: int, output_size: int, **slot: object) -> None:
        super().__init__()
        self.weight = nn.Parameter()

    def forward(
        self, hidden_SBH: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor, None]:
        return hidden_SBH, None


output_layer: OutputLayerBuilder = OutputLayer


def weight_of(part: SupportsWeight) -> Tensor:
    """A sometimes-member is typed."""
    return part.weight
