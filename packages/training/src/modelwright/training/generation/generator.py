"""Text generation: a trained model continues a text, on one process, with the engine's inference context as cache.

The cache contains the keys and values of attention and the states of Mamba layers. Only the former grow with the text.
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
from modelwright.training.checkpoint.save_load import load_checkpoint
from modelwright.training.checkpoint.train_state import TrainState
from modelwright.training.checkpoint.verification import naming_whole_checkpoint
from modelwright.training.data.text import BYTE_VALUES
from modelwright.training.engine_errors import naming_engine_errors
from modelwright.training.generation.sampling import Sampling
from modelwright.training.loop import builder_of

GREEDY = Sampling()
"""The most likely token each time."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with the config that it was trained with."""

    run: RunConfig
    """Config of the run."""
    model: nn.Module
    """The unsharded model in eval mode, on this process."""


def load_for_inference(run_dir: Path, *, verify: bool = True) -> LoadedModel:
    """Load the newest checkpoint of a run as one unsharded model on this process, whatever layout wrote it.

    Args:
        run_dir: Folder of the run.
        verify: Compare the checkpoint with its checksums.

    Returns:
        The model and the config of the run.

    Raises:
        CheckpointError: There is no complete checkpoint, or it cannot be loaded.
    """
    with naming_whole_checkpoint(run_dir):
        return _loaded(run_dir, verify=verify)


def _loaded(run_dir: Path, *, verify: bool) -> LoadedModel:
    _, path = latest_checkpoint(run_dir, verify=verify)
    run = checkpoint_config(path, verify=verify)
    groups = initialize(Parallelism())
    with naming_engine_errors("build", run):
        (model,) = builder_of(run).build_for_inference(groups, parallelism=Parallelism(), precision=Precision())
    load_checkpoint(TrainState([model], groups), path, verify=verify)
    return LoadedModel(run, model)


def generate(loaded: LoadedModel, prompt: str, *, tokens: int, sampling: Sampling = GREEDY) -> Iterator[str]:
    """Continue a text, byte by byte.

    Args:
        loaded: From `load_for_inference`.
        prompt: Text to continue, at least one character.
        tokens: Number of bytes to add.
        sampling: How each byte is chosen. By default the most likely one.

    Yields:
        Characters, each as soon as its last byte is generated. Bytes that are not UTF-8 become a replacement character.

    Raises:
        ModelwrightError: The prompt is empty.
    """
    prefix = list(prompt.encode())
    limit = getattr(loaded.run.model, "context_limit", None)
    if not prefix:
        raise ModelwrightError("`prompt` must have at least one character, but is empty; pass a text to continue.")
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    choose = partial(sampling.choose, generator=torch.Generator().manual_seed(sampling.seed))
    with naming_engine_errors("generation", loaded.run, [loaded.model]):
        for token in _tokens(loaded.model, prefix, tokens, limit=limit, choose=choose):
            if piece := decoder.decode(bytes([token])):
                yield piece
    if piece := decoder.decode(b"", final=True):
        yield piece


@torch.no_grad()
def _tokens(
    model: Any, prefix: list[int], count: int, *, limit: int | None, choose: Callable[[Tensor], int]
) -> Iterator[int]:
    """Yield one token after another. When the context is full, drop its older half and recompute the cache."""
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
