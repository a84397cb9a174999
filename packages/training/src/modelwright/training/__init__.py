"""Training: the loop over the engine's schedules and optimizer, checkpoints, and text generation.

`train(run)` is one rank of a job; `launch` starts the ranks of one machine. Both read a `RunConfig`. Each name is
imported when it is first used, so that a process that only launches does not load the engine.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.training.callbacks import Callback, MetricsCallback, StepRecord
    from modelwright.training.checkpoint.files.durable import replace_file
    from modelwright.training.checkpoint.files.manifest import CheckpointError, DamagedCheckpointError
    from modelwright.training.checkpoint.optimizer_state import OptimizedParameter, optimized_parameters
    from modelwright.training.checkpoint.run_folder import (
        checkpoint_config,
        checkpoint_path,
        checkpoints,
        latest_checkpoint,
    )
    from modelwright.training.checkpoint.run_lock import check_unlocked, is_run_folder, naming_run_file
    from modelwright.training.checkpoint.save_load import load_checkpoint, save_checkpoint, saving_into
    from modelwright.training.checkpoint.start_checks import check_resumable, check_savable
    from modelwright.training.checkpoint.train_state import TrainState
    from modelwright.training.checkpoint.verification import (
        fall_back,
        naming_whole_checkpoint,
        newest_whole,
        verify_checkpoint,
    )
    from modelwright.training.data.batches import (
        Batch,
        micro_batches,
        synthetic_batch,
        training_batch,
        validation_batch,
    )
    from modelwright.training.data.text import DataError, Text, language_shape, prepare_text, read_text
    from modelwright.training.early_start import fork_ahead
    from modelwright.training.engine_errors import EngineError, naming_engine_errors
    from modelwright.training.generation.generator import LoadedModel, generate, load_for_inference
    from modelwright.training.generation.sampling import Sampling
    from modelwright.training.launcher import LaunchError, RankFailure, launch
    from modelwright.training.loop import Trainer, TrainingError, builder_of, train
    from modelwright.training.lr_schedule import make_lr_schedule
    from modelwright.training.memory import check_memory, inference_bytes, training_bytes
    from modelwright.training.optimizer import make_optimizer
    from modelwright.training.step import run_batch
else:
    from modelwright.engine import load_engine
    from modelwright.protocols import lazy_door

    _LIGHT = {
        "checkpoint.files.durable",
        "checkpoint.files.manifest",
        "checkpoint.run_folder",
        "checkpoint.run_lock",
        "checkpoint.start_checks",
        "checkpoint.verification",
        "data.text",
        "early_start",
        "generation.sampling",
        "launcher",
        "memory",
    }
    __getattr__, __dir__ = lazy_door(__name__, __file__, before=load_engine, light=_LIGHT)

__all__ = [
    "Batch",
    "Callback",
    "CheckpointError",
    "DamagedCheckpointError",
    "DataError",
    "EngineError",
    "LaunchError",
    "LoadedModel",
    "MetricsCallback",
    "OptimizedParameter",
    "RankFailure",
    "Sampling",
    "StepRecord",
    "Text",
    "TrainState",
    "Trainer",
    "TrainingError",
    "builder_of",
    "check_memory",
    "check_resumable",
    "check_savable",
    "check_unlocked",
    "checkpoint_config",
    "checkpoint_path",
    "checkpoints",
    "fall_back",
    "fork_ahead",
    "generate",
    "inference_bytes",
    "is_run_folder",
    "language_shape",
    "latest_checkpoint",
    "launch",
    "load_checkpoint",
    "load_for_inference",
    "make_lr_schedule",
    "make_optimizer",
    "micro_batches",
    "naming_engine_errors",
    "naming_run_file",
    "naming_whole_checkpoint",
    "newest_whole",
    "optimized_parameters",
    "prepare_text",
    "read_text",
    "replace_file",
    "run_batch",
    "save_checkpoint",
    "saving_into",
    "synthetic_batch",
    "train",
    "training_batch",
    "training_bytes",
    "validation_batch",
    "verify_checkpoint",
]
