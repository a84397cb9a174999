"""A text as bytes: a part to train on, and a tail that is held out for validation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.config import NoWrap, RunConfig
from modelwright.protocols import ModelwrightError

BYTE_VALUES = 256


class DataError(ModelwrightError):
    """A text that cannot be read, or is too short for the model."""


@dataclass(frozen=True)
class Text:
    """A text in two parts."""

    training: np.ndarray
    """Bytes to train on, uint8."""
    validation: np.ndarray
    """Held-out bytes, uint8: the tail of the text. Empty: there is no validation."""


def prepare_text(run: RunConfig) -> Text:
    """Read the text of a run, and check everything about training that is known before any process starts.

    Args:
        run: The config.

    Returns:
        The text in two parts.

    Raises:
        ModelwrightError: The text cannot be read or does not fit the model, or `wrap` is `none`, which has no gradient
            buffers.
    """
    if isinstance(run.wrap, NoWrap):
        raise ModelwrightError(
            "`wrap.kind` must keep the gradients that the engine's optimizer reads, but is none; use ddp to train, on "
            "one rank too."
        )
    vocab_size, seq_length = language_shape(run)
    if vocab_size < BYTE_VALUES:
        raise DataError(
            f"`model.vocab_size` must be at least {BYTE_VALUES} to train on bytes, but is {vocab_size}; "
            f"use {BYTE_VALUES}."
        )
    return read_text(run.train.data, validation_fraction=run.train.validation_fraction, seq_length=seq_length)


def language_shape(run: RunConfig) -> tuple[int, int]:
    """Return vocabulary size and sequence length, which every model that is trained on text declares.

    Args:
        run: The config.

    Returns:
        `vocab_size` and `seq_length` of the model.

    Raises:
        ModelwrightError: The model has no such fields.
    """
    model: Any = run.model
    try:
        return int(model.vocab_size), int(model.seq_length)
    except AttributeError as error:
        raise ModelwrightError(
            f"a model that is trained on text must have `vocab_size` and `seq_length`, but `{model.kind}` does not: "
            f"{error}; declare both fields in its config, or train it with your own loop."
        ) from error


def read_text(path: str | None, *, validation_fraction: float, seq_length: int) -> Text:
    """Read a text and hold out its tail.

    Args:
        path: A file, read as bytes. None: the Python language reference that every CPython contains.
        validation_fraction: Fraction of the text, at its end, that is held out; below 1. 0: nothing is held out.
        seq_length: Sequence length of the model; each part must be longer.

    Returns:
        The text in two parts.

    Raises:
        DataError: The file cannot be read, or a part is too short.
    """
    content = _language_reference() if path is None else _file(path)
    split = len(content) - int(len(content) * validation_fraction)
    text = Text(training=content[:split], validation=content[split:])
    parts = [("training", text.training), *([("validation", text.validation)] if validation_fraction else [])]
    for part, array in parts:
        if len(array) <= seq_length:
            raise DataError(
                f"`train.data` must have more than `model.seq_length` = {seq_length} bytes for {part}, but "
                f"{path or 'the language reference'} has {len(array)}; use a longer text, a shorter `seq_length`, or "
                "another `train.validation_fraction`."
            )
    return text


def _language_reference() -> np.ndarray:
    from pydoc_data.topics import topics

    return np.frombuffer("\n".join(topics[name] for name in sorted(topics)).encode(), dtype=np.uint8)


def _file(path: str) -> np.ndarray:
    kind = Path(path)
    if kind.exists() and not (kind.is_file() or kind.is_dir()):  # opening a pipe would wait for a writer
        raise DataError(
            f"`train.data` must be the path of a text that can be read, but {path!r} is a pipe or a device; name "
            "a file."
        )
    try:
        return np.memmap(Path(path), dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "is empty"
        raise DataError(
            f"`train.data` must be the path of a text that can be read, but {path!r} {reason}; name another file, or "
            "leave it out to train on the language reference of Python."
        ) from error
