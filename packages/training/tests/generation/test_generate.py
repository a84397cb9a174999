"""A trained model continues a text; the model of the tests sees one byte, so what it must say can be computed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright.config import Parallelism, replace
from modelwright.distributed import initialize
from modelwright.protocols import ModelwrightError
from modelwright.training import LoadedModel, Sampling, builder_of, generate, load_for_inference, train
from packages.training.tests.tiny import BigramConfig, bigram_run

pytestmark = pytest.mark.usefixtures("engine")


def following(successor: dict[int, int], vocab_size: int = 256) -> LoadedModel:
    """A model after each byte of which comes the given one, 0 otherwise; tokens above the bytes are likelier still."""
    run = replace(bigram_run(), model=BigramConfig(vocab_size=vocab_size, width=vocab_size))
    model: Any = builder_of(run).build_model(initialize(Parallelism()))
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(vocab_size))
        model.output.weight.zero_()
        model.output.bias.zero_()
        model.output.bias[256:] = 9.0
        for byte, after in successor.items():
            model.output.weight[after, byte] = 5.0
    return LoadedModel(run, model.eval())


def text(loaded: LoadedModel, prompt: str, tokens: int, **sampling: Any) -> str:
    return "".join(generate(loaded, prompt, tokens=tokens, sampling=Sampling(**sampling)))


ABC = {ord("a"): ord("b"), ord("b"): ord("c"), ord("c"): ord("a")}


def test_greedy_follows_the_model_beyond_its_sequence_length() -> None:
    loaded = following(ABC)
    assert text(loaded, "xa", 5) == "bcabc"
    assert text(loaded, "a", 60) == "bca" * 20
    assert text(loaded, "c" * 40, 4) == "abca"


def test_only_bytes_are_chosen_from_a_padded_vocabulary() -> None:
    assert text(following(ABC, vocab_size=300), "a", 5) == "bcabc"


def test_a_character_comes_when_its_last_byte_is_there() -> None:
    loaded = following({ord("a"): 0xC3, 0xC3: 0xA9, 0xA9: ord("a")})
    assert list(generate(loaded, "a", tokens=6)) == ["é", "a", "é", "a"]
    assert list(generate(loaded, "a", tokens=4)) == ["é", "a", "�"]
    assert text(loaded, "é", 3) == "aé"


def test_what_is_not_utf_8_is_replaced() -> None:
    assert text(following({ord("a"): 0xFF, 0xFF: ord("a")}), "a", 4) == "�a�a"


def test_sampling_is_a_function_of_its_seed() -> None:
    loaded = following(ABC)
    first, again, other = (text(loaded, "a", 12, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert text(loaded, "a", 12, temperature=1.0, top_k=1) == "bca" * 4


def test_an_empty_prompt() -> None:
    with pytest.raises(ModelwrightError, match=r"^`prompt` "):
        text(following(ABC), "", 3)


def test_a_run_is_loaded_with_its_trained_weights(tmp_path: Path) -> None:
    run = bigram_run(12)
    records = train(run, out=tmp_path)
    loaded = load_for_inference(tmp_path)
    assert loaded.run.model == run.model
    assert not loaded.model.training
    assert records[-1].loss < records[0].loss - 0.5
    logits = loaded.model(torch.arange(256).unsqueeze(0))[0]
    written = text(loaded, "e", 8).encode()
    assert list(written) == [int(logits[byte].argmax()) for byte in b"e" + written[:-1]]
