"""A part that does not fit its slot is refused when the spec is made. Building does not change a spec."""

import dataclasses
import functools
from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn

from modelwright.layers import (
    AttentionLayerSpec,
    LatentAttentionLayerSpec,
    LatentAttentionSpec,
    MlpLayerSpec,
    MlpSpec,
    MoeLayerSpec,
    MoeSpec,
    SelfAttentionSpec,
    SequentialExpertsSpec,
    SharedExpertsSpec,
    StackSpec,
    TorchNorm,
)
from modelwright.protocols import ConformanceError, ModelwrightError
from packages.layers.tests.toy import ToyBuilder, ToyConfig, build
from tests.messages import facts

SPECS = (
    SelfAttentionSpec,
    MlpSpec,
    AttentionLayerSpec,
    MlpLayerSpec,
    SequentialExpertsSpec,
    SharedExpertsSpec,
    MoeSpec,
    MoeLayerSpec,
    LatentAttentionSpec,
    LatentAttentionLayerSpec,
    StackSpec,
)


class WrongMlp(nn.Module):
    """Asks for what no slot passes, and cannot be called as the layer calls."""

    def __init__(self, *, hidden_size: int, pg_collection: Any, is_mtp_layer: bool, name: str | None) -> None:
        super().__init__()

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden


class Unfit:
    """Fits no slot: every one passes something."""

    def __init__(self) -> None: ...


def test_a_wrong_part_is_refused_before_any_group_exists() -> None:
    assert not torch.distributed.is_initialized()
    with pytest.raises(ConformanceError) as caught:
        MlpLayerSpec(mlp=WrongMlp)  # type: ignore[arg-type]
    assert facts(caught.value) == (
        "`WrongMlp` `MlpBuilder`\n"
        '`config` `config: TransformerConfig` `**kwargs` `adapt(..., drop=("config",))`\n'
        "`hidden_size` `functools.partial(..., hidden_size=...)`\n"
        "`forward` `padding_mask` `padding_mask: Tensor | None` `**kwargs`\n"
        "`forward` `Tensor` `tuple[Tensor, Tensor | None]`"
    )


@pytest.mark.parametrize(
    ("spec", "slot"), [(spec, field.name) for spec in SPECS for field in dataclasses.fields(spec)], ids=str
)
def test_every_slot_is_checked(spec: Any, slot: str) -> None:
    with pytest.raises(ConformanceError, match=r"^`Unfit` .*`\w+Builder`"):
        spec(**{slot: Unfit})
    with pytest.raises(ConformanceError, match=r"^`Unfit` .*`\w+Builder`"):
        dataclasses.replace(spec(), **{slot: Unfit})


@pytest.mark.parametrize("spec", SPECS)
def test_specs_are_frozen_values(spec: Any) -> None:
    assert spec() == spec()
    field = dataclasses.fields(spec)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec(), field, None)


def test_an_instance_is_not_a_builder() -> None:
    with pytest.raises(ConformanceError, match="pass the class"):
        MlpLayerSpec(mlp=WrongMlp(hidden_size=1, pg_collection=None, is_mtp_layer=False, name=None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("norms", "qk_norm", "expected"),
    [
        (
            {"q_layernorm": TorchNorm, "k_layernorm": TorchNorm},
            False,
            "`q_layernorm` None `qk_norm`",
        ),
        (
            {"q_layernorm": TorchNorm},
            True,
            "`k_layernorm` None `TorchNorm` `qk_norm`",
        ),
    ],
)
def test_spec_and_config_agree_on_norms_of_queries_and_keys(
    groups: ProcessGroupCollection, norms: dict[str, Any], qk_norm: bool, expected: str
) -> None:
    """The engine says it too, with `when instantiating _Built` once a level."""
    spec = StackSpec(attention=AttentionLayerSpec(self_attention=SelfAttentionSpec(**norms)))
    with pytest.raises(ModelwrightError) as caught:
        ToyBuilder(ToyConfig(qk_norm=qk_norm), spec=spec).build_model(groups)
    assert facts(caught.value) == expected


def test_what_a_part_raises_for_another_reason_comes_through(groups: ProcessGroupCollection) -> None:
    def broken(**_: Any) -> Any:
        raise ZeroDivisionError("of the test")

    with pytest.raises(ZeroDivisionError, match=r"^of the test"):
        ToyBuilder(ToyConfig(), spec=StackSpec(final_norm=broken)).build_model(groups)


def test_one_spec_makes_many_models(groups: ProcessGroupCollection) -> None:
    """The engine replaces parts on the submodules that it is given; ours are made anew for each layer."""
    spec = StackSpec(final_norm=functools.partial(TorchNorm, eps=1e-3))
    before = _leaves(spec)
    first, second = build(groups, spec=spec), build(groups, spec=spec)
    assert _leaves(spec) == before
    assert all(now is then for now, then in zip(_leaves(spec).values(), before.values(), strict=True))
    assert not {id(m) for m in first.modules()} & {id(m) for m in second.modules()}
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    assert _shapes(first) == _shapes(second)


def _leaves(spec: Any, path: str = "") -> dict[str, Any]:
    """Every builder of a spec by its path, nested specs opened."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(spec):
        part, name = getattr(spec, field.name), f"{path}.{field.name}"
        found[name] = part
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            found |= _leaves(part, name)
    return found


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
