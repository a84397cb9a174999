"""A checkpoint of one layout, loaded on the next and the next: the losses stay those of the unbroken run."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from modelwright.config import Parallelism, RunConfig, TrainConfig, replace
from modelwright.mamba import MambaModelConfig
from modelwright.moe import MoeModelConfig
from modelwright.testing import RankPool
from modelwright.training import checkpoint_path, checkpoints
from tests.integration.jobs import TINY

TRAIN = TrainConfig(steps=6, micro_batch=2, global_batch=4, lr=1e-2, checkpoint_interval=2)
SIZES: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 256, "seq_length": 32}
EXPERTS: dict[str, Any] = {"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": 48}
SCAN: dict[str, Any] = {"mamba_state_dim": 16, "mamba_head_dim": 16, "mamba_num_groups": 2, "chunk_size": 8}
SPLIT = Parallelism(tensor=2, sequence=True)
RUNS = {
    "gpt": RunConfig(model=TINY, parallelism=Parallelism(tensor=2), train=TRAIN),
    "moe": RunConfig(model=MoeModelConfig(num_layers=2, **SIZES, **EXPERTS), parallelism=SPLIT, train=TRAIN),
    "hybrid": RunConfig(
        model=MambaModelConfig(pattern="MEM*", **SIZES, **EXPERTS, **SCAN),
        parallelism=SPLIT,
        train=TRAIN,
    ),
}


def go_on(run: RunConfig, out: Path, resume: Path | None) -> list[tuple[int, float, float]]:
    """Train as one rank: step, loss and gradient norm of each step."""
    from modelwright.training import train

    return [(record.step, record.loss, record.grad_norm) for record in train(run, out=out, resume=resume)]


@pytest.mark.parametrize("family", RUNS)
def test_two_ranks_then_a_pipeline_then_one_rank(family: str, two_ranks: RankPool, tmp_path: Path) -> None:
    """The first layout splits the layers themselves: by tensor, experts and scans too."""
    first = RUNS[family]
    unbroken = two_ranks.run(go_on, first, tmp_path / "unbroken", None)[0]
    before, out = tmp_path / "unbroken", tmp_path
    found = unbroken[:2]
    layouts = {2: Parallelism(pipeline=2), 4: Parallelism()}
    for step, parallelism in layouts.items():
        out = tmp_path / f"from-{step}"
        shutil.copytree(checkpoint_path(before, step), checkpoint_path(out, step))
        run = replace(first, parallelism=parallelism)
        steps = two_ranks.run(go_on, run, out, out, ranks=parallelism.world_size())[0]
        assert [of for of, _, _ in steps] == list(range(step + 1, 7))
        found = found[:step] + steps
        before = out
    assert [step for step, _ in checkpoints(out)] == [4, 6]
    for here, there in zip(found, unbroken, strict=True):
        assert here == pytest.approx(there, abs=1e-4)
