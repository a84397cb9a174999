"""Batches: the tokens of a step, of a rank and of a micro-batch.

The global batch of a step is a function of the seed and the step alone, and each data-parallel rank uses its slice of
it. A run that is resumed, or moved to another layout, therefore reads the same batches as an unbroken run on one rank.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modelwright.training.data.text import Text


@dataclass(frozen=True)
class Batch:
    """Consecutive tokens, and the token that follows each."""

    tokens_BS: Tensor  # noqa: N815 - the shape
    """Input tokens, [b, s], int64."""
    labels_BS: Tensor  # noqa: N815 - the shape
    """The next token of each, [b, s], int64."""

    first: int = 0
    """Number of the first sequence within the global batch."""


def training_batch(text: Text, *, seed: int, step: int, size: int, seq_length: int) -> Batch:
    """Return the global batch of one step: windows that start anywhere in the training part.

    Args:
        text: From `read_text`.
        seed: Seed of the run.
        step: Number of the step, from 1.
        size: Number of sequences, b.
        seq_length: Tokens per sequence, s.

    Returns:
        Tokens and labels, [b, s].
    """
    digest = hashlib.sha256(f"{seed}/batch/{step}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    starts = generator.integers(0, len(text.training) - seq_length, size)
    return _windows(text.training, starts, seq_length)


def validation_batch(text: Text, *, size: int, seq_length: int) -> Batch:
    """Return evenly spaced windows of the held-out part, the same at every step.

    Args:
        text: From `read_text`.
        size: Number of sequences, b.
        seq_length: Tokens per sequence, s.

    Returns:
        Tokens and labels, [b, s].
    """
    starts = np.linspace(0, len(text.validation) - seq_length - 1, size).astype(np.int64)
    return _windows(text.validation, starts, seq_length)


def synthetic_batch(*, size: int, seq_length: int, vocab_size: int, seed: int) -> Batch:
    """Return a batch of random tokens, to run a model without a text.

    Args:
        size: Number of sequences, b.
        seq_length: Tokens per sequence, s.
        vocab_size: Upper bound of the tokens, exclusive.
        seed: Seed of the draws, the same on all ranks.

    Returns:
        Tokens and labels, [b, s].
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocab_size, (size, seq_length + 1), generator=generator)
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


def micro_batches(batch: Batch, *, data_rank: int, data_size: int, micro_batch: int) -> Iterator[Batch]:
    """Yield the micro-batches of one data-parallel rank.

    Args:
        batch: The global batch, [b, s].
        data_rank: Data-parallel rank.
        data_size: Number of data-parallel ranks.
        micro_batch: Sequences per micro-batch.

    Yields:
        Tokens and labels, [micro_batch, s].
    """
    share = batch.tokens_BS.size(0) // data_size
    for start in range(data_rank * share, (data_rank + 1) * share, micro_batch):
        rows = slice(start, start + micro_batch)
        yield Batch(batch.tokens_BS[rows], batch.labels_BS[rows], first=batch.first + start)


def _windows(content: np.ndarray, starts: np.ndarray, seq_length: int) -> Batch:
    windows = content[starts[:, None] + np.arange(seq_length + 1)].astype(np.int64)
    tokens = torch.from_numpy(windows)
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
