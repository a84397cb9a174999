"""The folder of a run: its checkpoints, and the config that each was saved with.

A checkpoint is a folder `checkpoints/step-N`. It is written under another name and renamed when it is complete. Nothing
here loads the engine, so that a wrong folder is reported before any process starts.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from modelwright.config import ConfigError, DecoderConfig, MegatronDDP, RunConfig, TorchFSDP2, loads
from modelwright.protocols import ModelwrightError

CONFIG_FILE = "modelwright.json"
_ENGINE_MARKS = ("metadata.json", ".metadata")
_STEP = re.compile(r"step-(\d{8})")


class CheckpointError(ModelwrightError):
    """A checkpoint that is missing, incomplete, damaged, or of another model."""


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step, which may not exist yet.

    Args:
        run_dir: Folder of the run.
        step: Number of steps done.
    """
    return run_dir / "checkpoints" / f"step-{step:08d}"


def checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """Return step and folder of each checkpoint of a run, oldest first.

    A checkpoint that is still being written has another name than `step-N` and is left out.

    Args:
        run_dir: Folder of the run.
    """
    folder = run_dir / "checkpoints"
    found = [(_STEP.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(match[1]), path) for match, path in found if match)


def latest_checkpoint(run_dir: Path) -> tuple[int, Path]:
    """Return step and folder of the newest checkpoint of a run.

    Args:
        run_dir: Folder of the run.

    Raises:
        CheckpointError: There is no checkpoint, or the newest is not complete.
    """
    if not run_dir.is_dir():
        raise CheckpointError(f"`{run_dir}` must be the folder of a run, but there is no such folder.")
    found = checkpoints(run_dir)
    if not found:
        raise CheckpointError(
            f"`{run_dir}` must contain a checkpoint, but there is none under `checkpoints/`; a run saves one at its "
            "end and every `train.checkpoint_interval` steps."
        )
    step, path = found[-1]
    missing = [name for name in (CONFIG_FILE, *_ENGINE_MARKS) if not (path / name).is_file()]
    if missing:
        before = f"the one before it is `{found[-2][1].name}`" if len(found) > 1 else "there is no other"
        raise CheckpointError(
            f"`{path}` must be a complete checkpoint, but {', '.join(missing)} is missing: it was cut off or changed; "
            f"delete that folder to resume from an older one ({before})."
        )
    return step, path


def checkpoint_config(path: Path) -> RunConfig:
    """Return the config that a checkpoint was saved with.

    Args:
        path: Folder of the checkpoint.

    Raises:
        CheckpointError: The config cannot be read.
    """
    try:
        text = json.loads((path / CONFIG_FILE).read_text())["config"]
        config = loads(text, format="json")
    except ConfigError as error:
        raise CheckpointError(f"`{path / CONFIG_FILE}` contains a config that cannot be used here: {error}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"`{path / CONFIG_FILE}` cannot be read: {error}; the checkpoint is damaged.") from error
    if not isinstance(config, RunConfig):
        raise CheckpointError(
            f"`{path / CONFIG_FILE}` must contain the config of a run, but contains a {type(config).__name__}."
        )
    return config


def check_savable(run: RunConfig) -> None:
    """Refuse a run that trains to its end and then cannot be saved, before its first step.

    Args:
        run: The config.

    Raises:
        CheckpointError: The wrapper's sharded parameters cannot be saved.
    """
    if isinstance(run.wrap, TorchFSDP2):
        raise CheckpointError(
            "`wrap.kind` must be a wrapper with checkpoints to train into a folder, but is fsdp2, whose optimizer "
            "state cannot be saved yet; use ddp, or call `modelwright.training.train` without `out`."
        )


def check_resumable(run: RunConfig, path: Path) -> None:
    """Refuse to resume from a checkpoint of another model or another optimizer.

    Args:
        run: The config to resume with.
        path: Folder of the checkpoint.

    Raises:
        CheckpointError: The models differ, or fields that the optimizer's state depends on, or the number of
            optimizers. The message lists every field that differs.
    """
    saved = checkpoint_config(path)
    model = _differences("model", run.model.as_dict(), saved.model.as_dict())
    model += _differences("", {"stack": run.stack}, {"stack": saved.stack})
    if model:
        raise CheckpointError(
            f"`{path}` is a checkpoint of another model: {'; '.join(model)}. Use the config it was made with."
        )
    optimizer = _differences("", _optimizer_state(run), _optimizer_state(saved))
    if optimizer:
        raise CheckpointError(
            f"`{path}` contains the state of another optimizer: {'; '.join(optimizer)}. Resume with the values of the "
            "first run; `train.steps`, the warm-up and the batch may change."
        )
    if _has_expert_optimizer(run) != _has_expert_optimizer(saved):
        here, there = ("a single one", "two") if _has_expert_optimizer(saved) else ("two", "a single one")
        raise CheckpointError(
            f"`{path}` cannot be resumed with this layout: expert parameters have a separate optimizer where "
            f"`parallelism.expert` is above 1 or `expert_tensor` is not `tensor`, so this layout has {here} and the "
            f"checkpoint has {there}; use a layout that agrees in this, or start a new run."
        )


def _has_expert_optimizer(run: RunConfig) -> bool:
    """Return True if experts have other data ranks than the rest, and therefore a separate optimizer in the engine."""
    parallelism = run.parallelism
    apart = parallelism.expert > 1 or parallelism.expert_tensor_size != parallelism.tensor
    return apart and isinstance(run.model, DecoderConfig) and "E" in run.model.symbols


def _differences(section: str, ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    path = f"{section}." if section else ""
    return [
        f"`{path}{name}` is {ours.get(name)!r} here and {theirs.get(name)!r} there"
        for name in sorted(set(ours) | set(theirs))
        if ours.get(name) != theirs.get(name)
    ]


def _optimizer_state(run: RunConfig) -> dict[str, object]:
    """Return the fields that the engine uses to find an optimizer's state, or restores together with it."""
    train = run.train
    state: dict[str, object] = {
        "train.lr_schedule.min_lr": train.lr_schedule.min_lr,
        "precision.params": run.precision.params,
        "precision.keep_float32": run.precision.keep_float32,
        "wrap.distributed_optimizer": isinstance(run.wrap, MegatronDDP) and run.wrap.distributed_optimizer,
    }
    for name in ("lr", "weight_decay", "adam_beta1", "adam_beta2", "adam_eps"):
        state[f"train.{name}"] = getattr(train, name)
    return state
