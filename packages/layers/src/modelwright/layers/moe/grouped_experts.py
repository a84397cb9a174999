"""`GroupedExperts`: the experts of one rank in PyTorch, with the engine's parameters and one computation for all.

Names, shapes, initial values and sharded state dict are those of Megatron-Core's `SequentialMLP`. The engine's
`TEGroupedMLP` reads and writes the same checkpoints. Only `forward` differs: it calls `run_experts`.
"""

from typing import TYPE_CHECKING, NamedTuple, cast, final, override

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from torch import Tensor

from modelwright.layers.moe.expert_function import ExpertActivation, ExpertWeights, Routes, run_experts
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer import mlp as engine


class _Parameters(NamedTuple):
    """Parameters of one linear."""

    weight: Tensor
    bias: Tensor | None


class _ColumnParameters(ColumnParallelLinear):
    """Container of a linear's parameters: `forward` returns weight and bias.

    It is called as a module, so that the forward hooks of DDP and FSDP gather the parameters first.
    """

    @override
    def forward(self) -> _Parameters:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        return _Parameters(cast("Tensor", self.weight), self.bias)


class _RowParameters(RowParallelLinear):
    """Container of a linear's parameters: `forward` returns weight and bias; see `_ColumnParameters`."""

    @override
    def forward(self) -> _Parameters:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        return _Parameters(cast("Tensor", self.weight), self.bias)


@final
class GroupedExperts(SequentialMLP):
    """All experts of one rank, computed in few kernels.

    The linears of these experts compute nothing themselves. For experts with custom linears use
    `SequentialExpertsSpec`.

    Seam: subclasses the engine's `SequentialMLP`, whose constructor makes `local_experts`, and replaces its `forward`.
    `packages/layers/tests/moe/test_grouped_experts.py` compares values, gradients, names and shards with the engine's
    class and fails when that changes.

    Args:
        num_local_experts: Number of experts on this rank.
        config: The engine's config; `moe_ffn_hidden_size` is the inner size of an expert.
        pg_collection: Process groups of this rank; `expt_tp` splits each expert.
        name: Dotted name of this module in the model, or None.

    Raises:
        ModelwrightError: The config uses a dtype that only kernels of Transformer Engine support.
    """

    def __init__(
        self,
        num_local_experts: int,
        config: "TransformerConfig",
        /,
        *,
        pg_collection: "ProcessGroupCollection",
        name: str | None = None,
    ) -> None:
        narrow = [field for field in ("fp8", "fp4") if getattr(config, field)]
        if narrow:
            raise ModelwrightError(
                f"`{narrow[0]}` must be off for `GroupedExperts`, which compute in the dtype of their weights, "
                f"but is {getattr(config, narrow[0])!r}; turn it off, or use the backend `te`."
            )
        parts = MLPSubmodules(
            # Only `forward` differs from what the Protocols require, and only `run` calls it.
            linear_fc1=cast("engine.LinearFc1Builder", _ColumnParameters),
            linear_fc2=cast("engine.LinearFc2Builder", _RowParameters),
        )
        super().__init__(num_local_experts, config, parts, pg_collection=pg_collection, name=name)
        self.activation = ExpertActivation(
            function=config.activation_func,
            gated=config.gated_linear_unit,
            clamp=config.activation_func_clamp_value,
            offset=config.glu_linear_offset,
        )

    @override
    def forward(
        self,
        permuted_local_hidden_states: Tensor,
        tokens_per_expert: Tensor | None,
        permuted_probs: Tensor,
        *,
        routes: Routes | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run every expert on its tokens.

        Args:
            permuted_local_hidden_states: `[tokens, h]`, sorted by expert unless `routes` is set.
            tokens_per_expert: `[local e]`, number of tokens of each expert. None if `routes` is set.
            permuted_probs: `[rows]`, factor on the output of each row.
            routes: Number of rows of each expert, and the token of each row. None: one row for each token.

        Returns:
            `[tokens, h]`: outputs, summed over the rows of each token; and None: biases have been added.
        """
        tokens = permuted_local_hidden_states
        if self.config.moe_apply_probs_on_input:
            tokens = (tokens * permuted_probs[:, None]).to(tokens.dtype)
            permuted_probs = permuted_probs.new_ones(permuted_probs.shape)
        if routes is None:
            if tokens_per_expert is None:
                raise ModelwrightError(
                    "`GroupedExperts` needs `tokens_per_expert` or `routes`, but got neither; pass one."
                )
            routes = Routes(tokens_per_expert.tolist())
        experts = [cast("MLP", expert) for expert in self.local_experts]
        fc1 = [cast("_ColumnParameters", expert.linear_fc1)() for expert in experts]
        fc2 = [cast("_RowParameters", expert.linear_fc2)() for expert in experts]
        every = [tensor for parameters in (*fc1, *fc2) for tensor in parameters if tensor is not None]
        # Some may be kept in float32. Then all compute in it, as one kernel.
        work = torch.float32 if any(tensor.dtype == torch.float32 for tensor in every) else every[0].dtype
        weights = ExpertWeights(
            fc1=[parameters.weight.to(work) for parameters in fc1],
            fc2=[parameters.weight.to(work) for parameters in fc2],
            bias1=[parameters.bias.to(work) for parameters in fc1 if parameters.bias is not None],
            bias2=[parameters.bias.to(work) for parameters in fc2 if parameters.bias is not None],
        )
        answer = run_experts(tokens.to(work), permuted_probs, routes, weights, self.activation)
        return answer.to(tokens.dtype), None
