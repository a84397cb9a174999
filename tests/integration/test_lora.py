"""The two users of hooks that come with the packages: freezing by pattern, and LoRA adapters, on two ranks."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelwright.builders import BuildContext, Hook
from modelwright.config import MegatronDDP, NoWrap, Parallelism, Precision, RunConfig, TorchFSDP2, TrainConfig, replace
from modelwright.testing import RankError, RankPool
from tests.integration.jobs import TINY
from tests.messages import facts

RUN = RunConfig(model=TINY, train=TrainConfig(steps=10, micro_batch=2, global_batch=8, lr=1e-2))
SLOTS: Any = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")
type Curve = list[tuple[float, float]]


def adapted() -> dict[str, Any]:
    """Arguments of `train` and `builder_for` to train adapters in every linear and nothing else."""
    from modelwright.distributed import train_only
    from modelwright.layers import decoder_stack, with_lora

    return {
        "spec": with_lora(decoder_stack(TINY), rank=4, alpha=8, slots=SLOTS),
        "hooks": [train_only("*.lora_?")],
    }


def curve(run: RunConfig, folder: Path | None = None, resume: Path | None = None) -> Curve:
    """Loss and gradient norm of every step."""
    from modelwright.training import train

    return [(record.loss, record.grad_norm) for record in train(run, **adapted(), out=folder, resume=resume)]


def logits(run: RunConfig, folder: Path | None, lora: bool) -> Tensor:
    """[b, s, v] on one rank; of the weights of a run without adapters where its folder is given."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize
    from modelwright.training import TrainState, latest_checkpoint, load_checkpoint

    def load(stages: list[nn.Module], context: BuildContext) -> None:
        if folder is not None:
            state = TrainState(stages, context.pg_collection)
            load_checkpoint(state, latest_checkpoint(folder)[1], keep=("*.lora_?",) if lora else ())

    given = adapted() if lora else {"hooks": []}
    given["hooks"].append(Hook(name="load", phase="before_wrap", function=load))
    builder = builder_for(run.model, **given)
    (model,) = builder.build_for_inference(initialize(Parallelism()), parallelism=Parallelism(), precision=Precision())
    tokens_BS = torch.arange(64)[None] * 7 % 256
    with torch.no_grad():
        answer: Tensor = model(tokens_BS, torch.arange(64)[None], None)
    return answer


class Watcher:
    """An observer that remembers what the model began with."""

    def __init__(self) -> None:
        self.stages: list[nn.Module] = []
        self.first: dict[str, Tensor] = {}

    def on_start(self, run: RunConfig, stages: list[nn.Module], first_step: int) -> None:
        self.stages = stages
        self.first = {name: value.detach().clone() for name, value in stages[0].named_parameters()}

    def on_step(self, record: object) -> None: ...

    def on_checkpoint(self, path: Path, step: int) -> None: ...


def changed(run: RunConfig) -> tuple[set[str], set[str]]:
    """Names of the parameters that ten steps changed, and of those that they left."""
    from modelwright.training import train

    watcher = Watcher()
    train(run, **adapted(), callback=watcher)
    now = dict(watcher.stages[0].named_parameters())
    moved = {name for name, value in watcher.first.items() if not torch.equal(value, now[name])}
    return moved, set(now) - moved


def buffered(wrap: MegatronDDP) -> tuple[int, int, int]:
    """Elements of DDP's buffers, and of the trainable and all parameters."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize

    (stage,) = builder_for(TINY, **adapted()).build_distributed_models(
        initialize(Parallelism(data=2)), parallelism=Parallelism(data=2), precision=Precision(), wrap=wrap
    )
    wrapped: Any = stage
    held = {id(parameter): parameter for buffer in wrapped.buffers for parameter in buffer.params}
    trained = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    assert set(held) == {id(parameter) for parameter in trained}
    sizes = [sum(parameter.numel() for parameter in some) for some in (held.values(), trained, stage.parameters())]
    return sizes[0], sizes[1], sizes[2]


def trained_names(run: RunConfig, *hooks: Hook) -> set[str]:
    """Names, in the stages of this rank, of what is trained."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize

    stages = builder_for(run.model, hooks=hooks).build_distributed_models(
        initialize(run.parallelism), parallelism=run.parallelism, precision=Precision(), wrap=NoWrap()
    )
    return {name for stage in stages for name, value in stage.named_parameters() if value.requires_grad}


def frozen_run(run: RunConfig, *patterns: str) -> Curve:
    from modelwright.distributed import freeze
    from modelwright.training import train

    return [(record.loss, record.grad_norm) for record in train(run, hooks=[freeze(*patterns)])]


def frozen_names(run: RunConfig, pattern: str) -> set[str]:
    from modelwright.distributed import freeze

    return trained_names(run) - trained_names(run, freeze(pattern))


@pytest.fixture(scope="module")
def one_rank(two_ranks: RankPool) -> Curve:
    return two_ranks.run(curve, RUN, ranks=1)[0]


def test_a_model_with_adapters_starts_as_the_one_without(two_ranks: RankPool) -> None:
    with_adapters = two_ranks.run(logits, RUN, None, True, ranks=1)[0]
    assert torch.equal(with_adapters, two_ranks.run(logits, RUN, None, False, ranks=1)[0])


def test_adapters_are_added_to_a_trained_model(two_ranks: RankPool, tmp_path: Path) -> None:
    """A hook loads the checkpoint of a run without adapters, which another layout wrote."""
    run = replace(RUN, train=replace(RUN.train, steps=2), parallelism=Parallelism(tensor=2))
    two_ranks.run(trained_without, run, tmp_path)
    with_adapters = two_ranks.run(logits, RUN, tmp_path, True, ranks=1)[0]
    assert torch.equal(with_adapters, two_ranks.run(logits, RUN, tmp_path, False, ranks=1)[0])
    assert not torch.equal(with_adapters, two_ranks.run(logits, RUN, None, True, ranks=1)[0])


def trained_without(run: RunConfig, folder: Path) -> None:
    from modelwright.training import train

    train(run, out=folder)


def test_ten_steps_change_the_adapters_and_nothing_else(two_ranks: RankPool) -> None:
    moved, left = two_ranks.run(changed, RUN, ranks=1)[0]
    assert len(moved) == 2 * len(SLOTS) * TINY.num_layers
    assert all(name.endswith((".lora_a", ".lora_b")) for name in moved)
    assert not any("lora" in name for name in left)


def test_the_adapters_learn(one_rank: Curve) -> None:
    assert one_rank[-1][0] < one_rank[0][0] - 0.2


@pytest.mark.parametrize(
    "parallelism",
    [
        Parallelism(tensor=2),
        Parallelism(tensor=2, sequence=True),
        Parallelism(pipeline=2),
        Parallelism(pipeline=2, virtual_pipeline=2),
        Parallelism(data=2),
    ],
    ids=["tensor 2", "tensor 2, sequence", "pipeline 2", "pipeline 2 × virtual 2", "data 2"],
)
def test_every_layout_trains_the_same_adapters(parallelism: Parallelism, one_rank: Curve, two_ranks: RankPool) -> None:
    for found in two_ranks.run(curve, replace(RUN, parallelism=parallelism)):
        assert close(found, one_rank)


def close(found: Curve, expected: Curve) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(abs(a - b) <= 1e-4 for one, other in pairs for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "wrap",
    [TorchFSDP2(), MegatronDDP(distributed_optimizer=True), MegatronDDP(overlap_grad_reduce=True, bucket_size=1000)],
    ids=["fsdp2", "distributed optimizer", "overlapped"],
)
def test_every_wrap_trains_the_same_adapters(wrap: Any, one_rank: Curve, two_ranks: RankPool) -> None:
    for found in two_ranks.run(curve, replace(RUN, parallelism=Parallelism(data=2), wrap=wrap)):
        assert close(found, one_rank)


@pytest.mark.parametrize("wrap", [MegatronDDP(), MegatronDDP(distributed_optimizer=True)])
def test_the_buffers_of_ddp_hold_what_is_trained(wrap: MegatronDDP, two_ranks: RankPool) -> None:
    for held, trained, every in two_ranks.run(buffered, wrap):
        assert held == trained
        assert trained < every / 4


def test_a_run_goes_on_under_another_layout(one_rank: Curve, two_ranks: RankPool, tmp_path: Path) -> None:
    run = replace(RUN, train=replace(RUN.train, checkpoint_interval=6), parallelism=Parallelism(tensor=2))
    two_ranks.run(curve, run, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000010")
    gone_on = two_ranks.run(curve, replace(run, parallelism=Parallelism(pipeline=2)), None, tmp_path)[0]
    assert close(gone_on, one_rank[6:])


def test_freezing_is_by_name_in_the_whole_model(two_ranks: RankPool) -> None:
    """Layer 5 is the second layer of the second stage, where it is called `decoder.layers.1`."""
    run = replace(RUN, parallelism=Parallelism(pipeline=2))
    first, second = two_ranks.run(frozen_names, run, "decoder.layers.5.*")
    assert first == set()
    assert second == {
        f"decoder.layers.1.{name}"
        for name in ("pre_mlp_layernorm.weight", "mlp.linear_fc1.weight", "mlp.linear_fc2.weight")
    }


def test_a_tied_embedding_is_frozen_on_both_of_its_stages(two_ranks: RankPool) -> None:
    run = replace(RUN, model=replace(TINY, tie_embeddings=True), parallelism=Parallelism(pipeline=2))
    first, second = two_ranks.run(frozen_names, run, "embedding.*")
    assert first == {"embedding.word_embeddings.weight"}
    assert second == {"output_layer.weight"}


@pytest.mark.parametrize("tied", [False, True])
def test_a_frozen_embedding_trains_alike_on_two_stages(tied: bool, two_ranks: RankPool) -> None:
    run = replace(RUN, model=replace(TINY, tie_embeddings=tied), train=replace(RUN.train, steps=5))
    alone = two_ranks.run(frozen_run, run, "embedding.*", ranks=1)[0]
    staged = two_ranks.run(frozen_run, replace(run, parallelism=Parallelism(pipeline=2)), "embedding.*")
    assert all(close(found, alone) for found in staged)


@pytest.mark.parametrize("parallelism", [Parallelism(tensor=2), Parallelism(pipeline=2)], ids=["tensor", "pipeline"])
def test_a_pattern_that_names_nothing_fails_everywhere(parallelism: Parallelism, two_ranks: RankPool) -> None:
    with pytest.raises(RankError) as caught:
        two_ranks.run(frozen_names, replace(RUN, parallelism=parallelism), "decoder.layers.8.*")
    assert "FreezeError `freeze` 'decoder.layers.8.*' 27 `decoder.final_norm.weight`" in facts(caught.value)
