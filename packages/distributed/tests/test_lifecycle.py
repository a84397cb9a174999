"""One lifecycle: build, initialize, hooks, attributes, precision, wrap, hooks; and what each of them sees."""

from typing import Any, Literal

import pytest
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import Float16Module
from torch import Tensor, nn

from modelwright.builders import BuildContext, Hook, HookError
from modelwright.config import MegatronDDP, ModelConfig, NoWrap, Parallelism, Precision, TorchFSDP2
from modelwright.distributed import BuildError, PrecisionError, WrapError, build_stages, in_precision, unwrapped
from packages.distributed.tests.tiny import TinyStage, engine_config
from tests.messages import facts

CONFIG = ModelConfig()


def build(groups: ProcessGroupCollection, *hooks: Hook, **changes: Any) -> nn.Module:
    options: dict[str, Any] = {
        "config": CONFIG,
        "pg_collection": groups,
        "parallelism": Parallelism(),
        "precision": Precision(),
        "wrap": NoWrap(),
    }
    (stage,) = build_stages(
        changes.pop("build_stage", lambda vp_stage: TinyStage(groups)), hooks=hooks, **(options | changes)
    )
    return stage


def test_values_are_a_function_of_the_seed(groups: ProcessGroupCollection) -> None:
    first, again, other = (build(groups, seed=seed).linear.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class WrappedAnew(TinyStage):
    """Makes its weight anew around the same memory, as Transformer Engine does when it has called `init_method`."""

    def __init__(self, groups: ProcessGroupCollection, **fields: object) -> None:
        super().__init__(groups, engine_config(**fields))
        marked = self.linear.weight
        self.linear.weight = nn.Parameter(marked)
        assert self.linear.weight is not marked


@pytest.mark.parametrize("meta", [False, True])
def test_a_weight_that_its_module_made_anew_is_drawn(groups: ProcessGroupCollection, meta: bool) -> None:
    anew = build(groups, build_stage=lambda vp_stage: WrappedAnew(groups), seed=1, meta=meta)
    assert torch.equal(anew.linear.weight, build(groups, seed=1).linear.weight)
    kept = Precision(params="bfloat16", keep_float32=("linear.w*",))
    exact = build(groups, build_stage=lambda vp_stage: WrappedAnew(groups, bf16=True), seed=1, precision=kept)
    assert torch.equal(unwrapped(exact).linear.weight, anew.linear.weight)


def test_order_and_what_each_hook_sees(groups: ProcessGroupCollection) -> None:
    seen: list[Any] = []

    def build_stage(vp_stage: int | None) -> TinyStage:
        seen.append(("build", vp_stage))
        return TinyStage(groups)

    def look(stages: list[nn.Module], context: BuildContext) -> None:
        (stage,) = stages
        seen.append((type(stage), unwrapped(stage).linear.weight.detach().clone(), context))

    hooks = [
        Hook(name="last", phase="after_wrap", function=look),
        Hook(name="first", phase="before_wrap", function=look),
    ]
    stage = build(groups, *hooks, build_stage=build_stage, wrap=MegatronDDP(), seed=5)
    built, (before, weight, context), (after, final, _) = seen
    assert built == ("build", None)
    assert (before, after, type(stage)) == (TinyStage, DistributedDataParallel, DistributedDataParallel)
    assert torch.equal(weight, build(groups, seed=5).linear.weight)
    assert torch.equal(weight, final)
    assert (context.config, context.parallelism, context.precision) == (CONFIG, Parallelism(), Precision())
    assert context.pg_collection is groups
    assert (context.rank, context.stages) == (0, (0,))


@pytest.mark.parametrize("wrap", [NoWrap(), MegatronDDP(), MegatronDDP(broadcast_from_data_rank_0=True)])
@pytest.mark.parametrize("params", ["float32", "bfloat16"])
def test_nothing_overwrites_what_a_hook_loaded(
    groups: ProcessGroupCollection, wrap: Any, params: Literal["float32", "bfloat16"]
) -> None:
    def load(stages: list[nn.Module], context: BuildContext) -> None:
        with torch.no_grad():
            stages[0].linear.weight.copy_(torch.arange(128.0).view(16, 8))

    config = engine_config(bf16=params == "bfloat16")
    stage = build(
        groups,
        Hook(name="load", phase="before_wrap", function=load),
        build_stage=lambda vp_stage: TinyStage(groups, config),
        wrap=wrap,
        precision=Precision(params=params),
    )
    weight = unwrapped(stage).linear.weight
    assert str(weight.dtype) == f"torch.{params}"
    assert torch.equal(weight.float(), torch.arange(128.0).view(16, 8))


def test_a_hook_may_replace_the_stages(groups: ProcessGroupCollection) -> None:
    other = TinyStage(groups)
    hook = Hook(name="other", phase="before_wrap", function=lambda stages, context: [other])
    assert unwrapped(build(groups, hook, wrap=MegatronDDP())) is other


def test_parameters_that_a_hook_adds_get_the_attributes_of_the_engine(groups: ProcessGroupCollection) -> None:
    def adapt(stages: list[nn.Module], context: BuildContext) -> None:
        assert not hasattr(stages[0].scale, "tensor_model_parallel")
        stages[0].adapter = nn.Linear(8, 8)

    stage = build(groups, Hook(name="adapt", phase="before_wrap", function=adapt))
    attributes = {name: p.tensor_model_parallel for name, p in stage.named_parameters()}
    assert attributes == {
        "linear.weight": True,
        "linear.bias": True,
        "scale": False,
        "adapter.weight": False,
        "adapter.bias": False,
    }


def test_a_failing_hook_is_named(groups: ProcessGroupCollection) -> None:
    def fail(stages: list[nn.Module], context: BuildContext) -> None:
        raise KeyError("lora")

    with pytest.raises(HookError) as caught:
        build(groups, Hook(name="adapt", phase="after_wrap", function=fail))
    assert facts(caught.value) == "`adapt` after_wrap 0 KeyError 'lora'"


def test_groups_are_checked_before_anything_is_built(groups: ProcessGroupCollection) -> None:
    def build_stage(vp_stage: int | None) -> nn.Module:
        raise AssertionError("built all the same")

    with pytest.raises(BuildError, match=r"`tp` .*1 .*2"):
        build(groups, build_stage=build_stage, parallelism=Parallelism(tensor=2))


@pytest.mark.parametrize(("params", "field"), [("bfloat16", "bf16"), ("float16", "fp16")])
def test_precision(groups: ProcessGroupCollection, params: Literal["bfloat16", "float16"], field: str) -> None:
    config = engine_config(**{field: True})
    stage = build(
        groups, build_stage=lambda vp_stage: TinyStage(groups, config), precision=Precision(params=params), seed=1
    )
    assert type(stage) is Float16Module
    dtype = getattr(torch, params)
    assert {p.dtype for p in stage.parameters()} == {dtype}
    exact = build(groups, seed=1)
    assert torch.equal(unwrapped(stage).linear.weight, exact.linear.weight.to(dtype))
    hidden: Tensor = torch.linspace(-1, 1, 8)
    output = stage(hidden)
    assert output.dtype == torch.float32
    assert torch.allclose(output, exact(hidden), atol=2e-3)


def test_what_is_kept_in_float32_was_never_cast_down(groups: ProcessGroupCollection) -> None:
    """The values are those of a float32 build, in every bit; the others are rounded."""
    whole = build(groups, seed=3)
    precision = Precision(params="bfloat16", keep_float32=("linear.w*",))
    stage = unwrapped(
        build(
            groups,
            seed=3,
            precision=precision,
            build_stage=lambda vp_stage: TinyStage(groups, engine_config(bf16=True)),
        )
    )
    assert stage.linear.weight.dtype is torch.float32
    assert torch.equal(stage.linear.weight, whole.linear.weight)
    assert stage.linear.bias.dtype is torch.float32  # computed together with the weight


def test_a_pattern_that_names_nothing_is_refused(groups: ProcessGroupCollection) -> None:
    precision = Precision(params="bfloat16", keep_float32=("*linaer*",))
    with pytest.raises(PrecisionError) as caught:
        build(groups, precision=precision, build_stage=lambda vp_stage: TinyStage(groups, engine_config(bf16=True)))
    assert facts(caught.value) == "`precision.keep_float32` '*linaer*' 3 `linear.bias`"


def test_fsdp2_refuses_two_number_formats(groups: ProcessGroupCollection) -> None:
    """Those that the stages themselves bring; what the config says is refused before the build."""

    def halve(stages: list[nn.Module], context: BuildContext) -> None:
        stages[0].linear.half()

    hook = Hook(name="half", phase="before_wrap", function=halve)
    with pytest.raises(WrapError) as caught:
        build(groups, hook, wrap=TorchFSDP2())
    assert facts(caught.value) == "`wrap.kind: fsdp2` `ddp`"


class Rounded(Precision):
    """Float32 parameters, with every output rounded to whole numbers."""


class Rounding(nn.Module):
    """A custom wrapper."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.module(hidden)
        return output.round()


def test_a_precision_of_ones_own(groups: ProcessGroupCollection) -> None:
    in_precision.register(Rounded, lambda precision, stage: Rounding(stage))
    stage = build(groups, precision=Rounded(), seed=1)
    assert isinstance(stage, Rounding)
    assert isinstance(unwrapped(stage), TinyStage)
    hidden = torch.full((8,), 100.0)
    assert torch.equal(stage(hidden), build(groups, seed=1)(hidden).round())
    assert isinstance(build(groups, precision=Precision()), TinyStage)
