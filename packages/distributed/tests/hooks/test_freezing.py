"""Freezing by name, before the wrap; on several stages in `tests/integration/test_lora.py`."""

from typing import Any

import pytest
from megatron.core.distributed import DistributedDataParallel
from megatron.core.process_groups_config import ProcessGroupCollection

from modelwright.builders import Hook, HookError
from modelwright.config import MegatronDDP, ModelConfig, NoWrap, Parallelism, Precision
from modelwright.distributed import FreezeError, build_stages, freeze, train_only
from packages.distributed.tests.tiny import TinyStage
from tests.messages import facts


def trained(groups: ProcessGroupCollection, *hooks: Hook, wrap: Any = None) -> set[str]:
    (stage,) = build_stages(
        lambda vp_stage: TinyStage(groups),
        config=ModelConfig(),
        pg_collection=groups,
        parallelism=Parallelism(),
        precision=Precision(),
        wrap=wrap or NoWrap(),
        hooks=hooks,
    )
    if isinstance(stage, DistributedDataParallel):
        buffers: Any = stage.buffers
        held = {id(parameter) for buffer in buffers for parameter in buffer.params}
        return {name for name, parameter in stage.module.named_parameters() if id(parameter) in held}
    return {name for name, parameter in stage.named_parameters() if parameter.requires_grad}


EVERY = {"linear.weight", "linear.bias", "scale"}


@pytest.mark.parametrize("wrap", [NoWrap(), MegatronDDP()])
def test_what_is_trained(groups: ProcessGroupCollection, wrap: Any) -> None:
    assert trained(groups, wrap=wrap) == EVERY
    assert trained(groups, freeze("linear.*"), wrap=wrap) == {"scale"}
    assert trained(groups, freeze("*.bias", "scale"), wrap=wrap) == {"linear.weight"}
    assert trained(groups, train_only("*.bias"), wrap=wrap) == {"linear.bias"}


def test_two_hooks_follow_each_other(groups: ProcessGroupCollection) -> None:
    assert trained(groups, freeze("scale"), freeze("*.bias")) == {"linear.weight"}
    assert trained(groups, train_only("linear.*"), freeze("*.bias")) == {"linear.weight"}


@pytest.mark.parametrize("hook", [freeze, train_only])
def test_a_pattern_that_names_nothing(groups: ProcessGroupCollection, hook: Any) -> None:
    name = hook.__name__
    with pytest.raises(HookError) as caught:
        trained(groups, hook("linear.*", "norm.*"))
    assert (
        facts(caught.value) == f"`{name} linear.* norm.*` before_wrap 0 FreezeError `{name}` 'norm.*' 3 `linear.bias`"
    )


@pytest.mark.parametrize("hook", [freeze, train_only])
def test_no_pattern(hook: Any) -> None:
    with pytest.raises(FreezeError) as caught:
        hook()
    assert facts(caught.value) == f"`{hook.__name__}` `*`"
