"""Token dispatchers: one for a rank that has all experts, and the choice between it and Megatron-Core's.

The engine's dispatchers sort a map of tokens × experts to find which tokens go where, even if no token leaves its rank.
Here the map is read once.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast, final

import torch
from megatron.core.transformer.moe.token_dispatcher import (
    MoEAllGatherTokenDispatcher,
    MoEAlltoAllTokenDispatcher,
    MoEFlexTokenDispatcher,
)
from torch import Tensor

from modelwright.layers.moe.expert_function import Routes
from modelwright.protocols import ModelwrightError, TokenDispatcherInterface

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig

_ENGINE: dict[str, Callable[..., object]] = {
    "allgather": MoEAllGatherTokenDispatcher,
    "alltoall": MoEAlltoAllTokenDispatcher,
    "flex": MoEFlexTokenDispatcher,
}


@final
class LocalTokenDispatcher:
    """Token dispatcher for a rank that has all experts: no token leaves the rank.

    Args:
        num_local_experts: Number of experts on this rank.
        local_expert_indices: Indices of these experts among all experts.
        config: The engine's config.
        pg_collection: Process groups of this rank; the groups that split experts must have one rank.

    Raises:
        ModelwrightError: Other ranks have some of the experts, or parts of them.
    """

    def __init__(
        self,
        num_local_experts: int,
        local_expert_indices: list[int],
        /,
        *,
        config: "TransformerConfig",
        pg_collection: "ProcessGroupCollection",
    ) -> None:
        if not _all_experts_here(pg_collection):
            raise ModelwrightError(
                "`LocalTokenDispatcher` must have all experts on its rank, but "
                f"{pg_collection.tp_ep.size()} ranks share them; use `token_dispatcher`, which chooses by the layout."
            )
        self.num_experts = num_local_experts
        self.routes = Routes([])
        self._shape: torch.Size = torch.Size()
        self._flat_shape: torch.Size = torch.Size()

    def dispatch_preprocess(self, tokens: Tensor, routing_map: Tensor, probs: Tensor, /) -> tuple[Tensor, Tensor]:
        """Find which tokens go to which expert.

        Args:
            tokens: `[s, b, h]`.
            routing_map: `[s * b, e]`, True where a token goes to an expert.
            probs: `[s * b, e]`, router probabilities.

        Returns:
            Tokens `[s * b, h]`, and router probabilities `[rows]`, one row for each token of each expert, sorted by
            expert.
        """
        self._shape = tokens.shape
        flat = tokens.reshape(-1, tokens.size(-1))
        self._flat_shape = flat.shape
        experts, rows = routing_map.t().nonzero(as_tuple=True)
        self.routes = Routes(torch.bincount(experts, minlength=self.num_experts).tolist(), rows)
        return flat, probs.reshape(-1).index_select(0, rows * self.num_experts + experts)

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return the arguments: no token leaves the rank.

        Args:
            hidden_states: From `dispatch_preprocess`.
            probs: From `dispatch_preprocess`.

        Returns:
            Both, unchanged.
        """
        return hidden_states, probs

    def dispatch_postprocess(self, hidden_states: Tensor, probs: Tensor, /) -> tuple[Tensor, Tensor, Tensor]:
        """Copy each token to its rows.

        Args:
            hidden_states: `[s * b, h]`.
            probs: `[rows]`.

        Returns:
            Rows `[rows, h]` sorted by expert, number of rows of each expert, router probabilities `[rows]`.
        """
        return hidden_states.index_select(0, self._rows()), torch.tensor(self.routes.counts), probs

    def combine_preprocess(self, hidden_states: Tensor, /) -> Tensor:
        """Sum the rows of each token.

        Args:
            hidden_states: `[rows, h]` from the experts.

        Returns:
            `[s * b, h]`.
        """
        return hidden_states.new_zeros(self._flat_shape).index_add(0, self._rows(), hidden_states)

    def token_combine(self, hidden_states: Tensor, /) -> Tensor:
        """Return the argument: no token left the rank.

        Args:
            hidden_states: From `combine_preprocess`.

        Returns:
            The same, unchanged.
        """
        return hidden_states

    def combine_postprocess(self, hidden_states: Tensor, /) -> Tensor:
        """Restore the shape of the tokens.

        Args:
            hidden_states: `[s * b, h]`.

        Returns:
            `[s, b, h]`.
        """
        return hidden_states.view(self._shape)

    def get_expert_zero_copy_buffers(self) -> tuple[Tensor | None, Tensor | None]:
        """Return no buffers: this dispatcher offers none.

        Returns:
            None, twice.
        """
        return None, None

    def _rows(self) -> Tensor:
        if self.routes.rows is None:
            raise ModelwrightError("`dispatch_preprocess` must be called before rows are sorted; call it first.")
        return self.routes.rows


def token_dispatcher(
    num_local_experts: int,
    local_expert_indices: list[int],
    /,
    *,
    config: "TransformerConfig",
    pg_collection: "ProcessGroupCollection",
) -> TokenDispatcherInterface:
    """Build the token dispatcher for a layout: `LocalTokenDispatcher` if no token leaves its rank, else the engine's.

    Args:
        num_local_experts: Number of experts on this rank.
        local_expert_indices: Indices of these experts among all experts.
        config: The engine's config; `moe_token_dispatcher_type` names the engine's dispatcher.
        pg_collection: Process groups of this rank.

    Returns:
        The dispatcher.
    """
    # The engine alone can overlap shared experts with the exchange of tokens, and pad tokens for a narrow dtype.
    special = config.moe_shared_expert_overlap or config.moe_router_padding_for_quantization
    local = _all_experts_here(pg_collection) and not special
    build = LocalTokenDispatcher if local else _ENGINE[config.moe_token_dispatcher_type]
    dispatcher = build(num_local_experts, local_expert_indices, config=config, pg_collection=pg_collection)
    return cast("TokenDispatcherInterface", dispatcher)


def _all_experts_here(pg_collection: "ProcessGroupCollection") -> bool:
    return pg_collection.tp_ep.size() == 1
