"""The documented custom configs and builders, each built and trained."""

import runpy
from pathlib import Path

import pytest

from modelwright.testing import RankPool

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "custom_builders.py"


def run_example() -> tuple[dict[str, list[float]], list[int], list[str]]:
    """Return the curves, the shape of fc1 of the wide GPT, and the frozen parameters of the frozen GPT."""
    from modelwright.builders import builder_for, unregister_builder
    from modelwright.config import Parallelism
    from modelwright.distributed import initialize

    example = runpy.run_path(str(EXAMPLE))
    try:
        curves = example["main"](steps=10)
        groups = initialize(Parallelism())
        wide = builder_for(example["WIDE"]).build_model(groups)
        frozen = builder_for(example["GPT"]).build_model(groups)
    finally:
        unregister_builder("gpt")
        unregister_builder("bigram")
    trained = [name for name, p in frozen.named_parameters() if not p.requires_grad]
    return curves, list(wide.decoder.layers[1].mlp.linear_fc1.weight.shape), trained


def test_each_trains_and_is_what_was_asked_for(two_ranks: RankPool) -> None:
    curves, fc1, frozen = two_ranks.run(run_example, ranks=1)[0]
    assert set(curves) == {"wide_gpt", "gpt", "bigram"}
    for kind, losses in curves.items():
        assert losses[0] == pytest.approx(5.545, abs=0.2), kind
        assert losses[-1] < losses[0], kind
    assert fc1 == [2 * 8 * 64, 64]
    assert frozen == ["embedding.word_embeddings.weight"]
