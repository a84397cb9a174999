"""`GroupedExperts`: the experts of a rank in PyTorch, held as the engine holds its own and computed together.

Names, shapes, initial values and sharded state dictionary are those of the engine's `SequentialMLP`, whose checkpoints
the engine's `TEGroupedMLP` reads and writes too; only `forward` is another (`run_experts`).
"""

from typing import TYPE_CHECKING, Any, NamedTuple, final, override

from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from torch import Tensor

from modelwright.engine import as_engine
from modelwright.layers.moe.expert_function import ExpertActivation, ExpertWeights, Routes, run_experts
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig


class _Held(NamedTuple):
    """The parameters of a linear."""

    weight: Tensor
    bias: Tensor | None


class _ColumnWeights(ColumnParallelLinear):
    """Holds its parameters; calling it, which waits for whoever gathers them, hands them out."""

    @override
    def forward(self) -> _Held:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        return _Held(as_engine(self.weight), self.bias)


class _RowWeights(RowParallelLinear):
    """Holds its parameters; calling it, which waits for whoever gathers them, hands them out."""

    @override
    def forward(self) -> _Held:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        return _Held(as_engine(self.weight), self.bias)


@final
class GroupedExperts(SequentialMLP):
    """All experts of a rank, in few kernels.

    Their linears are plain ones that compute nothing themselves: to give experts linears of your own, use
    `SequentialExpertsSpec`.

    Args:
        num_local_experts: Experts of this rank.
        config: The engine's config; `moe_ffn_hidden_size` is the inner size of an expert.
        pg_collection: The process groups; `expt_tp` splits each expert.
        name: Dotted name of this module in the model, or None.

    Raises:
        ModelwrightError: The config asks for a number format that only kernels of Transformer Engine have.
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
                f"`{narrow[0]}` must be off for `GroupedExperts`, which compute in the number format of their weights, "
                f"but is {getattr(config, narrow[0])!r}; switch it off, or use the backend `te`."
            )
        parts = MLPSubmodules(linear_fc1=as_engine(_ColumnWeights), linear_fc2=as_engine(_RowWeights))
        super().__init__(num_local_experts, config, parts, pg_collection=pg_collection, name=name)
        self.activation = ExpertActivation(
            function=as_engine(config.activation_func),
            gated=config.gated_linear_unit,
            clamp=config.activation_func_clamp_value,
            offset=config.glu_linear_offset,
        )

    @override
    def forward(
        self, permuted_local_hidden_states: Tensor, tokens_per_expert: Tensor, permuted_probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Run every expert on its tokens.

        Args:
            permuted_local_hidden_states: [tokens, h], sorted by expert.
            tokens_per_expert: [local e], how many rows belong to each.
            permuted_probs: [tokens], which the output of each row is multiplied by.

        Returns:
            [tokens, h], and None: biases have been added.
        """
        rows = permuted_local_hidden_states
        if as_engine(self.config).moe_apply_probs_on_input:
            rows = (rows * permuted_probs[:, None]).to(rows.dtype)
            permuted_probs = permuted_probs.new_ones(permuted_probs.shape)
        return self.run(rows, permuted_probs, Routes(tokens_per_expert.tolist())), None

    def run(self, tokens: Tensor, probs: Tensor, routes: Routes) -> Tensor:
        """Run every expert on the rows that are its.

        Args:
            tokens: [tokens, h].
            probs: [rows], which the output of each row is multiplied by.
            routes: Which rows go to which expert, and which tokens they are.

        Returns:
            [tokens, h], rows of one token summed.
        """
        experts: Any = self.local_experts
        fc1: list[_Held] = [expert.linear_fc1() for expert in experts]
        fc2: list[_Held] = [expert.linear_fc2() for expert in experts]
        weights = ExpertWeights(
            fc1=[held.weight for held in fc1],
            fc2=[held.weight for held in fc2],
            bias1=[held.bias for held in fc1 if held.bias is not None],
            bias2=[held.bias for held in fc2 if held.bias is not None],
        )
        return run_experts(tokens, probs, routes, weights, self.activation)
