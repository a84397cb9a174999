"""Training: the calls that drive the engine's schedules, optimizer, checkpoints and generation.

`train(run)` is one rank of a job; `launch` starts the ranks of one machine. What they read is a `RunConfig`. Each name
is imported when it is first asked for (PEP 562): the process that only launches does not load the engine.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.training.checkpoint.run_folder import (
        CheckpointError,
        check_resumable,
        checkpoint_config,
        checkpoint_path,
        checkpoints,
        latest_checkpoint,
    )
    from modelwright.training.checkpoint.save_load import TrainState, load_checkpoint, save_checkpoint
    from modelwright.training.data.text import (
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
    from modelwright.training.generation.sampling import LoadedModel, Sampling, generate, load_for_inference
    from modelwright.training.launcher import LaunchError, RankFailure, is_launched, launch, launched_ranks
    from modelwright.training.loop import Meter, Observer, StepRecord, builder_of, train
    from modelwright.training.optimizer import make_optimizer, make_schedule
    from modelwright.training.step import connect, run_batch
else:
    from modelwright.engine import load_engine
    from modelwright.protocols import lazy_door

    __getattr__, __dir__ = lazy_door(
        __name__, __file__, before=load_engine, light={"launcher", "data.text", "checkpoint.run_folder"}
    )

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
