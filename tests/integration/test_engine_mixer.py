"""Our Mamba mixer is the engine's: names, shapes, tensor-parallel attributes, shards, values and gradients."""

import pytest
import torch

from modelwright.config import Parallelism
from modelwright.testing import RankPool
from tests.integration.engine_mixer import compared


@pytest.mark.parametrize("tensor", [1, 2])
def test_it_is_the_engines_mixer(tensor: int, two_ranks: RankPool) -> None:
    for found in two_ranks.run(compared, Parallelism(tensor=tensor), ranks=tensor):
        engine, ours = found["parameters"]
        assert len(engine) == 8
        assert ours == engine
        engine, ours = found["shards"]
        assert len(engine) == 16
        assert ours == engine
        for name in ("outputs", "gradients"):
            engine, ours = found[name]
            assert engine.abs().max() > 1e-3
            torch.testing.assert_close(ours, engine, rtol=1e-5, atol=1e-5)
