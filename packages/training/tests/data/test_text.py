"""Text as bytes: read from anywhere it may lie, cut into windows that depend on the seed and the step alone."""

from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch

from modelwright.config import ModelConfig, RunConfig, TrainConfig, config_class
from modelwright.protocols import ModelwrightError
from modelwright.training import (
    Batch,
    DataError,
    Text,
    micro_batches,
    prepare_text,
    read_text,
    synthetic_batch,
    training_batch,
    validation_batch,
)
from tests.messages import facts

COUNTING = Text(training=np.arange(200, dtype=np.uint8), validation=np.arange(200, 250, dtype=np.uint8))


@config_class
class BytesConfig(ModelConfig):
    """Fields that training on text requires of a model."""

    kind = "data-bytes"

    vocab_size: int = 256
    """Tokens."""

    seq_length: int = 16
    """Tokens in a sequence."""


@config_class
class ImageConfig(ModelConfig):
    """A model that reads no text."""

    kind = "data-image"


def read(path: Path, *, fraction: float = 0.25, seq_length: int = 2) -> Text:
    return read_text(str(path), validation_fraction=fraction, seq_length=seq_length)


def test_a_file_is_read_as_bytes_and_its_tail_held_out(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\x00\xffabcdefg\r\n\xc3")
    text = read(path)
    assert bytes(text.training) == b"\x00\xffabcdefg"
    assert bytes(text.validation) == b"\r\n\xc3"


def test_the_default_is_the_language_reference() -> None:
    text = read_text(None, validation_fraction=0.05, seq_length=16)
    whole = "\n".join(topics[name] for name in sorted(topics)).encode()
    assert bytes(text.training) + bytes(text.validation) == whole
    assert len(text.validation) == len(whole) // 20


@pytest.mark.parametrize(
    ("make", "reason"),
    [("missing", "No such file"), ("folder", "directory"), ("empty", "empty")],
)
def test_a_file_that_cannot_be_read(make: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / make
    if make == "folder":
        path.mkdir()
    if make == "empty":
        path.touch()
    with pytest.raises(DataError) as caught:
        read(path)
    assert facts(caught.value) == f"`train.data` {str(path)!r}"
    assert reason in str(caught.value)


@pytest.mark.parametrize(("fraction", "part", "held"), [(0.5, "training", 16), (0.25, "validation", 8)])
def test_a_text_that_is_too_short(fraction: float, part: str, held: int, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(bytes(32))
    with pytest.raises(DataError) as caught:
        read(path, fraction=fraction, seq_length=16)
    assert (
        facts(caught.value)
        == f"`train.data` `model.seq_length` 16 {path} {held} `seq_length` `train.validation_fraction`"
    )
    assert f" for {part}" in str(caught.value)


def test_one_byte_more_than_a_window_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(bytes(range(34)))
    text = read(path, fraction=0.5, seq_length=16)
    for batch in (
        training_batch(text, seed=1, step=1, size=3, seq_length=16),
        validation_batch(text, size=3, seq_length=16),
    ):
        assert batch.tokens_BS.shape == (3, 16)


def test_prepare_asks_for_a_vocabulary_of_bytes() -> None:
    with pytest.raises(DataError) as caught:
        prepare_text(RunConfig(model=BytesConfig(vocab_size=255)))
    assert facts(caught.value) == "`model.vocab_size` 256 255 256"


def test_prepare_asks_for_a_model_of_text() -> None:
    with pytest.raises(ModelwrightError) as caught:
        prepare_text(RunConfig(model=ImageConfig()))
    assert facts(caught.value) == "`vocab_size` `seq_length` `data-image` 'ImageConfig' 'vocab_size'"


def test_prepare_reads_what_the_run_names(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(bytes(200))
    train = TrainConfig(data=str(path), validation_fraction=0.25)
    text = prepare_text(RunConfig(model=BytesConfig(), train=train))
    assert (len(text.training), len(text.validation)) == (150, 50)


def test_labels_are_the_next_byte() -> None:
    for batch in (
        training_batch(COUNTING, seed=3, step=5, size=8, seq_length=16),
        validation_batch(COUNTING, size=8, seq_length=16),
    ):
        assert batch.tokens_BS.dtype == batch.labels_BS.dtype == torch.int64
        assert torch.equal(batch.labels_BS, batch.tokens_BS + 1)
        assert torch.equal(batch.tokens_BS[:, 1:], batch.labels_BS[:, :-1])


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    def tokens(seed: int, step: int) -> list[list[int]]:
        return training_batch(COUNTING, seed=seed, step=step, size=4, seq_length=8).tokens_BS.tolist()

    unbroken = [tokens(1, step) for step in range(1, 7)]
    resumed = [tokens(1, step) for step in range(4, 7)]
    assert unbroken[3:] == resumed
    assert len({str(batch) for batch in unbroken}) == 6
    assert tokens(2, 1) != tokens(1, 1)


def test_training_windows_reach_the_whole_text_and_nothing_else() -> None:
    text = Text(training=np.arange(20, dtype=np.uint8), validation=np.zeros(0, dtype=np.uint8))
    batch = training_batch(text, seed=0, step=1, size=500, seq_length=16)
    assert sorted(set(batch.tokens_BS[:, 0].tolist())) == [0, 1, 2, 3]
    assert int(batch.labels_BS.max()) == 19


def test_validation_windows_are_fixed_and_span_the_tail() -> None:
    first, again = (validation_batch(COUNTING, size=3, seq_length=9) for _ in range(2))
    assert first.tokens_BS[:, 0].tolist() == [200, 220, 240]
    assert int(first.labels_BS.max()) == 249
    assert torch.equal(first.tokens_BS, again.tokens_BS)


@pytest.mark.parametrize(("data_size", "micro_batch"), [(1, 1), (1, 8), (2, 2), (4, 1), (4, 2)])
def test_data_ranks_partition_the_global_batch(data_size: int, micro_batch: int) -> None:
    whole = training_batch(COUNTING, seed=1, step=1, size=8, seq_length=4)
    shares = [
        list(micro_batches(whole, data_rank=rank, data_size=data_size, micro_batch=micro_batch))
        for rank in range(data_size)
    ]
    every: list[Batch] = [batch for share in shares for batch in share]
    assert {batch.tokens_BS.size(0) for batch in every} == {micro_batch}
    assert {len(share) for share in shares} == {8 // data_size // micro_batch}
    assert torch.equal(torch.cat([batch.tokens_BS for batch in every]), whole.tokens_BS)
    assert torch.equal(torch.cat([batch.labels_BS for batch in every]), whole.labels_BS)


def test_a_synthetic_batch_is_a_function_of_its_seed() -> None:
    first, again, other = (synthetic_batch(size=2, seq_length=50, vocab_size=9, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.tokens_BS, again.tokens_BS)
    assert not torch.equal(first.tokens_BS, other.tokens_BS)
    assert torch.equal(first.tokens_BS[:, 1:], first.labels_BS[:, :-1])
    assert set(first.tokens_BS.flatten().tolist()) == set(range(9))
