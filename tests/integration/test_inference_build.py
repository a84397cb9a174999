"""Builds for inference, with the logits of a model in training, and the stages that hooks receive."""

from typing import TYPE_CHECKING, Any

import pytest

from modelwright.config import MegatronDDP, Parallelism, Precision, replace
from modelwright.testing import RankPool
from tests.integration.jobs import TINY

if TYPE_CHECKING:
    import torch

MODEL = replace(TINY, attention_dropout=0.1, hidden_dropout=0.1)
type Logits = "torch.Tensor | None"


def both_logits(parallelism: Parallelism) -> tuple[list[str], Logits, Logits]:
    """Return the problems of a stage for inference, and this rank's logits from it and from one in training."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize, unwrapped
    from modelwright.training import run_batch, synthetic_batch

    groups = initialize(parallelism)
    options: dict[str, Any] = {"parallelism": parallelism, "precision": Precision(), "seed": 3}
    batch = synthetic_batch(size=4, seq_length=TINY.seq_length, vocab_size=TINY.vocab_size, seed=1)

    def logits(stages: Any) -> Logits:
        seen: list[torch.Tensor] = []
        last = unwrapped(stages[-1])
        if last.post_process:
            last.output_layer.register_forward_hook(lambda module, inputs, output: seen.append(output[0].detach()))
        run_batch(stages, batch, groups, parallelism, micro_batch=2, forward_only=True)
        return torch.cat(seen, dim=1) if seen else None

    import torch

    inference = builder_for(MODEL).build_for_inference(groups, **options)
    wrong = [f"{type(stage).__name__} is in training mode" for stage in inference if stage.training]
    wrong += [f"{type(stage).__name__} is a wrap" for stage in inference if unwrapped(stage) is not stage]
    wrong += [name for stage in inference for name, p in stage.named_parameters() if p.requires_grad]
    training = builder_for(TINY).build_distributed_models(groups, wrap=MegatronDDP(), **options)
    if not all(stage.training for stage in training):
        wrong.append("training is not in training mode")
    return wrong, logits(inference), logits(training)


@pytest.mark.parametrize(
    "parallelism",
    [Parallelism(), Parallelism(tensor=2), Parallelism(pipeline=2), Parallelism(pipeline=2, virtual_pipeline=2)],
    ids=["one rank", "tensor 2", "pipeline 2", "virtual 2"],
)
def test_the_logits_are_those_of_training_mode(two_ranks: RankPool, parallelism: Parallelism) -> None:
    import torch

    ((_, _, expected),) = two_ranks.run(both_logits, Parallelism(), ranks=1)
    assert expected is not None
    assert expected.shape == (TINY.seq_length, 4, TINY.padded_vocab_size)
    found = two_ranks.run(both_logits, parallelism, ranks=parallelism.world_size())
    assert [wrong for wrong, _, _ in found] == [[]] * parallelism.world_size()
    held = [(ours, theirs) for _, ours, theirs in found if ours is not None and theirs is not None]
    assert len(held) == parallelism.tensor
    for ours, theirs in held:
        assert torch.equal(ours, theirs)
    assert torch.allclose(torch.cat([ours for ours, _ in held], dim=-1), expected, atol=1e-5)


def stages_that_hooks_see(parallelism: Parallelism) -> list[tuple[int, int, bool]]:
    """Return each stage of one rank: its number in the pipeline, its first layer, and True if it is the last."""
    from modelwright.builders import BuildContext, Hook, builder_for
    from modelwright.config import NoWrap
    from modelwright.distributed import initialize

    seen: list[tuple[int, int, bool]] = []

    def look(stages: Any, context: BuildContext) -> None:
        for number, stage in zip(context.stages, stages, strict=True):
            seen.append((number, stage.decoder.layers[0].layer_number - 1, stage.post_process))

    groups = initialize(parallelism)
    builder = builder_for(TINY, hooks=[Hook(name="look", phase="before_wrap", function=look)])
    builder.build_distributed_models(groups, parallelism=parallelism, precision=Precision(), wrap=NoWrap())
    return seen


def test_a_hook_knows_its_stages(two_ranks: RankPool) -> None:
    assert two_ranks.run(stages_that_hooks_see, Parallelism(pipeline=2, virtual_pipeline=2)) == [
        [(0, 0, False), (2, 4, False)],
        [(1, 2, False), (3, 6, True)],
    ]
