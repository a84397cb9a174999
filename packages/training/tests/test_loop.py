"""A whole run on one rank, with the engine's schedule and optimizer over a model of the tests."""

import dataclasses
import itertools
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from torch import nn

from modelwright.builders import BuilderError, Hook
from modelwright.config import (
    ConstantSchedule,
    MegatronDDP,
    NoWrap,
    Precision,
    RunConfig,
    TorchFSDP2,
    Wrap,
    replace,
)
from modelwright.distributed import unwrapped
from modelwright.protocols import ModelwrightError
from modelwright.training import (
    StepRecord,
    Text,
    TrainingError,
    builder_of,
    checkpoint_path,
    checkpoints,
    prepare_text,
    train,
    training_batch,
    validation_batch,
)
from modelwright.training import step as step_module
from packages.training.tests.tiny import Bigram, BigramBuilder, bigram_run
from tests.messages import facts

pytestmark = pytest.mark.usefixtures("engine")


class Diary:
    """A callback that records its events."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_start(self, run: RunConfig, stages: list[nn.Module], first_step: int) -> None:
        self.told.append(("started", run.parallelism.data, type(unwrapped(stages[0])), first_step))

    def on_step(self, record: StepRecord) -> None:
        self.told.append(record)

    def on_checkpoint(self, path: Path, step: int) -> None:
        assert path.is_dir()
        self.told.append(("saved", path.name, step))


def values(records: Sequence[StepRecord]) -> list[dict[str, float | None]]:
    """Everything but the clock, and what a meter measured."""
    given = [dataclasses.asdict(record) for record in records]
    return [{name: value for name, value in one.items() if name not in ("tokens_per_s", "more")} for one in given]


def test_the_loss_falls() -> None:
    records = train(bigram_run(20))
    assert [record.step for record in records] == list(range(1, 21))
    assert records[0].loss > 5.3
    assert records[-1].loss < records[0].loss - 1
    assert all(record.tokens_per_s > 0 and record.grad_norm > 0 for record in records)


def test_every_step_is_that_of_torch_adamw() -> None:
    """The same weights and batches, by torch's own AdamW and clipping, without the engine."""
    start: dict[str, torch.Tensor] = {}

    def keep(stages: list[nn.Module], context: object) -> None:
        start.update({name: value.detach().clone() for name, value in unwrapped(stages[0]).state_dict().items()})

    run = bigram_run(5, lr_schedule=ConstantSchedule(), weight_decay=0.5, clip_grad=0.5, adam_beta2=0.9, adam_eps=1e-6)
    records = train(run, hooks=[Hook(name="keep", phase="after_wrap", function=keep)])
    model = Bigram(run.model)
    model.load_state_dict(start)
    assert [record.loss for record in records] == pytest.approx(by_torch(model, run, prepare_text(run)), abs=1e-5)
    assert min(record.grad_norm for record in records) > 0.5


def by_torch(model: nn.Module, run: RunConfig, text: Text) -> list[float]:
    """Losses of the same run; biases do not decay."""
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) == flat] for flat in (True, False))
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        lr=run.train.lr,
        betas=(run.train.adam_beta1, run.train.adam_beta2),
        eps=run.train.adam_eps,
        weight_decay=run.train.weight_decay,
    )
    losses = []
    for step in range(1, run.train.steps + 1):
        batch = training_batch(text, seed=run.train.seed, step=step, size=run.train.global_batch, seq_length=16)
        loss = model(batch.tokens_BS, labels=batch.labels_BS).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), run.train.clip_grad)
        optimizer.step()
    return losses


def test_micro_batches_change_nothing() -> None:
    one, four = (values(train(bigram_run(4, micro_batch=size))) for size in (4, 1))
    for ours, theirs in zip(one, four, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_the_seed_decides() -> None:
    first, again, other = (values(train(bigram_run(2, seed=seed))) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_validation_is_measured_at_intervals_and_at_the_end() -> None:
    trained: list[nn.Module] = []

    def keep(stages: list[nn.Module], context: object) -> None:
        trained.extend(stages)

    run = bigram_run(5, eval_interval=2, eval_batches=3)
    records = train(run, hooks=[Hook(name="keep", phase="after_wrap", function=keep)])
    assert [record.step for record in records if record.val_loss is not None] == [2, 4, 5]
    batch = validation_batch(prepare_text(run), size=12, seq_length=16)
    with torch.no_grad():
        expected = trained[0](batch.tokens_BS, None, None, labels=batch.labels_BS).mean().item()
    assert records[-1].val_loss == pytest.approx(expected, abs=1e-5)
    assert trained[0].training


def test_an_observer_is_told_in_order(tmp_path: Path) -> None:
    diary = Diary()
    records = train(bigram_run(3, checkpoint_interval=2), out=tmp_path, callback=diary)
    assert diary.told == [
        ("started", 1, Bigram, 1),
        records[0],
        records[1],
        ("saved", "step-00000002", 2),
        records[2],
        ("saved", "step-00000003", 3),
    ]


def test_without_out_nothing_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(bigram_run(1))
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_is_the_unbroken_run(tmp_path: Path) -> None:
    unbroken = train(bigram_run(6, checkpoint_interval=3, keep_checkpoints=1), out=tmp_path / "whole")
    assert [step for step, _ in checkpoints(tmp_path / "whole")] == [6]
    half = train(bigram_run(6, checkpoint_interval=3), out=tmp_path / "half")
    (_, last) = checkpoints(tmp_path / "half")[-1]
    last.rename(last.with_name(".set-aside"))
    diary = Diary()
    rest = train(bigram_run(6), resume=tmp_path / "half", callback=diary)
    assert diary.told[0] == ("started", 1, Bigram, 4)
    assert values(half) == values(unbroken)
    for ours, theirs in zip(values(rest), values(unbroken)[3:], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_a_longer_run_goes_on_by_its_own_schedule(tmp_path: Path) -> None:
    train(bigram_run(2), out=tmp_path)
    rest = train(bigram_run(4), resume=tmp_path)
    assert [record.lr for record in rest] == [record.lr for record in train(bigram_run(4))[2:]]
    assert rest[0].lr > 0


def test_a_builder_gets_the_spec_only_where_there_is_one() -> None:
    assert isinstance(builder_of(bigram_run()), BigramBuilder)
    with pytest.raises(BuilderError, match="spec"):
        builder_of(replace(bigram_run(), stack="mine"))


def test_gradients_need_a_wrap() -> None:
    with pytest.raises(ModelwrightError) as caught:
        train(replace(bigram_run(), wrap=NoWrap()))
    assert facts(caught.value) == "`wrap.kind`"


def test_a_meter_is_asked_after_every_step() -> None:
    """It receives the stages once, and its metrics are in the records."""
    shown: list[str] = []

    def meter(stages: Sequence[nn.Module], pg_collection: Any, /) -> Any:
        shown.append(f"{type(unwrapped(stages[0])).__name__} on {pg_collection.dp.size()} rank")
        counts = iter(range(100))
        return lambda: {"asked": next(counts)}

    records = train(bigram_run(3), metrics_callback=meter)
    assert shown == ["Bigram on 1 rank"]
    assert [record.more for record in records] == [{"asked": 0}, {"asked": 1}, {"asked": 2}]
    assert train(bigram_run(1))[0].more == {}


def test_a_metrics_callback_cannot_replace_what_a_step_records() -> None:
    """A `loss` of its own would silently take the place of the loss."""
    with pytest.raises(ModelwrightError, match="`loss`, `lr`"):
        train(bigram_run(1), metrics_callback=lambda stages, groups: lambda: {"lr": 1.0, "loss": 0.0, "mine": 2.0})


@pytest.mark.parametrize(
    "wrap", [MegatronDDP(), MegatronDDP(distributed_optimizer=True), TorchFSDP2()], ids=["ddp", "distributed", "fsdp2"]
)
def test_a_resumed_run_equals_the_unbroken_one(wrap: Wrap, tmp_path: Path) -> None:
    run = replace(bigram_run(4, checkpoint_interval=2), wrap=wrap)
    unbroken = train(run, out=tmp_path)
    shutil.rmtree(checkpoint_path(tmp_path, 4))
    resumed = train(run, resume=tmp_path)
    assert [(it.loss, it.grad_norm, it.lr) for it in resumed] == [(it.loss, it.grad_norm, it.lr) for it in unbroken[2:]]


def spoiled(records: list[tuple[float, bool]], **train_options: Any) -> list[StepRecord]:
    """Train with a loss that is multiplied by a factor at each step, and return the records of all steps."""
    factors = iter(factor for factor, _ in records)

    def spoil(stages: list[nn.Module], context: object) -> None:
        def multiply(module: nn.Module, inputs: object, losses: torch.Tensor) -> torch.Tensor:
            return losses * next(factors) if module.training else losses

        unwrapped(stages[0]).register_forward_hook(multiply)

    hook = Hook(name="spoil", phase="after_wrap", function=spoil)
    diary = Diary()
    run = bigram_run(len(records), micro_batch=4, lr_schedule=ConstantSchedule(warmup_steps=5), **train_options)
    try:
        return train(run, hooks=[hook], callback=diary)
    except TrainingError:
        return [event for event in diary.told if isinstance(event, StepRecord)]


@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf, 1e38])
def test_a_step_that_is_not_finite_changes_nothing_and_the_schedule_waits(factor: float) -> None:
    """A loss of 1e38 is finite, but its gradient overflows in the norm."""
    clean = spoiled([(1.0, False)] * 4)
    records = spoiled([(1.0, False), (1.0, False), (factor, True), (1.0, False), (1.0, False)])
    assert [record.skipped for record in records] == [False, False, True, False, False]
    assert math.isnan(records[2].grad_norm)
    assert [record.lr for record in records] == [clean[0].lr, clean[1].lr, clean[2].lr, clean[2].lr, clean[3].lr]
    assert all(math.isfinite(record.loss) and math.isfinite(record.grad_norm) for record in records[3:])


def test_a_run_stops_after_steps_that_are_not_finite_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    def poison(stages: list[nn.Module], context: object) -> None:
        calls = itertools.count(1)

        def spoil(module: nn.Module, inputs: object, losses: torch.Tensor) -> torch.Tensor:
            return losses * (math.nan if next(calls) > 4 else 1.0)

        unwrapped(stages[0]).register_forward_hook(spoil)

    hook = Hook(name="poison", phase="after_wrap", function=poison)
    run = bigram_run(50, micro_batch=4, checkpoint_interval=2, max_skipped_steps=3, keep_checkpoints=1)
    diary = Diary()
    with pytest.raises(TrainingError) as caught:
        train(run, hooks=[hook], out=tmp_path, callback=diary)
    assert facts(caught.value).startswith("`train.max_skipped_steps` 3 3 7 nan `train.lr` `precision.params`")
    assert [record.skipped for record in diary.told if isinstance(record, StepRecord)] == [False] * 4 + [True] * 3
    rest = train(replace(run, train=replace(run.train, steps=9)), resume=tmp_path)
    assert [(record.step, record.skipped) for record in rest][-2:] == [(8, False), (9, False)]
    assert all(math.isfinite(record.loss) for record in rest)


def test_steps_that_are_not_finite_may_be_interrupted() -> None:
    factors = [math.nan, 1.0] * 6
    records = spoiled([(factor, factor != 1.0) for factor in factors], max_skipped_steps=2)
    assert [record.skipped for record in records] == [True, False] * 6


def test_an_overflow_in_float16_is_recorded_as_skipped() -> None:
    """The scale of the loss is lowered until the gradient fits."""
    run = bigram_run(8, lr_schedule=ConstantSchedule(), lr=1e-3)
    records = train(replace(run, precision=Precision(params="float16")), hooks=[scaled_by(100.0)])
    skipped = [record.skipped for record in records]
    assert skipped[0]
    assert skipped == sorted(skipped, reverse=True)
    assert not skipped[-1]
    assert [math.isnan(record.grad_norm) for record in records] == skipped
    assert all(math.isfinite(record.loss) for record in records)


def scaled_by(factor: float) -> Hook:
    def scale(stages: list[nn.Module], context: object) -> None:
        unwrapped(stages[0]).register_forward_hook(lambda module, inputs, losses: losses * factor)

    return Hook(name="scale", phase="after_wrap", function=scale)


def test_a_fraction_of_zero_leaves_no_validation(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(bytes(range(250)))
    records = train(bigram_run(2, data=str(path), validation_fraction=0.0))
    assert [record.val_loss for record in records] == [None, None]


def test_every_step_and_every_sequence_has_a_draw_of_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation has none, and none is left after a batch."""
    drawn: list[tuple[int, int, list[int]]] = []
    given = step_module.set_dropout_draw

    def record(*, seed: int, step: int, sequences_B: torch.Tensor) -> None:
        drawn.append((seed, step, sequences_B.tolist()))
        given(seed=seed, step=step, sequences_B=sequences_B)

    monkeypatch.setattr(step_module, "set_dropout_draw", record)
    run = bigram_run(3, micro_batch=2, global_batch=4)
    train(replace(run, train=replace(run.train, seed=5, eval_interval=1)))
    assert drawn == [(5, step, first) for step in (1, 2, 3) for first in ([0, 1], [2, 3])]
    assert "modelwright-dropout" not in get_cuda_rng_tracker().get_states()


def test_an_error_leaves_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object, **named: object) -> object:
        raise ZeroDivisionError("of the test")

    monkeypatch.setattr(step_module, "reduced_loss", fails)
    with pytest.raises(ZeroDivisionError, match="of the test"):
        train(bigram_run(1, micro_batch=4))
    assert "modelwright-dropout" not in get_cuda_rng_tracker().get_states()


def test_the_config_of_the_engine_does_not_keep_the_optimizer() -> None:
    kept: list[Any] = []

    def keep(stages: list[nn.Module], context: object) -> None:
        kept.append(unwrapped(stages[0]).config)

    train(bigram_run(1), hooks=[Hook(name="keep", phase="after_wrap", function=keep)])
    names = ("grad_scale_func", "finalize_model_grads_func", "no_sync_func", "grad_sync_func")
    assert [getattr(kept[0], name) for name in names] == [None] * 4
