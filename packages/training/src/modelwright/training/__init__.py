"""Training: the calls that drive the engine's schedules, optimizer, checkpoints and generation.

`train(run)` is one rank of a job; `launch` starts the ranks of one machine. What they read is a `RunConfig`. Each name
is imported when it is first asked for (PEP 562): the process that only launches does not load the engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.training._checkpoint import TrainState, load_checkpoint, save_checkpoint
    from modelwright.training._data import (
        Batch,
        DataError,
        Text,
        micro_batches,
        prepare,
        read_text,
        synthetic_batch,
        training_batch,
        validation_batch,
    )
    from modelwright.training._generate import LoadedModel, Sampling, generate, load_for_inference
    from modelwright.training._launch import LaunchError, RankFailure, is_launched, launch, launched_ranks
    from modelwright.training._optimizer import make_optimizer, make_schedule
    from modelwright.training._run_folder import (
        CheckpointError,
        check_resumable,
        checkpoint_config,
        checkpoint_path,
        checkpoints,
        latest_checkpoint,
    )
    from modelwright.training._schedule import connect, run_batch
    from modelwright.training._train import Meter, Observer, StepRecord, builder_of, train

__all__ = [
    "Batch",
    "CheckpointError",
    "DataError",
    "LaunchError",
    "LoadedModel",
    "Meter",
    "Observer",
    "RankFailure",
    "Sampling",
    "StepRecord",
    "Text",
    "TrainState",
    "builder_of",
    "check_resumable",
    "checkpoint_config",
    "checkpoint_path",
    "checkpoints",
    "connect",
    "generate",
    "is_launched",
    "latest_checkpoint",
    "launch",
    "launched_ranks",
    "load_checkpoint",
    "load_for_inference",
    "make_optimizer",
    "make_schedule",
    "micro_batches",
    "prepare",
    "read_text",
    "run_batch",
    "save_checkpoint",
    "synthetic_batch",
    "train",
    "training_batch",
    "validation_batch",
]

_HOMES = {
    "_checkpoint": (
        "TrainState",
        "load_checkpoint",
        "save_checkpoint",
    ),
    "_data": (
        "Batch",
        "DataError",
        "Text",
        "micro_batches",
        "prepare",
        "read_text",
        "synthetic_batch",
        "training_batch",
        "validation_batch",
    ),
    "_generate": (
        "LoadedModel",
        "Sampling",
        "generate",
        "load_for_inference",
    ),
    "_launch": (
        "LaunchError",
        "RankFailure",
        "is_launched",
        "launch",
        "launched_ranks",
    ),
    "_optimizer": (
        "make_optimizer",
        "make_schedule",
    ),
    "_run_folder": (
        "CheckpointError",
        "check_resumable",
        "checkpoint_config",
        "checkpoint_path",
        "checkpoints",
        "latest_checkpoint",
    ),
    "_schedule": (
        "connect",
        "run_batch",
    ),
    "_train": (
        "Meter",
        "Observer",
        "StepRecord",
        "builder_of",
        "train",
    ),
}


def __getattr__(name: str) -> object:
    """Import the file that holds a public name."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
