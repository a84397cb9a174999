"""Training: the calls that drive the engine's schedules, optimizer, checkpoints and generation.

`train(run)` is one rank of a job; `launch` starts the ranks of one machine. What they read is a `RunConfig`. Each name
is imported when it is first asked for (PEP 562): the process that only launches does not load the engine.
"""

from typing import TYPE_CHECKING

from modelwright.protocols import lazy_door

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
else:
    __getattr__, __dir__ = lazy_door(__name__, __file__)

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
