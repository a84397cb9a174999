"""An MoE layer of our parts computes the same as one of the engine's parts, for every routing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.moe.token_dispatcher import MoEAllGatherTokenDispatcher, MoEAlltoAllTokenDispatcher
from torch import Tensor, nn

from modelwright.layers import (
    GroupedExperts,
    LocalTokenDispatcher,
    MoeLayerSpec,
    MoeSpec,
    SequentialExpertsSpec,
    SharedExpertsSpec,
    StackSpec,
    token_dispatcher,
)
from modelwright.protocols import ModelwrightError, TokenDispatcherBuilder, check_conformance
from packages.layers.tests.moe.moe_toy import EXPERTS, MoeToyConfig, build_moe
from packages.layers.tests.toy import logits
from tests.messages import facts

ENGINE = StackSpec(moe=MoeLayerSpec(mlp=MoeSpec(token_dispatcher=None, experts=SequentialExpertsSpec())))
NO_LOSS = {"moe_router_load_balancing_type": "none"}
CONFIGS: dict[str, dict[str, Any]] = {
    "dropless": {},
    "top 1": {"moe_router_topk": 1, "moe_router_pre_softmax": True},
    "all experts": {"moe_router_topk": EXPERTS},
    "sigmoid with groups": {
        "moe_router_score_function": "sigmoid",
        "moe_router_num_groups": 2,
        "moe_router_group_topk": 1,
        "moe_router_topk_scaling_factor": 2.5,
    },
    "dropped by probability": {"moe_expert_capacity_factor": 0.5},
    "dropped by position": {"moe_expert_capacity_factor": 0.5, "moe_token_drop_policy": "position"},
    "padded to capacity": {"moe_expert_capacity_factor": 0.75, "moe_pad_expert_input_to_capacity": True},
    "probabilities on the input": {
        "moe_apply_probs_on_input": True,
        "moe_router_topk": 1,
        "moe_router_pre_softmax": True,
    },
    "shared experts": {"moe_shared_expert_intermediate_size": 20},
    "gated shared experts": {"moe_shared_expert_intermediate_size": 20, "moe_shared_expert_gate": True},
    "recomputed": {"recompute_granularity": "selective", "recompute_modules": ("moe",)},
    "router in float32": {"moe_router_dtype": "fp32"},
}


def config_of(engine: dict[str, Any], **fields: Any) -> MoeToyConfig:
    topk = engine.get("moe_router_topk", 2)
    rest = {name: value for name, value in engine.items() if name != "moe_router_topk"}
    return MoeToyConfig(topk=topk, init_std=0.4, engine={**NO_LOSS, **rest}, **fields)


def moe_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, MoELayer)]


def answers(model: Any) -> dict[str, Tensor]:
    """Logits and every gradient."""
    found = logits(model)
    torch.manual_seed(4)
    found.backward(torch.randn(found.shape))
    return {"logits": found} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dispatcher", ["alltoall", "allgather"])
@pytest.mark.parametrize("name", CONFIGS)
def test_our_parts_give_what_the_engines_give(name: str, dispatcher: str, groups: ProcessGroupCollection) -> None:
    if dispatcher == "allgather" and "capacity" in str(CONFIGS[name]):
        pytest.skip("the engine drops tokens with the other dispatcher alone")
    config = config_of(CONFIGS[name], dispatcher=dispatcher)
    ours, engine = build_moe(groups, config), build_moe(groups, config, spec=ENGINE)
    kinds = {"alltoall": MoEAlltoAllTokenDispatcher, "allgather": MoEAllGatherTokenDispatcher}
    for ours_moe, engine_moe in zip(moe_layers(ours), moe_layers(engine), strict=True):
        assert isinstance(ours_moe.token_dispatcher, LocalTokenDispatcher)
        assert isinstance(ours_moe.experts, GroupedExperts)
        assert isinstance(engine_moe.token_dispatcher, kinds[dispatcher])
        assert not isinstance(engine_moe.experts, GroupedExperts)
    found, expected = answers(ours), answers(engine)
    assert found.keys() == expected.keys()
    assert len(moe_layers(ours)) == 2
    for part, value in expected.items():
        torch.testing.assert_close(found[part], value, rtol=1e-4, atol=1e-5, msg=lambda text, p=part: f"{p}: {text}")
    assert expected["decoder.layers.1.mlp.router.weight"].abs().max() > 1e-3


@pytest.mark.parametrize(
    "experts", [SequentialExpertsSpec(), GroupedExperts], ids=["the engine's experts", "our experts"]
)
@pytest.mark.parametrize("dispatcher", [None, token_dispatcher], ids=["the engine's dispatcher", "our dispatcher"])
def test_each_part_goes_with_each(experts: Any, dispatcher: Any, groups: ProcessGroupCollection) -> None:
    spec = StackSpec(moe=MoeLayerSpec(mlp=MoeSpec(token_dispatcher=dispatcher, experts=experts)))
    config = config_of({})
    found, expected = answers(build_moe(groups, config, spec=spec)), answers(build_moe(groups, config, spec=ENGINE))
    for part, value in expected.items():
        torch.testing.assert_close(found[part], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", [StackSpec(), ENGINE], ids=["our parts", "the engine's parts"])
@pytest.mark.parametrize("biased", [0, EXPERTS - 1])
def test_all_tokens_on_one_expert(biased: int, spec: StackSpec, groups: ProcessGroupCollection) -> None:
    """Forward and backward; the other experts get gradients of zero, as an optimizer and DDP want them."""
    config = config_of({"moe_router_topk": 1, "moe_router_score_function": "sigmoid"})
    config = replace(config, engine={**config.engine, "moe_router_enable_expert_bias": True})
    model = build_moe(groups, config, spec=spec)
    for layer in moe_layers(model):
        layer.router.expert_bias[biased] = 100.0
    found = answers(model)
    for i in range(EXPERTS):
        grad = found[f"decoder.layers.1.mlp.experts.local_experts.{i}.linear_fc1.weight"]
        assert grad.isfinite().all()
        assert (grad.abs().max() > 0) == (i == biased)


ANSWERS: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "only probabilities": (lambda probs, _: probs, "8 4 torch.float32"),
    "indices": (
        lambda probs, chosen: (probs, chosen.to(torch.int8).topk(2).indices),
        "8 4 torch.float32 8 2 torch.int64",
    ),
    "numbers for a map": (
        lambda probs, chosen: (probs, chosen.float()),
        "8 4 torch.float32 8 4 torch.float32",
    ),
    "nothing": (lambda probs, chosen: None, "None"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_router_that_returns_something_else(answer: str, groups: ProcessGroupCollection) -> None:
    make, shown = ANSWERS[answer]

    class Router(TopKRouter):
        def forward(self, *given: Any) -> Any:
            return make(*super().forward(*given))

    router: Any = Router
    spec = StackSpec(moe=MoeLayerSpec(mlp=MoeSpec(router=router)))
    model = build_moe(groups, config_of({}), spec=spec)
    with pytest.raises(ModelwrightError) as caught:
        moe_layers(model)[0](torch.randn(4, 2, 16))
    assert facts(caught.value) == f"`Router` 8 {EXPERTS} {shown} `RouterBuilder`"


@pytest.mark.parametrize("form", CONFIGS)
def test_a_local_dispatcher_is_chosen_where_no_row_travels(form: str, groups: ProcessGroupCollection) -> None:
    for layer in moe_layers(build_moe(groups, config_of(CONFIGS[form]))):
        assert isinstance(layer.token_dispatcher, LocalTokenDispatcher)


def test_it_is_refused_where_rows_travel() -> None:
    class Two:
        @staticmethod
        def size() -> int:
            return 2

    class Groups:
        tp_ep = Two

    with pytest.raises(ModelwrightError) as caught:
        LocalTokenDispatcher(2, [0, 1], config=None, pg_collection=Groups)  # type: ignore[arg-type]
    assert facts(caught.value) == "`LocalTokenDispatcher` 2 `token_dispatcher`"


def test_dispatchers_fit_their_slot() -> None:
    for builder in (LocalTokenDispatcher, token_dispatcher, MoEAlltoAllTokenDispatcher, MoEAllGatherTokenDispatcher):
        check_conformance(TokenDispatcherBuilder, builder)


def test_shared_experts_refuse_biases(groups: ProcessGroupCollection) -> None:
    config = config_of({"moe_shared_expert_intermediate_size": 20}, bias=True)
    with pytest.raises(ModelwrightError) as caught:
        build_moe(groups, config, spec=StackSpec(moe=MoeLayerSpec(mlp=MoeSpec(shared_experts=SharedExpertsSpec()))))
    assert "`add_bias_linear`" in str(caught.value)
