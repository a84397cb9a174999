"""`train`: a run from its config to its checkpoints, through the engine.

Everything that computes is the engine's; here is the order of the calls, and what an observer is told after each step.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch import nn

from modelwright.builders import Hook, ModelBuilder, builder_for
from modelwright.config import RunConfig, replace
from modelwright.distributed import initialize
from modelwright.training.checkpoint.run_folder import check_resumable, latest_checkpoint
from modelwright.training.checkpoint.save_load import TrainState, load_checkpoint, save_checkpoint
from modelwright.training.data.text import Text, language_shape, prepare, training_batch, validation_batch
from modelwright.training.optimizer import make_optimizer, make_schedule
from modelwright.training.step import connect, run_batch

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What a step did; one line of `metrics.jsonl`."""

    step: int
    """From 1."""
    loss: float
    """Mean over the tokens of the global batch, in nats per token."""
    grad_norm: float
    """Norm of the whole model's gradient before clipping."""
    lr: float
    """Learning rate of the step."""
    tokens_per_s: float
    """Of the whole job."""
    val_loss: float | None = None
    """On the held-out text, where it was measured."""
    more: Mapping[str, object] = field(default_factory=dict[str, object])
    """What the run's meter measured."""


class Meter(Protocol):
    """Makes what measures each step of a run beside its loss."""

    def __call__(
        self, stages: Sequence[nn.Module], pg_collection: "ProcessGroupCollection", /
    ) -> Callable[[], Mapping[str, object]]:
        """Look at a built model, once.

        Args:
            stages: Wrapped, of this rank.
            pg_collection: The process groups of this rank.

        Returns:
            What is called on every rank after each step, for values by name; the same on every rank.
        """
        ...


class Observer(Protocol):
    """What is told how a run goes; on every rank, in the same order."""

    def started(self, run: RunConfig, stages: list[nn.Module], first_step: int) -> None:
        """The model stands; `first_step` is the step that comes next."""
        ...

    def stepped(self, record: StepRecord) -> None:
        """A step is done."""
        ...

    def saved(self, path: Path, step: int) -> None:
        """A checkpoint is whole."""
        ...


def builder_of(run: RunConfig, *, spec: Any = None, hooks: Sequence[Hook] = ()) -> ModelBuilder[Any, Any]:
    """The builder of a run's model, with the spec that the file selected unless one is given.

    Args:
        run: The config.
        spec: A stack spec; the registered one that `stack:` names, else the family's own, when None.
        hooks: Run around the wrap.

    Returns:
        The builder.
    """
    backend = None if run.backend == "torch" else run.backend  # which a builder of one's own need not know of
    given: dict[str, Any] = {"spec": run.stack if spec is None else spec, "hooks": tuple(hooks), "backend": backend}
    return builder_for(run.model, **{name: value for name, value in given.items() if value})


def train(
    run: RunConfig,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    spec: Any = None,
    hooks: Sequence[Hook] = (),
    observer: Observer | None = None,
    meter: Meter | None = None,
) -> list[StepRecord]:
    """Train as one rank of the job that this process was started in, or alone.

    Args:
        run: The config.
        out: Folder for checkpoints; None saves none.
        resume: Folder of a run to go on with, from its newest checkpoint.
        spec: A stack spec in place of the one the config selects.
        hooks: Run around the wrap of the build.
        observer: Told about every step.
        meter: Measures every step; on every rank, as the observer need not be.

    Returns:
        A record of each step of this call, the same on every rank.

    Raises:
        ModelwrightError: The config does not fit the processes, the text or the checkpoint.
    """
    text = prepare(run)
    builder = builder_of(run, spec=spec, hooks=hooks)
    groups = initialize(run.parallelism, seed=run.train.seed)
    run = replace(run, parallelism=replace(run.parallelism, data=groups.dp.size()))
    stages = builder.build_distributed_models(
        groups, parallelism=run.parallelism, precision=run.precision, wrap=run.wrap, seed=run.train.seed
    )
    trainer = _Trainer(run, stages, groups, text)
    trainer.measure = meter(stages, groups) if meter is not None else None
    done = trainer.resume(resume) if resume is not None else 0
    if observer is not None:
        observer.started(run, stages, done + 1)
    records: list[StepRecord] = []
    for step in range(done + 1, run.train.steps + 1):
        record = trainer.step(step)
        records.append(record)
        if observer is not None:
            observer.stepped(record)
        if out is not None and trainer.is_due(step, run.train.checkpoint_interval):
            path = save_checkpoint(trainer.state, run, out, step)
            if observer is not None:
                observer.saved(path, step)
    return records


class _Trainer:
    """The model, its optimizer and its schedule, moved a step at a time."""

    def __init__(self, run: RunConfig, stages: list[nn.Module], groups: "ProcessGroupCollection", text: Text) -> None:
        self.run, self.stages, self.groups, self.text = run, stages, groups, text
        self.optimizer: Any = make_optimizer(stages, run.train, run.precision, groups)
        self.schedule = make_schedule(self.optimizer, run.train)
        self.state = TrainState(stages, groups, self.optimizer, self.schedule)
        self.measure: Callable[[], Mapping[str, object]] | None = None
        connect(stages, self.optimizer, groups)

    def resume(self, run_dir: Path) -> int:
        step, path = latest_checkpoint(run_dir)
        check_resumable(self.run, path)
        load_checkpoint(self.state, path)
        return step

    def is_due(self, step: int, interval: int | None) -> bool:
        return step == self.run.train.steps or (interval is not None and step % interval == 0)

    def step(self, step: int) -> StepRecord:
        train, (_, seq_length) = self.run.train, language_shape(self.run)
        start = time.perf_counter()
        # Dropout is a function of the seed and the step, so that a resumed run draws what the unbroken one draws.
        model_parallel_cuda_manual_seed(train.seed + 1_000_003 * step, force_reset_rng=True)
        batch = training_batch(self.text, seed=train.seed, step=step, size=train.global_batch, seq_length=seq_length)
        self._clear_gradients()
        loss = run_batch(self.stages, batch, self.groups, self.run.parallelism, micro_batch=train.micro_batch)
        lr = self.optimizer.param_groups[0]["lr"]
        _, grad_norm, _ = self.optimizer.step()
        self.schedule.step(increment=1)
        seconds = time.perf_counter() - start
        due = self.is_due(step, train.eval_interval)
        return StepRecord(
            step=step,
            loss=loss,
            grad_norm=float(grad_norm or 0.0),
            lr=lr,
            tokens_per_s=train.global_batch * seq_length / seconds,
            val_loss=self.validation_loss() if due else None,
            more=self.measure() if self.measure is not None else {},
        )

    def _clear_gradients(self) -> None:
        for stage in self.stages:
            clear: Callable[[], None] | None = getattr(stage, "zero_grad_buffer", None)
            if clear is not None:
                clear()
        self.optimizer.zero_grad()

    def validation_loss(self) -> float:
        train, (_, seq_length) = self.run.train, language_shape(self.run)
        size = train.eval_batches * train.global_batch
        batch = validation_batch(self.text, size=size, seq_length=seq_length)
        for stage in self.stages:
            stage.eval()
        with torch.no_grad():
            loss = run_batch(
                self.stages, batch, self.groups, self.run.parallelism, micro_batch=train.micro_batch, forward_only=True
            )
        for stage in self.stages:
            stage.train()
        return loss
