"""Custom router and experts, plain modules without a base class of the engine, fit their slots and train."""

from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn
from torch.nn import functional as F

from modelwright.layers import LocalTokenDispatcher, MoeLayerSpec, MoeSpec, StackSpec
from modelwright.protocols import ConformanceError
from packages.layers.tests.moe.moe_toy import EXPERTS, MoeToyConfig, build_moe
from packages.layers.tests.toy import LENGTH, VOCABULARY
from tests.messages import facts


class CosineRouter(nn.Module):
    """Weighs experts by the angle between a token and each of them."""

    def __init__(self, *, config: Any, pg_collection: Any, is_mtp_layer: bool) -> None:
        super().__init__()
        self.topk = config.moe_router_topk
        self.directions = nn.Parameter(torch.empty(config.num_moe_experts, config.hidden_size))
        nn.init.orthogonal_(self.directions)
        self.layer_number: int | None = None

    def set_layer_number(self, layer_number: int, /) -> None:
        self.layer_number = layer_number

    def forward(self, hidden_SBH: Tensor, padding_mask: Tensor | None, /) -> tuple[Tensor, Tensor]:
        scores = F.normalize(hidden_SBH.flatten(0, 1), dim=-1) @ F.normalize(self.directions, dim=-1).t()
        chosen = scores.topk(self.topk, dim=-1).indices
        routing_map = torch.zeros_like(scores, dtype=torch.bool).scatter(1, chosen, value=True)
        return scores.masked_fill(~routing_map, float("-inf")).softmax(dim=-1), routing_map


class LastRouter(CosineRouter):
    """Sends every token to the last expert alone."""

    def forward(self, hidden_SBH: Tensor, padding_mask: Tensor | None, /) -> tuple[Tensor, Tensor]:
        tokens = hidden_SBH.flatten(0, 1)
        routing_map = torch.zeros(tokens.size(0), EXPERTS, dtype=torch.bool)
        routing_map[:, -1] = True
        return (tokens @ self.directions.t()).sigmoid() * routing_map, routing_map


class LowRankExperts(nn.Module):
    """Experts that each go through two features only."""

    def __init__(self, num_local_experts: int, config: Any, /, *, pg_collection: Any, name: str | None = None) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(num_local_experts, config.hidden_size, 2) * 0.1)
        self.up = nn.Parameter(torch.randn(num_local_experts, 2, config.hidden_size) * 0.1)

    def forward(
        self, dispatched_input: Tensor, tokens_per_expert: Tensor, permuted_probs: Tensor, /
    ) -> tuple[Tensor, Tensor | None]:
        parts = dispatched_input.split(tokens_per_expert.tolist())
        made = [part @ down @ up for part, down, up in zip(parts, self.down, self.up, strict=True)]
        return torch.cat(made) * permuted_probs[:, None], None


class OldRouter(CosineRouter):
    """Written to the engine's own Protocol, which knows no padding mask."""

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(hidden_SBH, None)


def trained(groups: ProcessGroupCollection, spec: StackSpec) -> tuple[Any, list[float]]:
    """The model, and its losses on one batch."""
    torch.manual_seed(0)
    model: Any = build_moe(groups, MoeToyConfig(), spec=spec)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    tokens = torch.arange(LENGTH)[None] * 3 % VOCABULARY
    losses: list[float] = []
    for _ in range(12):
        loss: Tensor = model(tokens, torch.arange(LENGTH)[None], None, labels=tokens.roll(-1, 1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


PARTS: dict[str, dict[str, Any]] = {
    "router": {"router": CosineRouter},
    "experts": {"experts": LowRankExperts},
    "router and experts": {"router": CosineRouter, "experts": LowRankExperts},
    "all to one": {"router": LastRouter},
    "all to one of my experts": {"router": LastRouter, "experts": LowRankExperts},
    "experts behind the engine's dispatcher": {"experts": LowRankExperts, "token_dispatcher": None},
}


@pytest.mark.parametrize("name", PARTS)
def test_my_parts_train(name: str, groups: ProcessGroupCollection) -> None:
    parts = PARTS[name]
    model, losses = trained(groups, StackSpec(moe=MoeLayerSpec(mlp=MoeSpec(**parts))))
    assert losses[-1] < losses[0] - 0.3
    layer = model.decoder.layers[1].mlp
    for slot in parts.keys() & {"router", "experts"}:
        assert type(getattr(layer, slot)) is parts[slot]
    assert isinstance(layer.token_dispatcher, LocalTokenDispatcher) == ("token_dispatcher" not in parts)
    if "router" in parts:
        assert [model.decoder.layers[i].mlp.router.layer_number for i in (1, 3)] == [2, 4]
        assert layer.router.directions.grad.abs().max() > 0


def test_experts_without_tokens_get_gradients_of_zero(groups: ProcessGroupCollection) -> None:
    model, _ = trained(groups, StackSpec(moe=MoeLayerSpec(mlp=MoeSpec(router=LastRouter))))
    for i, expert in enumerate(model.decoder.layers[1].mlp.experts.local_experts):
        for parameter in expert.parameters():
            assert (parameter.grad.abs().max() > 0) == (i == EXPERTS - 1)


def test_what_fits_the_engines_protocol_alone_is_refused() -> None:
    with pytest.raises(ConformanceError) as caught:
        MoeSpec(router=OldRouter)  # type: ignore[arg-type]
    assert (
        facts(caught.value)
        == "`OldRouter` `RouterBuilder` `forward` 1 2 2 `padding_mask` `padding_mask: Tensor | None`"
    )
