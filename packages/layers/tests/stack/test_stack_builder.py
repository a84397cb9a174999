"""The common base of the builders of all families."""

from dataclasses import replace
from typing import override

import pytest
import torch
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.process_groups_config import ProcessGroupCollection

from modelwright.builders import BuildContext, Hook, builder_for
from modelwright.config import MegatronDDP, Parallelism, Precision
from modelwright.distributed import BuildError, unwrapped
from modelwright.layers import LanguageModelShape, StackSpec
from modelwright.protocols import ModelwrightError
from packages.layers.tests.toy import ToyBuilder, ToyConfig, build, logits
from tests.messages import facts


def test_a_custom_config_finds_its_builder() -> None:
    builder = builder_for(ToyConfig(), spec=StackSpec())
    assert type(builder) is ToyBuilder
    assert builder.spec == StackSpec()


def test_one_stage_by_itself(groups: ProcessGroupCollection) -> None:
    """Parallelism and precision are read off the groups and left at float32."""
    stage = ToyBuilder(ToyConfig()).build_model(groups)
    assert type(stage) is HybridModel
    assert (stage.pre_process, stage.post_process) == (True, True)
    assert {p.dtype for p in stage.parameters()} == {torch.float32}
    assert logits(stage).shape == (1, 8, 32)


@pytest.mark.parametrize(("pre", "post"), [(True, False), (False, True), (False, False)])
def test_a_stage_without_its_ends(groups: ProcessGroupCollection, pre: bool, post: bool) -> None:
    stage = ToyBuilder(ToyConfig()).build_model(groups, pre_process=pre, post_process=post)
    ends = {name.partition(".")[0] for name, _ in stage.named_parameters()} - {"decoder"}
    assert ends == {end for end, held in (("embedding", pre), ("output_layer", post)) if held}
    assert hasattr(stage.decoder, "final_norm") == post


def test_the_same_seed_gives_the_same_model(groups: ProcessGroupCollection) -> None:
    first, second = build(groups), build(groups)
    for (name, one), (_, other) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert torch.equal(logits(first), logits(second))


def test_initial_deviations(groups: ProcessGroupCollection) -> None:
    """`init_std`, and for what writes to the residual stream, scaled by the number of layers."""
    model = build(groups, ToyConfig(hidden_size=256, init_std=0.1))
    deviation = {name: p.std().item() for name, p in model.named_parameters() if "norm" not in name}
    narrow = {name for name in deviation if "linear_proj" in name or "linear_fc2" in name}
    assert len(narrow) == 2
    for name, value in deviation.items():
        assert value == pytest.approx(0.1 / 2**0.5 if name in narrow else 0.1, rel=0.05), name


def test_hooks_precision_and_wrap_reach_the_lifecycle(groups: ProcessGroupCollection) -> None:
    seen: list[BuildContext] = []
    hook = Hook(name="look", phase="before_wrap", function=lambda stages, context: seen.append(context))
    builder = ToyBuilder(ToyConfig(), hooks=[hook])
    (stage,) = builder.build_distributed_models(
        groups, parallelism=Parallelism(), precision=Precision(params="bfloat16"), wrap=MegatronDDP()
    )
    assert seen[0].config is builder.config
    inner = unwrapped(stage)
    assert type(inner) is HybridModel
    assert inner.config.bf16 is True
    assert {p.dtype for p in stage.parameters()} == {torch.bfloat16}


class PatternBuilder(ToyBuilder):
    """Builder of a custom family with another pattern."""

    pattern = "*-"

    @override
    def shape(self, parallelism: Parallelism) -> LanguageModelShape:
        return replace(super().shape(parallelism), pattern=self.pattern)


@pytest.mark.parametrize(
    ("pattern", "symbol"),
    [
        ("*G", "`G`"),
        ("D-", "`D`"),
        ("*-/*", "`/`"),
        ("*-x", "`x`"),
    ],
)
def test_a_layer_that_no_spec_can_build_is_refused(
    groups: ProcessGroupCollection, pattern: str, symbol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine would build identity layers for it, or another model, without a word."""
    monkeypatch.setattr(PatternBuilder, "pattern", pattern)
    with pytest.raises(ModelwrightError) as caught:
        PatternBuilder(ToyConfig()).build_model(groups)
    assert facts(caught.value) == f"`M` `*` `+` `-` `E` `|` `StackSpec` {symbol}"


def test_groups_must_fit(groups: ProcessGroupCollection) -> None:
    with pytest.raises(BuildError, match=r"`pp` .*1 .*2"):
        ToyBuilder(ToyConfig()).build_distributed_models(
            groups, parallelism=Parallelism(pipeline=2), precision=Precision(), wrap=MegatronDDP()
        )
