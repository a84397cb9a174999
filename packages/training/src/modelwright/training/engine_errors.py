"""Errors of Megatron-Core and torch in a run, with the phase, the part of the model and the settings of the run.

The engine asserts in many places without a message, and torch names dtypes and shapes but no part.
"""

import json
import linecache
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch
from torch import nn

from modelwright.config import RunConfig, dumps
from modelwright.protocols import ModelwrightError

_FOREIGN = ("torch", "megatron")
_SECTIONS = ("model", "stack", "backend", "parallelism", "precision", "wrap")


class EngineError(ModelwrightError):
    """An error of the engine or of torch in a phase of a run. Its cause is the original exception."""


@contextmanager
def naming_engine_errors(phase: str, run: RunConfig, stages: Sequence[nn.Module] = ()) -> Generator[None]:
    """Turn an error of the engine or of torch into one with the phase, the part and the settings.

    Errors of custom parts and hooks pass through, except those that torch's own operations raise in them.

    Args:
        phase: Name of the phase, for the message.
        run: The config.
        stages: The stages of this rank, to name the part. Empty: the class of the part is named.

    Raises:
        EngineError: The engine or torch failed in the block.
    """
    try:
        yield
    except ModelwrightError:
        raise
    except Exception as error:
        trace = list(_frames(error.__traceback__))
        if not _is_foreign(error, trace):
            raise
        part = _part(trace, stages)
        raise EngineError(
            f"{f'`{part}`' if part else 'the model'} must work with the settings of the run, but failed in phase "
            f"`{phase}` with `{type(error).__name__}`: {_reason(error, trace)}; {_settings(run)}. Change one of them, "
            "or run again with --debug for the traceback."
        ) from error


def _frames(trace: TracebackType | None) -> Generator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _is_foreign(error: Exception, trace: list[TracebackType]) -> bool:
    """Return True for an exception that the engine or torch raised, in Python or in compiled code."""
    module = str(trace[-1].tb_frame.f_globals.get("__name__", ""))
    compiled = type(error) in (RuntimeError, MemoryError, torch.OutOfMemoryError)
    return module.split(".", maxsplit=1)[0] in _FOREIGN or compiled


def _part(trace: list[TracebackType], stages: Sequence[nn.Module]) -> str:
    """Return the name of the innermost module in whose code the error was raised; "" if there is none."""
    names = {id(module): name for stage in stages for name, module in cast("Any", stage).named_modules()}
    for entry in reversed(trace):
        module = entry.tb_frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            name = names.get(id(module), "").replace("module.", "")
            return f"{name} ({type(module).__name__})" if name else type(module).__name__
    return ""


def _reason(error: Exception, trace: list[TracebackType]) -> str:
    """Return the text of an exception. An assertion without one has its line of code instead."""
    text = " ".join(str(error).split())
    if text:
        return text
    file, line = trace[-1].tb_frame.f_code.co_filename, trace[-1].tb_lineno
    return f"`{linecache.getline(file, line).strip()}` in {Path(file).name}, line {line}"


def _settings(run: RunConfig) -> str:
    """Return a clause that lists the settings of the run beside sizes and training that are not at their defaults."""
    data = json.loads(dumps(run, format="json"))
    chosen = [
        f"`{path}: {json.dumps(value)}`"
        for section in _SECTIONS
        for path, value in _flat(section, data.get(section))
        if type(value) is not int or section != "model"
    ]
    return f"beside sizes, the run sets {', '.join(chosen)}"


def _flat(path: str, value: object) -> Generator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, inner in cast("dict[str, object]", value).items():
            yield from _flat(f"{path}.{name}", inner)
    elif value is not None:
        yield path, value
