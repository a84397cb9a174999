"""Generation: a trained model continues a text, on one process, with what the engine's context keeps of it.

Attention keeps keys and values of every token, Mamba layers a state whose size does not depend on their number.
"""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from megatron.core.inference.contexts import StaticInferenceContext
from torch import Tensor, nn

from modelwright.config import Parallelism, Precision, RunConfig
from modelwright.distributed import initialize
from modelwright.protocols import ModelwrightError
from modelwright.training.checkpoint.run_folder import checkpoint_config, latest_checkpoint
from modelwright.training.checkpoint.save_load import TrainState, load_checkpoint
from modelwright.training.data.text import BYTE_VALUES
from modelwright.training.loop import builder_of


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = None
    """Only the likeliest k."""
    top_p: float | None = None
    """Only the likeliest that make up p (Holtzman et al. 2019, arXiv 1904.09751)."""
    seed: int = 0
    """Of the draws."""

    def choose(self, logits_V: Tensor, generator: torch.Generator) -> int:
        """Choose one token.

        Args:
            logits_V: Of every token, [v].
            generator: What is drawn from.

        Returns:
            The token.
        """
        if self.temperature == 0.0:
            return int(logits_V.argmax())
        ranked, order = (logits_V.float() / self.temperature).sort(descending=True)
        probabilities = ranked.softmax(0)
        if self.top_k is not None:
            probabilities[self.top_k :] = 0.0
        if self.top_p is not None:
            probabilities[probabilities.cumsum(0) - probabilities >= self.top_p] = 0.0
        return int(order[torch.multinomial(probabilities, 1, generator=generator)])


@dataclass(frozen=True)
class LoadedModel:
    """A model with the config that it was trained with."""

    run: RunConfig
    """Of the run."""
    model: nn.Module
    """In eval mode, whole, on this process."""


def load_for_inference(run_dir: Path) -> LoadedModel:
    """The newest checkpoint of a run as one model on this process, whatever layout wrote it.

    Args:
        run_dir: The folder of the run.

    Returns:
        The model.

    Raises:
        CheckpointError: There is no whole checkpoint.
    """
    _, path = latest_checkpoint(run_dir)
    run = checkpoint_config(path)
    groups = initialize(Parallelism())
    (model,) = builder_of(run).build_for_inference(groups, parallelism=Parallelism(), precision=Precision())
    load_checkpoint(TrainState([model], groups), path)
    return LoadedModel(run, model)


def generate(loaded: LoadedModel, prompt: str, *, tokens: int, sampling: Sampling = Sampling()) -> Iterator[str]:
    """Continue a text, byte by byte.

    Args:
        loaded: From `load_for_inference`.
        prompt: At least one character.
        tokens: How many bytes to add.
        sampling: How each is chosen.

    Yields:
        Characters, each as soon as its last byte is there; what is not UTF-8 becomes a replacement character.

    Raises:
        ModelwrightError: The prompt is empty.
    """
    prefix = list(prompt.encode())
    limit = getattr(loaded.run.model, "context_limit", None)
    if not prefix:
        raise ModelwrightError("`prompt` must hold at least one character, but is empty.")
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    choose = partial(sampling.choose, generator=torch.Generator().manual_seed(sampling.seed))
    for token in _tokens(loaded.model, prefix, tokens, limit=limit, choose=choose):
        if piece := decoder.decode(bytes([token])):
            yield piece
    if piece := decoder.decode(b"", final=True):
        yield piece


@torch.no_grad()
def _tokens(
    model: Any, prefix: list[int], count: int, *, limit: int | None, choose: Callable[[Tensor], int]
) -> Iterator[int]:
    """Tokens one after another; when the sequence is full its older half is dropped and the rest is read again."""
    known, cache = list(prefix), None
    for _ in range(count):
        if limit is not None and len(known) > limit:
            known, cache = known[-max(1, limit // 2) :], None
        if cache is None:
            cache = StaticInferenceContext(max_batch_size=1, max_sequence_length=limit or len(prefix) + count)
            fresh = known
        else:
            fresh = known[-1:]
        start = len(known) - len(fresh)
        tokens = torch.tensor([fresh], device=torch.cuda.current_device())
        positions = torch.arange(start, len(known), device=tokens.device).unsqueeze(0)
        logits_BSV = model(tokens, positions, None, inference_context=cache, runtime_gather_output=True)
        cache.increment_sequence_len_offset(len(fresh))
        token = choose(logits_BSV[0, -1, :BYTE_VALUES])
        known.append(token)
        yield token
