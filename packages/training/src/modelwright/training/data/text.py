"""Text as bytes: what a model reads in training and validation, the same for every layout.

The batch of a step is a function of the seed and the step alone; each data-parallel rank takes its slice of it. So a
run that is resumed, or cut over other ranks, reads what the unbroken run on one rank reads.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelwright.config import NoWrap, RunConfig
from modelwright.protocols import ModelwrightError

BYTE_VALUES = 256


class DataError(ModelwrightError):
    """A text that is missing, or too short for the model."""


@dataclass(frozen=True)
class Batch:
    """Consecutive tokens and what follows each."""

    tokens_BS: Tensor  # noqa: N815 - the shape
    """Input, [b, s], int64."""
    labels_BS: Tensor  # noqa: N815 - the shape
    """The next token of each, [b, s], int64."""


@dataclass(frozen=True)
class Text:
    """A text in two parts: what is trained on, and the tail that is held out."""

    training: np.ndarray
    """Bytes."""
    validation: np.ndarray
    """Bytes."""


def prepare(run: RunConfig) -> Text:
    """What can be checked of a run before any process starts: the text, and what the config asks of it.

    Args:
        run: The config.

    Returns:
        The text.

    Raises:
        ModelwrightError: The text cannot be read or does not fit the model, or nothing would keep the gradients.
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
    """Vocabulary and sequence length, which every model that is trained on text declares.

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
            f"a model that is trained on text must have `vocab_size` and `seq_length`, but `{model.kind}` has not: "
            f"{error}."
        ) from error


def read_text(path: str | None, *, validation_fraction: float, seq_length: int) -> Text:
    """Read a text and hold out its tail.

    Args:
        path: A file, read as bytes; None takes the language reference that every CPython carries.
        validation_fraction: Share of the text, at its end, that is held out.
        seq_length: Of the model; each part must hold more than that.

    Returns:
        Both parts.

    Raises:
        DataError: The file cannot be read, or a part is too short.
    """
    content = _language_reference() if path is None else _file(path)
    split = len(content) - int(len(content) * validation_fraction)
    text = Text(training=content[:split], validation=content[split:])
    for part, array in (("training", text.training), ("validation", text.validation)):
        if len(array) <= seq_length:
            raise DataError(
                f"`train.data` must hold more than `model.seq_length` = {seq_length} bytes for {part}, but "
                f"{path or 'the language reference'} holds {len(array)}; use a longer text, a shorter `seq_length`, or "
                "another `train.validation_fraction`."
            )
    return text


def training_batch(text: Text, *, seed: int, step: int, size: int, seq_length: int) -> Batch:
    """The global batch of one step: windows that start anywhere in the text.

    Args:
        text: What `read_text` returned.
        seed: Of the run.
        step: From 1.
        size: Sequences.
        seq_length: Tokens of each.

    Returns:
        [size, seq_length] tokens and labels.
    """
    digest = hashlib.sha256(f"{seed}/batch/{step}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    starts = generator.integers(0, len(text.training) - seq_length, size)
    return _windows(text.training, starts, seq_length)


def validation_batch(text: Text, *, size: int, seq_length: int) -> Batch:
    """The held-out windows: evenly spaced, the same at every step.

    Args:
        text: What `read_text` returned.
        size: Sequences.
        seq_length: Tokens of each.

    Returns:
        [size, seq_length] tokens and labels.
    """
    starts = np.linspace(0, len(text.validation) - seq_length - 1, size).astype(np.int64)
    return _windows(text.validation, starts, seq_length)


def synthetic_batch(*, size: int, seq_length: int, vocab_size: int, seed: int) -> Batch:
    """Random tokens, to run a model without a text.

    Args:
        size: Sequences.
        seq_length: Tokens of each.
        vocab_size: Tokens are below it.
        seed: The same on all ranks.

    Returns:
        [size, seq_length] tokens and labels.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocab_size, (size, seq_length + 1), generator=generator)
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


def micro_batches(batch: Batch, *, data_rank: int, data_size: int, micro_batch: int) -> Iterator[Batch]:
    """This data-parallel rank's part of a global batch, a micro-batch at a time.

    Args:
        batch: The global batch.
        data_rank: Of this rank.
        data_size: How many of them.
        micro_batch: Sequences of each yield.

    Yields:
        [micro_batch, seq_length] tokens and labels.
    """
    share = batch.tokens_BS.size(0) // data_size
    for start in range(data_rank * share, (data_rank + 1) * share, micro_batch):
        rows = slice(start, start + micro_batch)
        yield Batch(batch.tokens_BS[rows], batch.labels_BS[rows])


def _windows(content: np.ndarray, starts: np.ndarray, seq_length: int) -> Batch:
    windows = content[starts[:, None] + np.arange(seq_length + 1)].astype(np.int64)
    tokens = torch.from_numpy(windows)
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


def _language_reference() -> np.ndarray:
    from pydoc_data.topics import topics

    return np.frombuffer("\n".join(topics[name] for name in sorted(topics)).encode(), dtype=np.uint8)


def _file(path: str) -> np.ndarray:
    try:
        return np.memmap(Path(path), dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is empty"
        raise DataError(f"`train.data` must be a text that can be read, but {path!r} cannot: {reason}.") from error
