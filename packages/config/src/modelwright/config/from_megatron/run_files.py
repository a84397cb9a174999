"""`convert`: from a run or a model of Megatron-Core ("upstream") to a `RunConfig`, with a list of what was left out."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, final

from modelwright.config.files.header import config_of
from modelwright.config.files.overrides import apply_changes
from modelwright.config.files.reader import read_file
from modelwright.config.from_megatron.dictionaries import (
    MLA_TRANSFORMER,
    TRANSFORMER,
    Unmapped,
    UpstreamSection,
    model_data,
    plain_upstream,
    upstream_defaults,
)
from modelwright.config.from_megatron.unread_fields import unread_fields
from modelwright.config.model.fixed_engine_fields import COMPUTED_ENGINE_FIELDS, FIXED_ENGINE_FIELDS
from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.problems.wording import described
from modelwright.config.run.run import RunConfig
from modelwright.config.strict.config_class import replace
from modelwright.config.strict.plain_data import plain_value

__all__ = ["Converted", "convert", "convert_file"]

_CONTAINERS = {
    "megatron.training.config.container.PretrainConfigContainer",
    "megatron.training.config.container.InferenceConfigContainer",
}
_AXES = {
    "tensor_model_parallel_size": "tensor",
    "sequence_parallel": "sequence",
    "pipeline_model_parallel_size": "pipeline",
    "virtual_pipeline_model_parallel_size": "virtual_pipeline",
    "context_parallel_size": "context",
    "expert_model_parallel_size": "expert",
    "expert_tensor_parallel_size": "expert_tensor",
}
_TRAIN = {
    ("train", "train_iters"): "steps",
    ("train", "micro_batch_size"): "micro_batch",
    ("train", "global_batch_size"): "global_batch",
    ("rng", "seed"): "seed",
    ("optimizer", "lr"): "lr",
    ("optimizer", "weight_decay"): "weight_decay",
    ("optimizer", "adam_beta1"): "adam_beta1",
    ("optimizer", "adam_beta2"): "adam_beta2",
    ("optimizer", "adam_eps"): "adam_eps",
    ("optimizer", "clip_grad"): "clip_grad",
    ("validation", "eval_interval"): "eval_interval",
    ("validation", "eval_iters"): "eval_batches",
    ("checkpoint", "save_interval"): "checkpoint_interval",
}
_DDP = {
    "overlap_grad_reduce": "overlap_grad_reduce",
    "bucket_size": "bucket_size",
    "average_in_collective": "average_in_collective",
    "grad_reduce_in_fp32": "grad_reduce_in_fp32",
    "check_for_nan_in_grad": "check_for_nan",
}
# Fields that upstream derives from another field if they are not set.
_DERIVED = {
    "embedding_init_method_std": "init_method_std",
    "moe_ffn_hidden_size": "ffn_hidden_size",
}
# Fields that `modelwright.layers.resolve` sets itself; the backend decides about `transformer_impl`.
_SET_BY_RESOLVE = {*FIXED_ENGINE_FIELDS, *COMPUTED_ENGINE_FIELDS, "transformer_impl"}


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """Result of a conversion."""

    config: RunConfig
    """Config of the run: model, axes and dtype from the model's dictionary, the rest from the file if there is one."""

    unmapped: tuple[Unmapped, ...]
    """Every value that is not at upstream's default and is not in `config` unchanged."""

    at_default: int
    """Number of values that were left out because they are upstream's defaults and have no counterpart."""


def convert_file(path: str | os.PathLike[str], *, changes: Sequence[str] = ()) -> Converted:
    """Convert a file: a checkpoint's `run_config.yaml`, or a dictionary of a model config as YAML or JSON.

    Args:
        path: The file.
        changes: Overrides (`model.vocab_size=32000`) for missing fields, applied before validation.

    Returns:
        The run, and the values that were left out.

    Raises:
        ConfigError: If the file cannot be read, is not upstream's, or does not give a valid config.
    """
    document = read_file(Path(path))
    if document.problems:
        raise ConfigError(document.problems)
    if not isinstance(document.data, Mapping):
        message = f"{path}: the file must be a mapping, as Megatron-Core writes it, but is not."
        raise ConfigError((Problem("", message, code="wrong_type"),))
    return convert(cast("Mapping[str, object]", document.data), changes=changes)


def convert(data: Mapping[str, object], *, changes: Sequence[str] = ()) -> Converted:
    """Convert a dictionary: `as_dict()` of a model config of `megatron.training.models`, or `to_dict()` of a run.

    Args:
        data: The dictionary, live or from a file. Live dtypes and enums in it are converted to their names.
        changes: Overrides (`model.vocab_size=32000`) for missing fields, applied before validation.

    Returns:
        The run, and the values that were left out.

    Raises:
        ConfigError: If the dictionary is not upstream's, or does not give a valid config.
    """
    plain = cast("dict[str, object]", plain_upstream(data))
    whole = plain.get("_target_") in _CONTAINERS
    top = UpstreamSection(plain if whole else {}, "")
    model = plain.get("model") if whole else plain
    if not isinstance(model, Mapping):
        message = f"`model` must be a mapping, but {described(model)} was given."
        raise ConfigError((Problem("model", message, code="wrong_type"),))
    top.take("model")
    fields, section = model_data(cast("Mapping[str, object]", model), "model." if whole else "")
    run = {"modelwright": 1, "model": fields, **_around(top, whole=whole)}
    run |= _transformer(section, fields)
    silent = _drop_silent(run, changes)
    config = cast("RunConfig", config_of(apply_changes(run, changes)))
    config, unread = _without_unread(config, section.section("transformer").path)
    unmapped = (*section.unmapped(), *silent, *unread, *top.unmapped())
    return Converted(config=config, unmapped=unmapped, at_default=section.count_at_default() + top.count_at_default())


def _drop_silent(run: dict[str, Any], changes: Sequence[str]) -> list[Unmapped]:
    """Drop the fields that would have no effect in the converted model, and return the reports about them."""
    try:
        config_of(apply_changes(run, changes))
    except ConfigError as error:
        model: dict[str, object] = run["model"]
        paths = [one.path for one in error.problems if one.code == "without_effect"]
        names = [path.removeprefix("model.") for path in paths if path.startswith("model.")]
        return [
            Unmapped(f"model.{name}", model.pop(name), "nothing in the model reads it")
            for name in names
            if name in model
        ]
    return []


def _without_unread(run: RunConfig, path: str) -> tuple[RunConfig, list[Unmapped]]:
    """Return a run without the engine fields that nothing in its model reads, and the reports about them."""
    unread = unread_fields(run.model)
    if not unread:
        return run, []
    kept = {name: value for name, value in run.model.engine.items() if name not in unread}
    reports = [
        Unmapped(path + name, plain_value(run.model.engine[name], full=True), reason) for name, reason in unread.items()
    ]
    return replace(run, model=replace(run.model, engine=kept)), reports


def _transformer(model: UpstreamSection, fields: dict[str, object]) -> dict[str, object]:
    """Convert the axes and the dtype in a model's dictionary, and put the other engine fields into the model."""
    section = model.section("transformer")
    axes = {ours: section.take(theirs) for theirs, ours in _AXES.items()}
    if axes["expert_tensor"] == axes["tensor"]:
        axes["expert_tensor"] = None
    precision = _precision(section)
    engine = _engine(section)
    if engine:
        fields["engine"] = engine
    parallelism = {name: value for name, value in axes.items() if value is not None}
    return {"parallelism": parallelism, "precision": {"params": precision}}


def _precision(section: UpstreamSection) -> str:
    """Return the dtype of the parameters."""
    bf16, fp16, dtype = (section.take(name) for name in ("bf16", "fp16", "params_dtype"))
    for name in ("autocast_dtype", "pipeline_dtype"):
        if (value := section.take(name)) not in (None, dtype, "torch.float32"):
            section.note(name, value, f"not the dtype of the parameters, `{dtype}`")
    if bf16 or fp16:
        return "bfloat16" if bf16 else "float16"
    return str(dtype or "torch.float32").removeprefix("torch.")


def _engine(section: UpstreamSection) -> dict[str, object]:
    """Return the fields that `engine:` passes through, and report the others."""
    known = upstream_defaults()[TRANSFORMER] | upstream_defaults()[MLA_TRANSFORMER]
    sources = {name: section.seen(source) for name, source in _DERIVED.items()}
    engine: dict[str, object] = {}
    for name, value in section.changed().items():
        if name in sources and value == sources[name]:
            continue
        if name in _SET_BY_RESOLVE:
            section.note(name, value, "modelwright sets it itself")
        elif name not in known:
            section.note(name, value, "not a field of the engine's `TransformerConfig`")
        else:
            engine[name] = value
    return engine


def _around(top: UpstreamSection, *, whole: bool) -> dict[str, object]:
    """Convert everything outside the model."""
    if not whole:
        return {}
    names = {"checkpoint", "ddp", "dist", "optimizer", "rng", "scheduler", "train", "validation"}
    sections = {name: top.section(name) for name in sorted(names) if isinstance(top.seen(name), Mapping)}
    for name in ("logger", "profiling", "tokenizer", "rerun_state_machine", "straggler", "inference"):
        if isinstance(top.seen(name), Mapping):
            top.section(name)
    return {"train": _train(sections), "wrap": _wrap(sections)}


def _train(sections: Mapping[str, UpstreamSection]) -> dict[str, object]:
    """Convert the training."""
    taken = {ours: sections[name].take(key) for (name, key), ours in _TRAIN.items() if name in sections}
    train: dict[str, object] = {name: value for name, value in taken.items() if value is not None}
    if "checkpoint" in sections and (kept := sections["checkpoint"].take("most_recent_k")) not in (None, -1):
        train["keep_checkpoints"] = kept
    if "scheduler" in sections:
        train["lr_schedule"] = _schedule(sections["scheduler"], sections.get("optimizer"))
    return train


def _schedule(scheduler: UpstreamSection, optimizer: UpstreamSection | None) -> dict[str, object]:
    """Convert the learning-rate schedule."""
    kind = str(scheduler.take("lr_decay_style"))
    found: dict[str, object] = {"kind": kind, "warmup_steps": scheduler.take("lr_warmup_iters") or 0}
    if kind != "constant":
        decay = scheduler.take("lr_decay_iters")
        found |= {"decay_steps": decay} if decay is not None else {}
        least = optimizer.take("min_lr") if optimizer is not None else None
        found |= {"min_lr": least} if least is not None else {}
    return found


def _wrap(sections: Mapping[str, UpstreamSection]) -> dict[str, object]:
    """Convert the data-parallel wrapper."""
    dist, ddp = sections.get("dist"), sections.get("ddp")
    if dist is not None and dist.take("use_torch_fsdp2"):
        return {"kind": "fsdp2"}
    if dist is not None and dist.take("use_megatron_fsdp"):
        return {"kind": "megatron_fsdp"}
    taken: dict[str, Any] = {} if ddp is None else {ours: ddp.take(theirs) for theirs, ours in _DDP.items()}
    return {"kind": "ddp", **{name: value for name, value in taken.items() if value is not None}}
