"""Reading checkpoints in the engine's format (`dist_checkpointing`), which earlier versions wrote.

Pickles in them are read by an allow-list (`modelwright.engine.restricted_reading`), and links are refused.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader

from modelwright.distributed import unwrapped
from modelwright.engine import refuse_links, restricted_reading
from modelwright.training.checkpoint.files.manifest import CheckpointError
from modelwright.training.checkpoint.train_state import TrainState

# State of a part besides its weights, such as Transformer Engine's scales of 8-bit dtypes. It differs between backends.
_EXTRA_STATE = "*._extra_state"


def load_engine_format(state: TrainState, path: Path, *, keep: Sequence[str]) -> None:
    """Load a checkpoint in the engine's format.

    Args:
        state: The objects to load into.
        path: Folder of the checkpoint.
        keep: Patterns of parameter names that keep their values where the checkpoint lacks them.

    Raises:
        CheckpointError: The checkpoint lacks something that the model needs, is damaged, or is not plain data.
    """
    try:
        wanted = _sharded(state)
    except (AssertionError, ValueError) as error:  # of the engine's optimizers, for wrappers that it cannot describe
        raise CheckpointError(
            f"`{path}` is in the engine's format, from which this wrapper and optimizer cannot be resumed "
            f"({_named(error)}); load the weights alone, or resume with `wrap: {{kind: ddp}}`."
        ) from error
    names = [set(wanted[f"model{i}"]) for i in range(len(state.stages))]
    try:
        refuse_links(path)
        with restricted_reading():
            _drop_absent(wanted, path, (*keep, _EXTRA_STATE))
            loaded: Any = dist_checkpointing.load(wanted, str(path))
        _restore(state, loaded, names)
    except CheckpointException as error:
        raise CheckpointError(f"`{path}` cannot be loaded into this model: {_reason(error)}.") from error
    except Exception as error:  # a damaged file makes pickle and torch raise anything
        raise CheckpointError(f"`{path}` cannot be loaded into this model: {_named(error)}.") from error


def _sharded(state: TrainState) -> dict[str, Any]:
    """Return the engine's sharded state dict: `model0`, `model1`, … for the stages, `optimizer` and `schedule`."""
    metadata = {"dp_cp_group": state.pg_collection.dp_cp, "distrib_optim_sharding_type": "dp_reshardable"}
    inner: list[Any] = [unwrapped(stage) for stage in state.stages]
    models: dict[str, Any] = {f"model{i}": stage.sharded_state_dict(metadata=metadata) for i, stage in enumerate(inner)}
    wanted: dict[str, Any] = dict(models)
    if state.optimizer is not None:
        model: dict[str, Any] = models["model0"] if len(models) == 1 else models
        wanted["optimizer"] = state.optimizer.sharded_state_dict(model, is_loading=True, metadata=metadata)
    if state.schedule is not None:
        wanted["schedule"] = state.schedule.state_dict()
    return wanted


def _restore(state: TrainState, loaded: dict[str, Any], names: Sequence[set[str]]) -> None:
    """Load the filled state dict. Parameters that it lacks keep their values."""
    for i, (stage, expected) in enumerate(zip(state.stages, names, strict=True)):
        module, found = unwrapped(stage), loaded.get(f"model{i}", {})
        current = module.state_dict()
        module.load_state_dict(found | {name: current[name] for name in expected - set(found)})
    if state.optimizer is not None:
        state.optimizer.load_state_dict(loaded["optimizer"])
    if state.schedule is not None:
        state.schedule.load_state_dict(loaded["schedule"])


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
    """Return class and first line of an exception."""
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(".: ")
