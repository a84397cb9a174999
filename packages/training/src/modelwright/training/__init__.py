"""Training: the calls that drive the engine's schedules, optimizer, checkpoints and generation.

`train(run)` is one rank of a job; `launch` starts the ranks of one machine. What they read is a `RunConfig`.
"""

from modelwright.training._checkpoint import (
    CheckpointError,
    TrainState,
    check_same_model,
    checkpoint_config,
    checkpoint_path,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from modelwright.training._data import (
    Batch,
    DataError,
    Text,
    micro_batches,
    read_text,
    training_batch,
    validation_batch,
)
from modelwright.training._launch import LaunchError, RankFailure, is_launched, launch, launched_ranks
from modelwright.training._optimizer import make_optimizer, make_schedule
from modelwright.training._schedule import connect, run_batch
from modelwright.training._train import Observer, StepRecord, builder_of, prepare, train

__all__ = [
    "Batch",
    "CheckpointError",
    "DataError",
    "LaunchError",
    "Observer",
    "RankFailure",
    "StepRecord",
    "Text",
    "TrainState",
    "builder_of",
    "check_same_model",
    "checkpoint_config",
    "checkpoint_path",
    "checkpoints",
    "connect",
    "is_launched",
    "latest_checkpoint",
    "launch",
    "launched_ranks",
    "load_checkpoint",
    "make_optimizer",
    "make_schedule",
    "micro_batches",
    "prepare",
    "read_text",
    "run_batch",
    "save_checkpoint",
    "train",
    "training_batch",
    "validation_batch",
]
