"""Saving and loading checkpoints through the engine's `dist_checkpointing`.

The engine stores unsharded tensors by name, so that any layout can load the weights. The folder of a checkpoint also
contains the config of the run and the number of steps done.
"""

import json
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader

from modelwright.config import RunConfig, dumps
from modelwright.distributed import unwrapped
from modelwright.engine import refuse_links, restricted_reading, results_in_this_process
from modelwright.training.checkpoint.run_folder import CONFIG_FILE, CheckpointError, checkpoint_path, checkpoints

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

# State of a part besides its weights, such as Transformer Engine's scales of 8-bit dtypes. It differs between backends.
_EXTRA_STATE = "*._extra_state"


@dataclass(frozen=True)
class TrainState:
    """The objects that a checkpoint is saved from or loaded into."""

    stages: Sequence[nn.Module]
    """The stages of this rank, wrapped or not."""
    pg_collection: "ProcessGroupCollection"
    """The process groups of this rank."""
    optimizer: Any = None
    """The engine's optimizer. None: its state is left out."""
    schedule: Any = None
    """The engine's learning-rate schedule. None: its state is left out."""

    def sharded(self, *, loading: bool) -> dict[str, Any]:
        """Return the engine's sharded state dict of the stages, the optimizer and the schedule.

        Args:
            loading: True if the state dict is used to load, False to save.

        Returns:
            The state dict, with `model0`, `model1`, … for the stages, `optimizer` and `schedule`.
        """
        metadata = {"dp_cp_group": self.pg_collection.dp_cp, "distrib_optim_sharding_type": "dp_reshardable"}
        inner: list[Any] = [unwrapped(stage) for stage in self.stages]
        models: dict[str, Any] = {
            f"model{i}": stage.sharded_state_dict(metadata=metadata) for i, stage in enumerate(inner)
        }
        state: dict[str, Any] = dict(models)
        if self.optimizer is not None:
            model: dict[str, Any] = models["model0"] if len(models) == 1 else models
            state["optimizer"] = self.optimizer.sharded_state_dict(model, is_loading=loading, metadata=metadata)
        if self.schedule is not None:
            state["schedule"] = self.schedule.state_dict()
        return state

    def restore(self, state: dict[str, Any], names: Sequence[set[str]]) -> None:
        """Load a state dict that was filled from a checkpoint.

        Args:
            state: The loaded state dict, in the form that `sharded` returns.
            names: Names of the expected parameters of each stage; those that `state` lacks keep their current values.
        """
        for i, (stage, expected) in enumerate(zip(self.stages, names, strict=True)):
            module, found = unwrapped(stage), state.get(f"model{i}", {})
            current = module.state_dict()
            module.load_state_dict(found | {name: current[name] for name in expected - set(found)})
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])


def save_checkpoint(state: TrainState, run: RunConfig, run_dir: Path, step: int) -> Path:
    """Write a checkpoint under a temporary name, and rename it when it is complete. Every rank of the job calls this.

    Then checkpoints older than the newest `train.keep_checkpoints` are deleted.

    Args:
        state: The objects to save the state of.
        run: The config, saved with the state.
        run_dir: Folder of the run, visible to all ranks.
        step: Number of steps done.

    Returns:
        The folder of the checkpoint.

    Raises:
        RuntimeError: The checkpoint cannot be written. Older checkpoints are untouched.
    """
    path = checkpoint_path(run_dir, step)
    aside = path.with_name(f".{path.name}.partial")
    first = torch.distributed.get_rank() == 0
    if first:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    torch.distributed.barrier()
    try:
        with results_in_this_process():
            dist_checkpointing.save(state.sharded(loading=False), str(aside))
    except CheckpointException as error:
        raise RuntimeError(f"`{path}` cannot be written: {_reason(error)}; older checkpoints are untouched.") from error
    torch.distributed.barrier()
    if first:
        _finish(aside, path, run, step)
    torch.distributed.barrier()
    return path


def _finish(aside: Path, path: Path, run: RunConfig, step: int) -> None:
    content = {"step": step, "config": dumps(run, format="json", full=True)}
    (aside / CONFIG_FILE).write_text(json.dumps(content, indent=1) + "\n")
    shutil.rmtree(path, ignore_errors=True)
    aside.replace(path)
    _forget_old(path.parent.parent, run.train.keep_checkpoints)


def _forget_old(run_dir: Path, keep: int | None) -> None:
    for _, path in checkpoints(run_dir)[: -keep if keep else 0]:
        shutil.rmtree(path)


def load_checkpoint(state: TrainState, path: Path, *, keep: Sequence[str] = ()) -> None:
    """Load a checkpoint into a model, and into the optimizer and the schedule where they are given.

    Weights saved on one layout and backend can be loaded on another. Nothing that the files contain is executed, and
    nothing outside the folder is read.

    Args:
        state: The objects to load into.
        path: Folder of the checkpoint.
        keep: Patterns of parameter names in the unsharded model. A matching parameter that the checkpoint lacks keeps
            its value, such as an adapter (`*.lora_?`).

    Raises:
        CheckpointError: The checkpoint lacks something that the model needs, is damaged, or is not plain data.
    """
    try:
        wanted = state.sharded(loading=True)
    except AssertionError as error:  # of the engine's distributed optimizer, without a message
        if not _has_distributed_optimizer(state.optimizer):
            raise
        raise CheckpointError(
            f"`{path}` cannot be resumed: without Apex and Transformer Engine, the engine's distributed optimizer "
            "cannot load its state; load the weights alone, or train with `wrap.distributed_optimizer: false`."
        ) from error
    names = [set(wanted[f"model{i}"]) for i in range(len(state.stages))]
    try:
        refuse_links(path)
        with restricted_reading():
            _drop_absent(wanted, path, (*keep, _EXTRA_STATE))
            loaded: Any = dist_checkpointing.load(wanted, str(path))
    except CheckpointException as error:
        raise CheckpointError(f"`{path}` cannot be loaded into this model: {_reason(error)}.") from error
    except (CheckpointingException, KeyError, ValueError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"`{path}` cannot be loaded into this model: {_named(error)}.") from error
    state.restore(loaded, names)


def _has_distributed_optimizer(optimizer: Any) -> bool:
    """Return True if a rank's optimizer, or one in its chain, splits its state over the data ranks."""
    return any(isinstance(it, DistributedOptimizer) for it in getattr(optimizer, "chained_optimizers", [optimizer]))


def _drop_absent(wanted: dict[str, Any], path: Path, keep: Sequence[str]) -> None:
    """Remove the entries that the checkpoint lacks and that match one of the patterns.

    The engine's own option (`strict=`) reads tensor properties in a form that torch 2.13 no longer has.
    """
    metadata: Any = FileSystemReader(path).read_metadata()
    stored = {str(name).partition("/shard_")[0] for name in metadata.state_dict_metadata}
    for model in (part for name, part in wanted.items() if name.startswith("model")):
        for name, item in list(model.items()):
            if item.key not in stored and any(fnmatchcase(item.key, pattern) for pattern in keep):
                del model[name]


def _reason(error: CheckpointException) -> str:
    """Return the message of the first rank that failed; the exception's own text contains whole tracebacks."""
    _, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0])
    return _named(cause)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".: \n")
