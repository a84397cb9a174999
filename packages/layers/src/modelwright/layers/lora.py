"""LoRA: frozen linears with a trainable low-rank update.

Hu et al. 2021, "LoRA", arXiv 2106.09685: W x becomes W x + alpha / rank · B A x. A is drawn from a normal distribution
and B is zero, so a model with new adapters is bit-equal to the model without. `ColumnLora` and `RowLora` are builders
for the linear slots whose output or input the tensor ranks split. `with_lora` puts them into a spec.

The frozen weight keeps its name, so checkpoints, Hugging Face maps and initial values are those of the model without
adapters. The adapter adds the names `lora_a` and `lora_b` beside it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from megatron.core import tensor_parallel
from megatron.core.dist_checkpointing.utils import apply_prefix_mapping
from megatron.core.transformer import mlp, utils
from megatron.core.transformer.identity_op import IdentityOp
from torch import Tensor, nn
from torch.nn.functional import linear

from modelwright.distributed import NormalInit
from modelwright.layers.attention.attention_layer import AttentionLayerSpec, SelfAttentionSpec
from modelwright.layers.mlp.mlp_layer import MlpLayerSpec, MlpSpec
from modelwright.layers.parameter_marks import mark_sequence_parallel
from modelwright.layers.stack.spec import StackSpec
from modelwright.protocols import (
    LinearFc1Builder,
    LinearFc2Builder,
    LinearProjBuilder,
    LinearQkvBuilder,
    ModelwrightError,
    check_conformance,
    did_you_mean,
)

if TYPE_CHECKING:
    from megatron.core.transformer import TransformerConfig
    from torch.distributed import ProcessGroup

type LinearSlot = Literal["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]

_SLOTS: tuple[LinearSlot, ...] = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")


@final
class LoraLinear(nn.Module):
    """A frozen linear and its low-rank update.

    Args:
        base: The linear; this constructor freezes it.
        input_size: Input size over all tensor ranks.
        output_size: Output size over all tensor ranks.
        split: Which of the two sizes the tensor ranks split.
        rank: Rank of the update.
        scale: Factor on the update.
        stride: Number of weights joined in the output of each tensor rank: 2 for a gated fc1, else 1.
        config: The engine's config.
        tp_group: Tensor-parallel group.
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        input_size: int,
        output_size: int,
        split: Literal["output", "input"],
        rank: int,
        scale: float,
        stride: int,
        config: "TransformerConfig",
        tp_group: "ProcessGroup",
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.split, self.scale, self.stride, self.group = split, scale, stride, tp_group
        self.sequence_parallel = config.sequence_parallel and tp_group.size() > 1
        shares = tp_group.size()
        columns = input_size // shares if split == "input" else input_size
        rows = output_size // shares if split == "output" else output_size
        made: dict[str, Any] = {"dtype": config.params_dtype, "device": torch.cuda.current_device()}
        self.lora_a = nn.Parameter(torch.empty(rank, columns, **made))
        self.lora_b = nn.Parameter(torch.zeros(rows, rank, **made))
        replicated, part, dim = (self.lora_a, self.lora_b, 0) if split == "output" else (self.lora_b, self.lora_a, 1)
        tensor_parallel.set_tensor_model_parallel_attributes(part, is_parallel=True, dim=dim, stride=stride)
        mark_sequence_parallel(replicated, enabled=self.sequence_parallel)
        NormalInit(1 / math.sqrt(input_size))(self.lora_a)

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Project with the frozen linear and add the update.

        Args:
            hidden_SBH: `[s, b, input size]` of this tensor rank; under sequence parallelism and with a split output,
                its part of `s`.

        Returns:
            `[s, b, output size]` of this tensor rank, and the bias of the frozen linear, if it was not added.
        """
        output, bias = self.base(hidden_SBH)
        low_SBR = self._exchanged(linear(hidden_SBH.to(self.lora_a.dtype), self.lora_a))
        return output + (self.scale * linear(low_SBR, self.lora_b)).to(output.dtype), bias

    def _exchanged(self, low_SBR: Tensor) -> Tensor:
        """Exchange between tensor ranks as the frozen linear does, at width `rank` instead of the hidden size."""
        exchanged: Tensor
        given: Any = {"group": self.group}
        if self.split == "output" and self.sequence_parallel:
            exchanged = tensor_parallel.gather_from_sequence_parallel_region(low_SBR, **given)
        elif self.split == "output":
            exchanged = tensor_parallel.copy_to_tensor_model_parallel_region(low_SBR, **given)
        elif self.sequence_parallel:
            exchanged = tensor_parallel.reduce_scatter_to_sequence_parallel_region(low_SBR, **given)
        else:
            exchanged = tensor_parallel.reduce_from_tensor_model_parallel_region(low_SBR, **given)
        return exchanged

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[tuple[int, int, int], ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Return the sharded state dict, for checkpoints and initial values.

        Args:
            prefix: Prefix of the names.
            sharded_offsets: `(dim, position, count)` of each sharding around this module.
            metadata: Metadata of the engine.

        Returns:
            The engine's description of each tensor; frozen tensors have their names without adapter.
        """
        data_group: ProcessGroup = metadata["dp_cp_group"]
        offsets: Any = sharded_offsets  # declared as a tuple of one
        sharded: dict[str, Any] = utils.sharded_state_dict_default(self.base, f"{prefix}base.", offsets, metadata)
        apply_prefix_mapping(sharded, {f"{prefix}base.": prefix})
        sharded |= self._own_tensors(prefix, sharded_offsets, data_group)
        if self.stride == 2:
            # The engine's MLP splits the two weights of a gated fc1 only for its own linear (MLP.sharded_state_dict).
            for name in (f"{prefix}base.weight", f"{prefix}base.bias", f"{prefix}lora_b"):
                if name in sharded:
                    sharded[name] = mlp.apply_swiglu_sharded_factory(
                        sharded[name], sharded_offsets, tp_group=self.group, dp_group=data_group
                    )
        return sharded

    def _own_tensors(
        self, prefix: str, sharded_offsets: tuple[tuple[int, int, int], ...], data_group: "ProcessGroup"
    ) -> dict[str, Any]:
        make: Callable[..., dict[str, Any]] = utils.make_sharded_tensors_for_checkpoint
        return make(
            {"lora_a": self.lora_a, "lora_b": self.lora_b},
            prefix,
            {"lora_b": 0} if self.split == "output" else {"lora_a": 1},
            sharded_offsets,
            tp_group=self.group,
            dp_cp_group=data_group,
        )


@final
@dataclass(frozen=True)
class ColumnLora:
    """Builder for `linear_qkv` and `linear_fc1`: `ColumnLora(ColumnParallelLinear, rank=8, alpha=16)`."""

    base: LinearQkvBuilder | LinearFc1Builder
    """Builder of the frozen linear."""
    rank: int = field(kw_only=True)
    """Rank of the update."""
    alpha: float = field(kw_only=True)
    """Scale of the update, which is multiplied by `alpha / rank`."""

    def __post_init__(self) -> None:
        check_conformance(LinearQkvBuilder, self.base)
        _check(self.rank, self.alpha)

    def __call__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        config: "TransformerConfig",
        init_method: Callable[[Tensor], None],
        gather_output: bool,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        tp_group: "ProcessGroup | None",
        stride: int = 1,
        name: str | None,
    ) -> LoraLinear:
        """Build the linear with its update; see `LinearFc1Builder` and `LinearFc2Builder` for the arguments."""
        strided = {} if stride == 1 else {"stride": stride}  # the slot `linear_qkv` does not pass it
        build: Callable[..., object] = self.base
        base = build(
            input_size,
            output_size,
            config=config,
            init_method=init_method,
            gather_output=gather_output,
            bias=bias,
            skip_bias_add=skip_bias_add,
            is_expert=is_expert,
            tp_comm_buffer_name=tp_comm_buffer_name,
            tp_group=tp_group,
            name=name,
            **strided,
        )
        return LoraLinear(
            _module(base),
            input_size=input_size,
            output_size=output_size,
            split="output",
            rank=self.rank,
            scale=self.alpha / self.rank,
            stride=stride,
            config=config,
            tp_group=_group(tp_group, is_expert=is_expert),
        )


@final
@dataclass(frozen=True)
class RowLora:
    """Builder for `linear_proj` and `linear_fc2`: `RowLora(RowParallelLinear, rank=8, alpha=16)`."""

    base: LinearProjBuilder | LinearFc2Builder
    """Builder of the frozen linear."""
    rank: int = field(kw_only=True)
    """Rank of the update."""
    alpha: float = field(kw_only=True)
    """Scale of the update, which is multiplied by `alpha / rank`."""

    def __post_init__(self) -> None:
        check_conformance(LinearProjBuilder, self.base)
        _check(self.rank, self.alpha)

    def __call__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        config: "TransformerConfig",
        init_method: Callable[[Tensor], None],
        bias: bool,
        input_is_parallel: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        tp_group: "ProcessGroup | None",
        name: str | None,
    ) -> LoraLinear:
        """Build the linear with its update; see `LinearFc1Builder` and `LinearFc2Builder` for the arguments."""
        base = self.base(
            input_size,
            output_size,
            config=config,
            init_method=init_method,
            bias=bias,
            input_is_parallel=input_is_parallel,
            skip_bias_add=skip_bias_add,
            is_expert=is_expert,
            tp_comm_buffer_name=tp_comm_buffer_name,
            tp_group=tp_group,
            name=name,
        )
        return LoraLinear(
            _module(base),
            input_size=input_size,
            output_size=output_size,
            split="input",
            rank=self.rank,
            scale=self.alpha / self.rank,
            stride=1,
            config=config,
            tp_group=_group(tp_group, is_expert=is_expert),
        )


def _check(rank: int, alpha: float) -> None:
    for name, value in (("rank", rank), ("alpha", alpha)):
        if value <= 0:
            raise ModelwrightError(f"`{name}` of a LoRA adapter must be above 0, but is {value}; use 8, for example.")


def _module(base: object) -> nn.Module:
    if not isinstance(base, nn.Module):
        raise ModelwrightError(
            f"`base` of a LoRA adapter must build a `torch.nn.Module`, but built a `{type(base).__name__}`."
        )
    return base


def _group(tp_group: "ProcessGroup | None", *, is_expert: bool) -> "ProcessGroup":
    if tp_group is None or is_expert:
        what = "experts, whose gradients are reduced over other ranks" if is_expert else "a slot without `tp_group`"
        raise ModelwrightError(f"a LoRA adapter cannot be built for {what}; use it in attention and the dense MLP.")
    return tp_group


def with_lora(
    spec: StackSpec, *, rank: int, alpha: float, slots: tuple[LinearSlot, ...] = ("linear_qkv", "linear_proj")
) -> StackSpec:
    """Return a spec with adapters in some of its linear slots. `train_only("*.lora_?")` freezes the other parameters.

    Args:
        spec: Spec without adapters. A layer with a slot in `slots` must be a spec of this package.
        rank: Rank of each update.
        alpha: Scale of the updates, which are multiplied by `alpha / rank`.
        slots: Slots that get an adapter.

    Returns:
        The spec; its other parts are unchanged.

    Raises:
        ModelwrightError: A slot does not exist, is inside a custom part, or contains a linear that is fused with the
            norm before it.
    """
    unknown = [slot for slot in slots if slot not in _SLOTS]
    if unknown or not slots:
        given = f"{unknown[0]!r} is not one{did_you_mean(unknown[0], _SLOTS) or '.'}" if unknown else "none was given."
        raise ModelwrightError(f"`slots` must be of {', '.join(_SLOTS)}, but {given}")
    chosen = {"rank": rank, "alpha": alpha}
    if "linear_qkv" in slots or "linear_proj" in slots:
        spec = replace(spec, attention=_attention(spec, slots, chosen))
    if "linear_fc1" in slots or "linear_fc2" in slots:
        spec = replace(spec, mlp=_mlp(spec, slots, chosen))
    return spec


def _attention(spec: StackSpec, slots: tuple[LinearSlot, ...], chosen: dict[str, Any]) -> AttentionLayerSpec:
    layer = spec.attention
    if not isinstance(layer, AttentionLayerSpec) or not isinstance(layer.self_attention, SelfAttentionSpec):
        raise _out_of_reach("attention", "`AttentionLayerSpec` with a `SelfAttentionSpec`")
    inner = layer.self_attention
    if "linear_qkv" in slots:
        _check_not_fused("linear_qkv", layer.input_layernorm)
        inner = replace(inner, linear_qkv=ColumnLora(inner.linear_qkv, **chosen))
    if "linear_proj" in slots:
        inner = replace(inner, linear_proj=RowLora(inner.linear_proj, **chosen))
    return replace(layer, self_attention=inner)


def _mlp(spec: StackSpec, slots: tuple[LinearSlot, ...], chosen: dict[str, Any]) -> MlpLayerSpec:
    layer = spec.mlp
    if not isinstance(layer, MlpLayerSpec) or not isinstance(layer.mlp, MlpSpec):
        raise _out_of_reach("mlp", "`MlpLayerSpec` with an `MlpSpec`")
    inner = layer.mlp
    if "linear_fc1" in slots:
        _check_not_fused("linear_fc1", layer.pre_mlp_layernorm)
        inner = replace(inner, linear_fc1=ColumnLora(inner.linear_fc1, **chosen))
    if "linear_fc2" in slots:
        inner = replace(inner, linear_fc2=RowLora(inner.linear_fc2, **chosen))
    return replace(layer, mlp=inner)


def _out_of_reach(slot: str, wanted: str) -> ModelwrightError:
    return ModelwrightError(
        f"`{slot}` of the spec must be an {wanted} for `with_lora` to reach its linears, but is a custom part; "
        "build adapters with `ColumnLora` and `RowLora` there."
    )


def _check_not_fused(slot: str, norm: object) -> None:
    if norm is IdentityOp:
        raise ModelwrightError(
            f"`{slot}` must follow a separate norm to get an adapter, but is fused with its norm (backend `te`); "
            "leave the slot out of `slots`, or use the backend `torch`."
        )
