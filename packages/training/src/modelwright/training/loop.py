"""`train`: a run from its config to its checkpoints.

The engine does all the computing; this file calls it in order. `train` builds the model and loops, and `Trainer.step`
trains one step. `step.py` runs forward and backward. `optimizer.py` and `lr_schedule.py` make the engine's optimizer
and schedule.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch import nn

from modelwright.builders import AnyBuilder, Hook, builder_for
from modelwright.config import RunConfig
from modelwright.distributed import initialize
from modelwright.protocols import ModelwrightError
from modelwright.training.callbacks import Callback, MetricsCallback, StepRecord, checked_metrics
from modelwright.training.checkpoint.run_folder import latest_checkpoint
from modelwright.training.checkpoint.save_load import load_checkpoint, saving_into
from modelwright.training.checkpoint.start_checks import check_resumable, check_savable
from modelwright.training.checkpoint.train_state import TrainState
from modelwright.training.checkpoint.verification import naming_whole_checkpoint
from modelwright.training.data.batches import training_batch, validation_batch
from modelwright.training.data.text import Text, language_shape, prepare_text
from modelwright.training.engine_errors import naming_engine_errors
from modelwright.training.lr_schedule import make_lr_schedule
from modelwright.training.optimizer import make_optimizer
from modelwright.training.step import clear_gradients, run_batch
from modelwright.training.unsaved_scales import warn_of_unsaved_scales

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

    from modelwright.layers import StackSpec


def builder_of(run: RunConfig, *, spec: "StackSpec | None" = None, hooks: Sequence[Hook] = ()) -> AnyBuilder:
    """Return the builder of a run's model.

    Args:
        run: The config. Its `stack:` is the name of a registered spec, its `backend:` the library of the parts.
        spec: A stack spec to use instead of the one that the config selects. None: that of the config.
        hooks: Hooks that run around the data-parallel wrapper, in order.

    Returns:
        The builder that is registered for the config.

    Raises:
        BuilderError: The builder does not support the spec or the backend.
    """
    return builder_for(run.model, spec=run.stack if spec is None else spec, backend=run.backend, hooks=hooks)


def train(
    run: RunConfig,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    spec: "StackSpec | None" = None,
    hooks: Sequence[Hook] = (),
    callback: Callback | None = None,
    metrics_callback: MetricsCallback | None = None,
    verify: bool = True,
) -> list[StepRecord]:
    """Train as one rank of the job that this process was started in, or alone.

    Args:
        run: The config.
        out: Folder for checkpoints. None: none are saved.
        resume: Folder of a run to resume from its newest checkpoint. None: start from initial values.
        spec: A stack spec to use instead of the one that the config selects. None: that of the config.
        hooks: Hooks that run around the data-parallel wrapper, in order.
        callback: Receives the events of the run. It may be passed on some ranks only.
        metrics_callback: Makes the function that measures additional metrics. Pass it on every rank or on none.
        verify: Compare the checkpoint to resume from with its checksums.

    Returns:
        The record of each step of this call, the same on every rank except for `tokens_per_s`.

    Raises:
        ModelwrightError: The config does not fit the processes, the text or the checkpoint.
        TrainingError: The loss or the gradient was not finite for `train.max_skipped_steps` steps.
    """
    text = prepare_text(run)
    if out is not None:
        check_savable(run)
        warn_of_unsaved_scales(run)
    builder = builder_of(run, spec=spec, hooks=hooks)
    groups = initialize(run.parallelism, seed=run.train.seed)
    run = run.with_data_size(groups.dp.size())
    with naming_engine_errors("build", run):
        stages = builder.build_distributed_models(
            groups, parallelism=run.parallelism, precision=run.precision, wrap=run.wrap, seed=run.train.seed
        )
    trainer = Trainer(run, stages, groups, text, metrics_callback)
    done = trainer.resume(resume, verify=verify) if resume is not None else 0
    if out is None:
        return _run_steps(trainer, done, None, callback)
    with saving_into(out, trainer.state, run) as save:
        return _run_steps(trainer, done, save, callback)


def _run_steps(
    trainer: "Trainer", done: int, save: Callable[[int], Path] | None, callback: Callback | None
) -> list[StepRecord]:
    """Train the steps that are left, and save checkpoints when they are due."""
    run = trainer.run
    if callback is not None:
        callback.on_start(run, trainer.stages, done + 1)
    records: list[StepRecord] = []
    for step in range(done + 1, run.train.steps + 1):
        record = trainer.step(step)
        records.append(record)
        if callback is not None:
            callback.on_step(record)
        _check_progress(records, run)
        if save is not None and trainer.is_due(step, run.train.checkpoint_interval):
            path = save(step)
            if callback is not None:
                callback.on_checkpoint(path, step)
    return records


class TrainingError(ModelwrightError):
    """A run that stopped, because its loss or gradient was not finite for too many steps."""


class Trainer:
    """A built model with its optimizer and learning-rate schedule, advanced one step at a time.

    Args:
        run: The config; `parallelism.data` is the size that the job has.
        stages: The wrapped stages of this rank.
        groups: The process groups of this rank.
        text: The text to train on.
        metrics_callback: Makes the function that measures additional metrics. None: there are none.
    """

    def __init__(
        self,
        run: RunConfig,
        stages: list[nn.Module],
        groups: "ProcessGroupCollection",
        text: Text,
        metrics_callback: MetricsCallback | None = None,
    ) -> None:
        self.run = run
        self.stages = stages
        self.groups = groups
        self.text = text
        with naming_engine_errors("making the optimizer", run, stages):
            self.optimizer: Any = make_optimizer(stages, run.train, run.precision, groups)
        self.lr_schedule = make_lr_schedule(self.optimizer, run.train)
        self.state = TrainState(stages, groups, self.optimizer, self.lr_schedule)
        self._metrics = metrics_callback(stages, groups) if metrics_callback is not None else _no_metrics

    def resume(self, run_dir: Path, *, verify: bool = True) -> int:
        """Load the newest checkpoint of a run.

        Args:
            run_dir: Folder of the run.
            verify: Compare the checkpoint with its checksums.

        Returns:
            Number of steps done.

        Raises:
            CheckpointError: There is no complete checkpoint, or it is of another model or optimizer.
        """
        with naming_whole_checkpoint(run_dir, self.groups.intra_dist_opt):
            step, path = latest_checkpoint(run_dir, verify=verify)
            check_resumable(self.run, path)
            with naming_engine_errors("resume", self.run, self.stages):
                load_checkpoint(self.state, path, verify=verify)
        return step

    def is_due(self, step: int, interval: int | None) -> bool:
        """Return True at the last step and at every multiple of the interval.

        Args:
            step: Number of the step, from 1.
            interval: Number of steps. None: only the last step is due.
        """
        return step == self.run.train.steps or (interval is not None and step % interval == 0)

    def step(self, step: int) -> StepRecord:
        """Train one step.

        Args:
            step: Number of the step, from 1; selects the batch and the random states.

        Returns:
            The metrics of the step.
        """
        train, (_, seq_length) = self.run.train, language_shape(self.run)
        start = time.perf_counter()
        # Dropout is a function of the seed and the step, so that a resumed run draws what the unbroken one draws.
        model_parallel_cuda_manual_seed(train.seed + 1_000_003 * step, force_reset_rng=True)
        batch = training_batch(self.text, seed=train.seed, step=step, size=train.global_batch, seq_length=seq_length)
        clear_gradients(self.stages, self.optimizer)
        with naming_engine_errors(f"forward and backward of step {step}", self.run, self.stages):
            loss = run_batch(
                self.stages,
                batch,
                self.groups,
                self.run.parallelism,
                micro_batch=train.micro_batch,
                optimizer=self.optimizer,
                seed=train.seed,
                step=step,
            )
        lr = self.optimizer.param_groups[0]["lr"]
        with naming_engine_errors(f"optimizer of step {step}", self.run, self.stages):
            grad_norm = self._update(loss)
        if grad_norm is not None:
            self.lr_schedule.step(increment=1)
        seconds = time.perf_counter() - start
        return StepRecord(
            step=step,
            loss=loss,
            grad_norm=math.nan if grad_norm is None else grad_norm,
            lr=lr,
            skipped=grad_norm is None,
            tokens_per_s=train.global_batch * seq_length / seconds,
            val_loss=self.validation_loss() if self._is_evaluated(step) else None,
            more=checked_metrics(self._metrics()),
        )

    def _update(self, loss: float) -> float | None:
        """Update the parameters unless loss or gradient is not finite, which would damage every parameter.

        In float16 the engine's loss scaler looks for overflows itself, and lowers the scale after one.

        Args:
            loss: The loss of the step.

        Returns:
            Norm of the gradient before clipping. None: nothing was updated.
        """
        if self.run.precision.params != "float16":
            if not math.isfinite(loss):
                return None
            self.optimizer.prepare_grads()
            if not math.isfinite(self.optimizer.get_grad_norm()):
                return None
        updated, grad_norm, _ = self.optimizer.step()
        return float(grad_norm or 0.0) if updated else None

    def _is_evaluated(self, step: int) -> bool:
        """Return True if the loss on the held-out text is measured after a step."""
        return len(self.text.validation) > 0 and self.is_due(step, self.run.train.eval_interval)

    def validation_loss(self) -> float:
        """Return the mean loss on the held-out text, in nats per token."""
        train, (_, seq_length) = self.run.train, language_shape(self.run)
        size = train.eval_batches * train.global_batch
        batch = validation_batch(self.text, size=size, seq_length=seq_length)
        for stage in self.stages:
            stage.eval()
        with torch.no_grad(), naming_engine_errors("validation", self.run, self.stages):
            loss = run_batch(
                self.stages, batch, self.groups, self.run.parallelism, micro_batch=train.micro_batch, forward_only=True
            )
        for stage in self.stages:
            stage.train()
        return loss


def _check_progress(records: Sequence[StepRecord], run: RunConfig) -> None:
    """Stop a run that no longer changes its parameters. The newest checkpoint is from before or between such steps."""
    limit = run.train.max_skipped_steps
    if len(records) < limit or not all(record.skipped for record in records[-limit:]):
        return
    record = records[-1]
    raise TrainingError(
        f"the loss and the gradient must be finite within `train.max_skipped_steps` = {limit} steps, but were not in "
        f"the last {limit}, up to step {record.step} with loss {record.loss}; resume from an earlier checkpoint with a "
        "lower `train.lr` or a longer warm-up, or use another `precision.params`."
    )


def _no_metrics() -> Mapping[str, object]:
    return {}
