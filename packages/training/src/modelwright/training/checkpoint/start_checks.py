"""Checks before a run starts: can it be saved, and can it resume from a checkpoint. Nothing here loads the engine."""

from collections.abc import Mapping
from pathlib import Path

from modelwright.config import MOE, DecoderConfig, MegatronDDP, MegatronFSDP, RunConfig
from modelwright.training.checkpoint.files.manifest import ENGINE_FORMAT, CheckpointError, read_manifest
from modelwright.training.checkpoint.run_folder import checkpoint_config


def check_savable(run: RunConfig) -> None:
    """Refuse a run that trains to its end and then cannot be saved, before its first step.

    Args:
        run: The config.

    Raises:
        CheckpointError: The wrapper's sharded parameters cannot be saved.
    """
    if isinstance(run.wrap, MegatronFSDP):
        raise CheckpointError(
            "`wrap.kind` must be a wrapper with checkpoints to train into a folder, but is megatron_fsdp, which shards "
            "parameters by ranges of its own; use fsdp2, or call `modelwright.training.train` without `out`."
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
            f"`{path}` is a checkpoint of another model: {'; '.join(model)}; resume with the config in the "
            "checkpoint, or start a new run."
        )
    optimizer = _differences("", _optimizer_state(run), _optimizer_state(saved))
    if optimizer:
        raise CheckpointError(
            f"`{path}` contains the state of another optimizer: {'; '.join(optimizer)}. Resume with the values of the "
            "first run; `train.steps`, the warm-up and the batch may change."
        )
    if read_manifest(path).format == ENGINE_FORMAT:
        _check_engine_format(run, saved, path)


def _check_engine_format(run: RunConfig, saved: RunConfig, path: Path) -> None:
    """Refuse another kind of optimizer, because the engine's own format names states by their places in it."""
    kinds = _differences("", _optimizer_kind(run), _optimizer_kind(saved))
    if kinds:
        raise CheckpointError(
            f"`{path}` is in the engine's format, with the state of another optimizer: {'; '.join(kinds)}. Resume with "
            "the values of the first run, or start a new one."
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
    own = run.parallelism.experts_have_own_ranks
    return own and isinstance(run.model, DecoderConfig) and run.model.has(MOE)


def _differences(section: str, ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    path = f"{section}." if section else ""
    return [
        f"`{path}{name}` is {theirs.get(name)!r} in the checkpoint and {ours.get(name)!r} in this config"
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
    }
    for name in ("lr", "weight_decay", "adam_beta1", "adam_beta2", "adam_eps"):
        state[f"train.{name}"] = getattr(train, name)
    return state


def _optimizer_kind(run: RunConfig) -> dict[str, object]:
    """Return what decides the engine's class of optimizer besides the dtype."""
    return {
        "wrap.kind": run.wrap.kind,
        "wrap.distributed_optimizer": isinstance(run.wrap, MegatronDDP) and run.wrap.distributed_optimizer,
    }
