"""A Mamba model continues from its states: token by token it gives the logits of the full text, at a constant cost."""

from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright.config import NoWrap, Parallelism, Precision, RunConfig, TrainConfig, replace
from modelwright.testing import RankPool
from tests.integration.jobs import quiet
from tests.integration.test_mamba_parity import HYBRID, TINY


def both_ways(model: Any, parallelism: Parallelism, read: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [b, s, v] of a whole sequence at once, and of its beginning and then one token after the other."""
    quiet()
    from megatron.core.inference.contexts import StaticInferenceContext

    from modelwright.builders import builder_for
    from modelwright.distributed import initialize

    groups = initialize(parallelism)
    (built,) = builder_for(model).build_for_inference(groups, parallelism=parallelism, precision=Precision())
    tokens_BS = torch.randint(256, (2, 24), generator=torch.Generator().manual_seed(0))
    positions_BS = torch.arange(24).expand(2, 24)
    with torch.no_grad():
        whole = built(tokens_BS, positions_BS, None, runtime_gather_output=True)
        cache = StaticInferenceContext(max_batch_size=2, max_sequence_length=24)
        parts: list[torch.Tensor] = []
        for start, stop in [(0, read), *((i, i + 1) for i in range(read, 24))]:
            there = slice(start, stop)
            found = built(
                tokens_BS[:, there], positions_BS[:, there], None, inference_context=cache, runtime_gather_output=True
            )
            parts.append(found[:, -1:])
            cache.increment_sequence_len_offset(stop - start)
    return whole[:, read - 1 :], torch.cat(parts, dim=1)


@pytest.mark.parametrize("read", [1, 2, 11])
@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("model", ["mamba", "hybrid", "options"])
def test_token_by_token_as_the_whole(model: str, tensor: int, read: int, two_ranks: RankPool) -> None:
    options = {"d_per_channel": True, "mamba_bias": True, "conv_bias": False, "dt_limit": (0.002, 0.05)}
    config = {"mamba": TINY, "hybrid": HYBRID, "options": replace(TINY, **options)}[model]
    for whole, parts in two_ranks.run(both_ways, config, Parallelism(tensor=tensor), read, ranks=tensor):
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def tokens_read(run: RunConfig, folder: Path) -> list[int]:
    """Train a little, generate, and say how many tokens the model read each time it was called."""
    quiet()
    from modelwright.training import generate, load_for_inference, train

    train(run, out=folder)
    loaded = load_for_inference(folder)
    read: list[int] = []
    loaded.model.register_forward_pre_hook(lambda _, given: read.append(given[0].size(1)))
    list(generate(loaded, "The ", tokens=40))
    return read


@pytest.mark.parametrize(("model", "again"), [(TINY, False), (HYBRID, True)], ids=["mamba", "hybrid"])
def test_a_token_is_read_once_however_long_the_text(
    model: Any, again: bool, two_ranks: RankPool, tmp_path: Path
) -> None:
    """Beyond `seq_length` too, where attention has to read half of its context again."""
    run = RunConfig(model=replace(model, seq_length=16), train=TrainConfig(steps=1, micro_batch=1, global_batch=1))
    (read,) = two_ranks.run(tokens_read, run, tmp_path / "run", ranks=1)
    assert len(read) == 40
    assert (read == [4, *[1] * 39]) is not again


def test_states_of_a_batch_are_of_their_layer(two_ranks: RankPool) -> None:
    (kept,) = two_ranks.run(states_after, HYBRID, ranks=1)
    assert sorted(kept) == [layer for layer, symbol in enumerate(HYBRID.layers, start=1) if symbol in "M*"]


def states_after(model: Any) -> list[int]:
    """Return the layers that keep a state of a sequence."""
    quiet()
    from megatron.core.inference.contexts import StaticInferenceContext

    from modelwright.builders import builder_for
    from modelwright.distributed import initialize

    groups = initialize(Parallelism())
    (built,) = builder_for(model).build_distributed_models(
        groups, parallelism=Parallelism(), precision=Precision(), wrap=NoWrap()
    )
    cache = StaticInferenceContext(max_batch_size=1, max_sequence_length=8)
    with torch.no_grad():
        built.eval()(torch.zeros(1, 4, dtype=torch.long), torch.arange(4)[None], None, inference_context=cache)
    return list(cache.key_value_memory_dict)
