"""Stand-ins for Transformer Engine's parts, in plain PyTorch, as a checkpoint and a build see them.

They are not Transformer Engine and prove nothing about its kernels. They have the parameters of its parts, under its
names (`layer_norm_weight` inside the linear, an `_extra_state` of bytes), and make their weight anew after
`init_method`, as `TransformerEngineBaseModule.reset_parameters` does. That is what decides whether checkpoints and
initial values of the two backends fit each other; the rest is checked on a GPU by `test_te_backend.py`.
"""

from typing import Any

import torch
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, rms_norm

from modelwright.layers import Backend, GroupedExpertsSpec, TorchNorm

EXTRA = torch.arange(4, dtype=torch.uint8)


def made_anew(weight: Tensor, dim: int) -> nn.Parameter:
    """Replace a weight by another parameter of the same memory, as `te.pytorch.Linear.reset_parameters` does."""
    parameter = nn.Parameter(weight)
    set_tensor_model_parallel_attributes(parameter, is_parallel=True, dim=dim, stride=1)
    return parameter


class StandInNormLinear(ColumnParallelLinear):
    """A norm and a column-parallel linear in one part, named as `TELayerNormColumnParallelLinear` names them."""

    def __init__(self, *args: Any, config: Any, **options: Any) -> None:
        super().__init__(*args, config=config, **options)
        self.weight = made_anew(self.weight, dim=0)
        self.eps = config.layernorm_epsilon
        size = self.input_size
        self.layer_norm_weight = nn.Parameter(torch.ones(size))
        self.layer_norm_bias = nn.Parameter(torch.zeros(size)) if config.normalization == "LayerNorm" else None
        for parameter in (self.layer_norm_weight, self.layer_norm_bias):
            if parameter is not None:
                parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, input_: Tensor, *given: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        shape, weight, bias = (self.input_size,), self.layer_norm_weight, self.layer_norm_bias
        normed = (
            rms_norm(input_, shape, weight, self.eps)
            if bias is None
            else layer_norm(input_, shape, weight, bias, self.eps)
        )
        answer: tuple[Tensor, Tensor | None] = super().forward(normed, *given, **options)
        return answer

    def get_extra_state(self) -> Tensor:  # type: ignore[override]
        return EXTRA

    def set_extra_state(self, state: Any) -> None:
        assert state is None or torch.equal(state, EXTRA)


class StandInRowLinear(RowParallelLinear):
    """A row-parallel linear that makes its weight anew."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.weight = made_anew(self.weight, dim=1)

    def get_extra_state(self) -> Tensor:  # type: ignore[override]
        return EXTRA

    def set_extra_state(self, state: Any) -> None:
        assert state is None or torch.equal(state, EXTRA)


class StandInNorm(TorchNorm):
    """A norm with a state beside its weights, which the norm of the backend `torch` has not."""

    def get_extra_state(self) -> Tensor:
        return EXTRA

    def set_extra_state(self, state: Any) -> None:
        assert torch.equal(state, EXTRA)


def _merge_extra_states(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A checkpoint contains the state of each expert, and the part has one for all."""
    for name in [name for name in state if name.startswith(f"{prefix}_extra_state") and name[-1].isdigit()]:
        del state[name]


class StandInGroupedLinear(nn.Module):
    """The linears of all experts of a rank in one part, named and described as `TEGroupedLinear` does it."""

    dim: int

    def __init__(
        self,
        num_gemms: int,
        input_size: int,
        output_size: int,
        *,
        config: Any,
        init_method: Any,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        pg_collection: Any,
        name: str | None,
    ) -> None:
        super().__init__()
        self.num_gemms, self.groups = num_gemms, pg_collection
        shape = [output_size, input_size]
        shape[self.dim] //= pg_collection.expt_tp.size()
        for i in range(num_gemms):
            weight = torch.empty(shape, dtype=config.params_dtype)
            init_method(weight)
            parameter = made_anew(weight, dim=self.dim)
            own_groups = pg_collection.ep.size() > 1 or pg_collection.expt_tp.size() != pg_collection.tp.size()
            parameter.allreduce = not (is_expert and own_groups)  # type: ignore[attr-defined]
            self.register_parameter(f"weight{i}", parameter)
        self.register_load_state_dict_pre_hook(_merge_extra_states)

    def forward(self, tokens: Tensor, tokens_per_expert: list[int], /) -> tuple[Tensor, Tensor | None]:
        parts = tokens.split(tokens_per_expert)
        return torch.cat([linear(part, self.get_parameter(f"weight{i}")) for i, part in enumerate(parts)]), None

    def get_extra_state(self) -> Tensor:
        return EXTRA

    def set_extra_state(self, state: Any) -> None:
        assert state is None or torch.equal(state, EXTRA)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        expert = self.groups.ep.rank() * self.num_gemms
        found: dict[str, Any] = {}
        for i in range(self.num_gemms):
            part = make_sharded_tensors_for_checkpoint(
                {"weight": self.get_parameter(f"weight{i}"), "_extra_state": EXTRA},
                prefix,
                {"weight": self.dim},
                (*sharded_offsets, (len(sharded_offsets), expert + i, self.groups.ep.size() * self.num_gemms)),
                tp_group=self.groups.expt_tp,
                dp_cp_group=metadata["dp_cp_group"],
            )
            for sharded in part.values():
                sharded.replica_id = (*sharded.replica_id[:2], self.groups.expt_dp.rank())
            found[f"{prefix}weight{i}"] = part[f"{prefix}weight"]
            found[f"{prefix}_extra_state{i or ''}"] = part[f"{prefix}_extra_state"]
        return found


class StandInGroupedColumnLinear(StandInGroupedLinear):
    """Splits its output."""

    dim = 0


class StandInGroupedRowLinear(StandInGroupedLinear):
    """Splits its input."""

    dim = 1


STAND_IN = Backend(
    norm=StandInNorm,
    norm_before_linear=IdentityOp,
    norm_linear=StandInNormLinear,
    row_linear=StandInRowLinear,
    experts=GroupedExpertsSpec(linear_fc1=StandInGroupedColumnLinear, linear_fc2=StandInGroupedRowLinear),
    token_dispatcher=None,
)
