"""Parts that do not fit, each of which both type checkers must reject with the error on its line. Checked, never run.

An error that stops appearing is an unused suppression, which fails the check. One mistake neither checker can see: an
instance where its class is meant, because torch types the call of a module as anything; `check_conformance` sees it.
"""

import functools
from collections.abc import Callable
from typing import Any

from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from modelwright.protocols import (
    ActivationFunctionBuilder,
    BiasDropoutAddBuilder,
    BiasDropoutAddInterface,
    CoreAttentionBuilder,
    CrossAttentionBuilder,
    ExpertsBuilder,
    GroupedLinearFc1Builder,
    LatentCoreAttentionBuilder,
    LinearQkvBuilder,
    LossInterface,
    MambaBiasDropoutAddBuilder,
    MambaLayerBuilder,
    MambaMixerBuilder,
    MlpBuilder,
    MlpInterface,
    NormBuilder,
    NormInterface,
    RotaryEmbeddingBuilder,
    RouterBuilder,
    SelfAttentionBuilder,
    SharedExpertsBuilder,
    SupportsSetLayerNumber,
    adapt,
)


class Mlp(nn.Module):
    """A good `forward`; the constructors below differ."""

    def forward(self, hidden_SBH: Tensor, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return hidden_SBH, None


class MissingArgument(Mlp):
    def __init__(self, *, config: TransformerConfig, pg_collection: ProcessGroupCollection, name: str | None) -> None:
        super().__init__()


class RequiresMore(Mlp):
    def __init__(
        self,
        *,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        is_mtp_layer: bool,
        name: str | None,
        ffn_size: int,
    ) -> None:
        super().__init__()


class PositionForKeyword(Mlp):
    def __init__(
        self,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        is_mtp_layer: bool,
        name: str | None,
        /,
    ) -> None:
        super().__init__()


class NarrowType(Mlp):
    def __init__(self, *, name: str, **slot: Any) -> None:
        super().__init__()


class WrongReturn(nn.Module):
    def __init__(self, **slot: Any) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
        return hidden_SBH


class NoPaddingMask(nn.Module):
    def __init__(self, **slot: Any) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor) -> tuple[Tensor, Tensor | None]:
        return hidden_SBH, None


class RequiresPaddingMask(nn.Module):
    def __init__(self, **slot: Any) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor, *, padding_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return hidden_SBH, None


class KeywordForPosition(nn.Module):
    def __init__(self, **slot: Any) -> None:
        super().__init__()

    def forward(self, *, hidden_SBH: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return hidden_SBH, None


def build_tensor(**slot: Any) -> Tensor:
    raise NotImplementedError


missing_argument: MlpBuilder = MissingArgument  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
requires_more: MlpBuilder = RequiresMore  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
position_for_keyword: MlpBuilder = PositionForKeyword  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
narrow_type: MlpBuilder = NarrowType  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
wrong_return: MlpBuilder = WrongReturn  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
no_padding_mask: MlpBuilder = NoPaddingMask  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
requires_padding_mask: MlpBuilder = RequiresPaddingMask  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
keyword_for_position: MlpBuilder = KeywordForPosition  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
builds_no_part: MlpBuilder = build_tensor  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
bound_wrong: MlpBuilder = functools.partial(WrongReturn, name="mlp")  # type: ignore[arg-type, assignment]  # pyright: ignore[reportAssignmentType]


class TwoOutputs(nn.Module):
    def __init__(self, *, config: TransformerConfig, hidden_size: int, eps: float) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor) -> tuple[Tensor, Tensor]:
        return hidden_SBH, hidden_SBH


class NoEps(nn.Module):
    def __init__(self, *, config: TransformerConfig, hidden_size: int) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor) -> Tensor:
        return hidden_SBH


two_outputs: NormBuilder = TwoOutputs  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
no_eps: NormBuilder = NoEps  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class LikeTheEnginesProtocol(nn.Module):
    """Written exactly to the engine's `LinearQkvBuilder`: the engine's own call breaks it, for want of `name`."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        config: TransformerConfig,
        init_method: Callable[[Tensor], None],
        gather_output: bool,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        tp_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        return hidden_SBH, None


like_the_engines_protocol: LinearQkvBuilder = LikeTheEnginesProtocol  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class NoMaskType(nn.Module):
    def __init__(self, **slot: Any) -> None:
        super().__init__()

    def forward(
        self,
        query_SBND: Tensor,
        key_SBND: Tensor,
        value_SBND: Tensor,
        *,
        attn_mask_type: AttnMaskType,
        attention_bias: Tensor | None,
        packed_seq_params: PackedSeqParams | None,
    ) -> Tensor:
        return value_SBND


no_attention_mask: CoreAttentionBuilder = NoMaskType  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class AlwaysContextParallel(nn.Module):
    def __init__(
        self,
        *,
        config: TransformerConfig,
        layer_number: int,
        pg_collection: ProcessGroupCollection,
        name: str | None,
        cp_comm_type: str,
        pp_layer_offset: int,
    ) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor, **call: object) -> tuple[Tensor, Tensor | None]:
        return hidden_SBH, None


requires_optional: SelfAttentionBuilder = AlwaysContextParallel  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class RotaryWithoutLength(nn.Module):
    def __init__(self, **slot: Any) -> None:
        super().__init__()

    def forward(self, max_seq_len: int, *, packed_seq: bool) -> Tensor:
        raise NotImplementedError


lacks_a_method: RotaryEmbeddingBuilder = RotaryWithoutLength  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def add_only(x_with_bias: tuple[Tensor, Tensor | None], residual: Tensor) -> Tensor:
    return x_with_bias[0] + residual


def choose_add(training: bool, fused: bool) -> BiasDropoutAddInterface:
    return add_only  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def choose_by_keyword(*, training: bool, fused: bool) -> BiasDropoutAddInterface:
    raise NotImplementedError


by_keyword: BiasDropoutAddBuilder = choose_by_keyword  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def supports(part: Mlp) -> SupportsSetLayerNumber:
    return part  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def use(norm: NormInterface, mlp: MlpInterface, hidden_SBH: Tensor) -> Tensor:
    norm(hidden_SBH, hidden_SBH)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    return mlp(hidden_SBH)  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


class NoSetLayerNumber(nn.Module):
    def __init__(self, **slot: Any) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return hidden_SBH, hidden_SBH


no_set_layer_number: RouterBuilder = NoSetLayerNumber  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class LikeTheEnginesRouter(nn.Module):
    """Written exactly to the engine's `RouterInterface`, whose `forward` lacks the padding mask that is passed."""

    def __init__(self, **slot: Any) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, Tensor]:
        return hidden_SBH, hidden_SBH

    def set_layer_number(self, layer_number: int) -> None:
        """Take it."""


like_the_engines_router: RouterBuilder = LikeTheEnginesRouter  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class ExpertsByKeyword(nn.Module):
    def __init__(self, num_local_experts: int, *, config: TransformerConfig, **slot: Any) -> None:
        super().__init__()

    def forward(self, tokens: Tensor, tokens_per_expert: Tensor, probs: Tensor) -> tuple[Tensor, None]:
        return tokens, None


experts_by_keyword: ExpertsBuilder = ExpertsByKeyword  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class ExpertsWithoutProbs(nn.Module):
    def __init__(self, *slot: Any, **more: Any) -> None:
        super().__init__()

    def forward(self, tokens: Tensor, tokens_per_expert: Tensor) -> tuple[Tensor, None]:
        return tokens, None


experts_without_probs: ExpertsBuilder = ExpertsWithoutProbs  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class SharedExpertsWithBias(nn.Module):
    def __init__(self, **slot: Any) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor) -> tuple[Tensor, Tensor]:
        return hidden_SBH, hidden_SBH


shared_with_bias: SharedExpertsBuilder = SharedExpertsWithBias  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class MixerByKeyword(nn.Module):
    def __init__(self, *, config: TransformerConfig, **slot: Any) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor, **call: Any) -> tuple[Tensor, None]:
        return hidden_SBH, None


mixer_by_keyword: MambaMixerBuilder = MixerByKeyword  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class MixerWithoutBias(nn.Module):
    def __init__(self, *slot: Any, **more: Any) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor, **call: Any) -> Tensor:
        return hidden_SBH


mixer_without_bias: MambaMixerBuilder = MixerWithoutBias  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class NoContext(nn.Module):
    def __init__(self, **slot: Any) -> None:
        super().__init__()

    def forward(
        self, hidden_SBH: Tensor, *, attention_mask: Tensor | None, inference_context: object
    ) -> tuple[Tensor, None]:
        return hidden_SBH, None


no_context: CrossAttentionBuilder = NoContext  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class OneHeadSize(nn.Module):
    def __init__(
        self,
        *,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        cp_comm_type: str | None,
        softmax_scale: float | None,
        pg_collection: ProcessGroupCollection,
    ) -> None:
        super().__init__()

    def forward(self, *qkv: Any, **call: Any) -> Tensor:
        raise NotImplementedError


one_head_size: LatentCoreAttentionBuilder = OneHeadSize  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class TwoPositions(nn.Module):
    def __init__(self, size: int, size_out: int, **slot: Any) -> None:
        super().__init__()

    def forward(self, tokens: Tensor, tokens_per_expert: list[int]) -> tuple[Tensor, None]:
        return tokens, None


two_positions: GroupedLinearFc1Builder = TwoPositions  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class PlainLayer(nn.Module):
    layer_number: int = 1

    def __init__(self, **slot: Any) -> None:
        super().__init__()

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return hidden_states


plain_layer: MambaLayerBuilder = PlainLayer  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class ActivationWithBias(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()

    def forward(self, intermediate: Tensor, bias: Tensor) -> Tensor:
        return intermediate + bias


with_bias: ActivationFunctionBuilder = ActivationWithBias  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def choose_by_position(training: bool, fused: bool, /) -> BiasDropoutAddInterface:
    raise NotImplementedError


by_position: MambaBiasDropoutAddBuilder = choose_by_position  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def loss_without_group(logits: Tensor, labels: Tensor) -> Tensor:
    return logits


without_group: LossInterface = loss_without_group  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

adapted_wrong: MlpBuilder = adapt(WrongReturn, drop=("name",))  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
