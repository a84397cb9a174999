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
    BiasDropoutAddBuilder,
    BiasDropoutAddInterface,
    CoreAttentionBuilder,
    LinearQkvBuilder,
    MlpBuilder,
    MlpInterface,
    NormBuilder,
    NormInterface,
    RotaryEmbeddingBuilder,
    SelfAttentionBuilder,
    SupportsSetLayerNumber,
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
