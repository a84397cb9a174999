"""Checkpoints through the engine's `dist_checkpointing`: whole tensors by name, so that any layout can load them.

A checkpoint is a folder `step-N` that is written aside and renamed when it is complete, so a folder of that name is
whole or is not there. Beside the engine's files lie the config of the run and what the trainer needs to go on.
"""

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch import nn

from modelwright.config import RunConfig, dumps, loads
from modelwright.distributed import unwrapped
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

_CONFIG = "modelwright.json"
_ENGINE_MARK = "metadata.json"
_STEP = re.compile(r"step-(\d{8})")


class CheckpointError(ModelwrightError):
    """A checkpoint that is missing, incomplete, or of another model."""


@dataclass(frozen=True)
class TrainState:
    """The objects whose state a checkpoint holds."""

    stages: Sequence[nn.Module]
    """Of this rank, wrapped or not."""
    pg_collection: "ProcessGroupCollection"
    """The process groups of this rank."""
    optimizer: Any = None
    """The engine's; None leaves it out."""
    schedule: Any = None
    """The engine's; None leaves it out."""

    def sharded(self, *, loading: bool) -> dict[str, Any]:
        """The engine's sharded state dictionary of all of it."""
        metadata = {"dp_cp_group": self.pg_collection.dp_cp, "distrib_optim_sharding_type": "dp_reshardable"}
        models = {
            f"model{i}": unwrapped(stage).sharded_state_dict(metadata=metadata)  # type: ignore[operator]
            for i, stage in enumerate(self.stages)
        }
        state: dict[str, Any] = dict(models)
        if self.optimizer is not None:
            whole = models["model0"] if len(models) == 1 else models
            state["optimizer"] = self.optimizer.sharded_state_dict(whole, is_loading=loading, metadata=metadata)
        if self.schedule is not None:
            state["schedule"] = self.schedule.state_dict()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `sharded` described."""
        for i, stage in enumerate(self.stages):
            unwrapped(stage).load_state_dict(state[f"model{i}"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run, oldest first.

    Args:
        run_dir: The folder of the run.

    Returns:
        Step and folder of each; a folder under another name, one being written among them, is not one.
    """
    folder = run_dir / "checkpoints"
    found = [(_STEP.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(match[1]), path) for match, path in found if match)


def latest_checkpoint(run_dir: Path) -> tuple[int, Path]:
    """The newest checkpoint of a run.

    Args:
        run_dir: The folder of the run.

    Returns:
        Step and folder.

    Raises:
        CheckpointError: There is none, or it is not complete.
    """
    if not run_dir.is_dir():
        raise CheckpointError(f"`{run_dir}` must be the folder of a run, but there is no such folder.")
    found = checkpoints(run_dir)
    if not found:
        raise CheckpointError(
            f"`{run_dir}` must hold a checkpoint, but there is none under `checkpoints/`; a run saves one at its end and "
            "every `train.checkpoint_interval` steps."
        )
    step, path = found[-1]
    missing = [name for name in (_CONFIG, _ENGINE_MARK, ".metadata") if not (path / name).is_file()]
    if missing:
        before = f"the one before it is `{found[-2][1].name}`" if len(found) > 1 else "there is no other"
        raise CheckpointError(
            f"`{path}` must be a whole checkpoint, but {', '.join(missing)} is missing: it was cut off or changed; delete "
            f"that folder to go on from an older one ({before})."
        )
    return step, path


def checkpoint_config(path: Path) -> RunConfig:
    """The config that a checkpoint was made with.

    Args:
        path: The folder of the checkpoint.

    Returns:
        The whole run config.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        text = json.loads((path / _CONFIG).read_text())["config"]
        config = loads(text, format="json", source=str(path / _CONFIG))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"`{path / _CONFIG}` cannot be read: {error}; the checkpoint is damaged.") from error
    if not isinstance(config, RunConfig):
        raise CheckpointError(f"`{path / _CONFIG}` must hold the config of a run, but holds a {type(config).__name__}.")
    return config


def save_checkpoint(state: TrainState, run: RunConfig, run_dir: Path, step: int) -> Path:
    """Write a checkpoint aside and rename it; every rank of the job calls it.

    Args:
        state: What is saved.
        run: The config, saved with it.
        run_dir: The folder of the run, seen by all ranks.
        step: Steps done.

    Returns:
        The folder of the checkpoint.
    """
    path = checkpoint_path(run_dir, step)
    aside = path.with_name(f".{path.name}.partial")
    first = torch.distributed.get_rank() == 0
    if first:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    torch.distributed.barrier()
    dist_checkpointing.save(state.sharded(loading=False), str(aside))
    torch.distributed.barrier()
    if first:
        _finish(aside, path, run, step)
    torch.distributed.barrier()
    return path


def _finish(aside: Path, path: Path, run: RunConfig, step: int) -> None:
    content = {"step": step, "config": dumps(run, format="json", full=True)}
    (aside / _CONFIG).write_text(json.dumps(content, indent=1) + "\n")
    shutil.rmtree(path, ignore_errors=True)
    os.replace(aside, path)
    _forget_old(path.parent.parent, run.train.keep_checkpoints)


def _forget_old(run_dir: Path, keep: int | None) -> None:
    for _, path in checkpoints(run_dir)[: -keep if keep else 0]:
        shutil.rmtree(path)


def load_checkpoint(state: TrainState, path: Path) -> None:
    """Fill the model, and optimizer and schedule where they are given, whatever layout wrote the checkpoint.

    Args:
        state: What is filled.
        path: The folder of the checkpoint.

    Raises:
        CheckpointError: It does not hold what the model needs.
    """
    try:
        loaded = dist_checkpointing.load(state.sharded(loading=True), str(path))
    except (CheckpointingException, KeyError, RuntimeError, OSError) as error:
        raise CheckpointError(f"`{path}` cannot be loaded into this model: {error}") from error
    state.restore(loaded)


def check_same_model(run: RunConfig, path: Path) -> None:
    """Compare the model of a config with that of a checkpoint.

    Args:
        run: What is to go on.
        path: The folder of the checkpoint.

    Raises:
        CheckpointError: The models differ; names every field that does.
    """
    saved = checkpoint_config(path)
    ours, theirs = run.model.as_dict(), saved.model.as_dict()
    different = [
        f"`model.{name}` is {ours.get(name)!r} here and {theirs.get(name)!r} there"
        for name in sorted(set(ours) | set(theirs))
        if ours.get(name) != theirs.get(name)
    ]
    if run.stack != saved.stack:
        different.append(f"`stack` is {run.stack!r} here and {saved.stack!r} there")
    if different:
        raise CheckpointError(
            f"`{path}` is a checkpoint of another model: {'; '.join(different)}. Use the config it was made with."
        )
