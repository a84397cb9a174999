"""The folder of a run: where its checkpoints lie, which of them are whole, and what config they were made with.

A checkpoint is a folder `step-N` that is written aside and renamed when it is complete, so a folder of that name is
whole or is not there. Nothing here loads the engine, so a wrong folder is told before any process starts.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from modelwright.config import ConfigError, DecoderConfig, MegatronDDP, RunConfig, loads
from modelwright.protocols import ModelwrightError

CONFIG_FILE = "modelwright.json"
_ENGINE_MARKS = ("metadata.json", ".metadata")
_STEP = re.compile(r"step-(\d{8})")


class CheckpointError(ModelwrightError):
    """A checkpoint that is missing, incomplete, or of another model."""


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
            f"`{run_dir}` must hold a checkpoint, but there is none under `checkpoints/`; a run saves one at its "
            "end and every `train.checkpoint_interval` steps."
        )
    step, path = found[-1]
    missing = [name for name in (CONFIG_FILE, *_ENGINE_MARKS) if not (path / name).is_file()]
    if missing:
        before = f"the one before it is `{found[-2][1].name}`" if len(found) > 1 else "there is no other"
        raise CheckpointError(
            f"`{path}` must be a whole checkpoint, but {', '.join(missing)} is missing: it was cut off or changed; "
            f"delete that folder to go on from an older one ({before})."
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
        text = json.loads((path / CONFIG_FILE).read_text())["config"]
        config = loads(text, format="json")
    except ConfigError as error:
        raise CheckpointError(f"`{path / CONFIG_FILE}` holds a config that cannot be used here: {error}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"`{path / CONFIG_FILE}` cannot be read: {error}; the checkpoint is damaged.") from error
    if not isinstance(config, RunConfig):
        raise CheckpointError(
            f"`{path / CONFIG_FILE}` must hold the config of a run, but holds a {type(config).__name__}."
        )
    return config


def check_resumable(run: RunConfig, path: Path) -> None:
    """Compare a config with that of the checkpoint that it is to go on from.

    Args:
        run: What is to go on.
        path: The folder of the checkpoint.

    Raises:
        CheckpointError: The models differ, or what the optimizer's state was made with does; names every such field.
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
            f"`{path}` holds the state of another optimizer: {'; '.join(optimizer)}. A run goes on with the numbers it "
            "began with; `train.steps`, the warm-up and the batch may change."
        )
    if _experts_stand_apart(run) != _experts_stand_apart(saved):
        here, there = ("has none", "has them") if _experts_stand_apart(saved) else ("has them", "has none")
        raise CheckpointError(
            f"`{path}` holds the state of another optimizer: where `parallelism.expert` is above 1 or `expert_tensor` "
            f"is not `tensor`, experts have an optimizer of their own, and this run {here} where that one {there}. "
            "Go on with a layout that agrees in this."
        )


def _experts_stand_apart(run: RunConfig) -> bool:
    """Whether the engine gives experts, whose data ranks are others then, an optimizer of their own."""
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
    """What the engine finds an optimizer's state by, or restores with it."""
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
