"""After `finalize` a process is as before: threads, open files, temporary files, environment, the engine's globals."""

import os
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from modelwright.config import MegatronDDP, Parallelism, RunConfig, TorchFSDP2, TrainConfig, Wrap, replace
from modelwright.gpt import GPTModelConfig
from modelwright.mamba import MambaModelConfig
from modelwright.moe import MoeModelConfig
from modelwright.testing import RankPool
from tests.integration.jobs import quiet

type State = dict[str, Any]

GPT = GPTModelConfig(num_layers=2, hidden_size=32, num_attention_heads=2, vocab_size=256, seq_length=16)
MOE = MoeModelConfig(
    num_layers=1, hidden_size=32, num_attention_heads=2, vocab_size=256, seq_length=16, num_experts=4, top_k=2
)
MAMBA = MambaModelConfig(
    num_layers=2, hidden_size=32, mamba_head_dim=16, mamba_num_groups=2, vocab_size=256, seq_length=16
)
DDP, DISTRIBUTED = MegatronDDP(overlap_grad_reduce=True), MegatronDDP(distributed_optimizer=True)
RUNS: dict[str, tuple[Any, Parallelism, Wrap]] = {
    "gpt-ddp": (GPT, Parallelism(tensor=2), DDP),
    "gpt-pipeline": (GPT, Parallelism(pipeline=2), DDP),
    "gpt-distributed-optimizer": (GPT, Parallelism(), DISTRIBUTED),
    "gpt-fsdp2": (GPT, Parallelism(), TorchFSDP2()),
    "moe-ddp": (MOE, Parallelism(expert=2), DDP),
    "moe-distributed-optimizer": (MOE, Parallelism(expert=2), DISTRIBUTED),
    "mamba-ddp": (MAMBA, Parallelism(tensor=2), DDP),
    "mamba-fsdp2": (MAMBA, Parallelism(), TorchFSDP2()),
}
FAMILIES: dict[str, tuple[Any, Parallelism]] = {
    "gpt": (GPT, Parallelism(tensor=2)),
    "moe": (MOE, Parallelism(expert=2)),
    "mamba": (MAMBA, Parallelism(tensor=2)),
    "hybrid": (replace(MAMBA, num_layers=None, pattern="M*M-", num_attention_heads=2), Parallelism(pipeline=2)),
}
WRAPS: dict[str, Wrap] = {"ddp": DDP, "distributed": DISTRIBUTED, "fsdp2": TorchFSDP2()}
TRAIN = TrainConfig(steps=1, micro_batch=1, global_batch=2, lr=1e-3)


def train_again(run: RunConfig, times: int, folder: Path) -> list[State]:
    """Train and finalize this often in one process; the state of the process after each time."""
    quiet()
    from modelwright.distributed import finalize
    from modelwright.training import train

    tempfile.tempdir = str(folder)
    try:
        states: list[State] = []
        for _ in range(times):
            train(run)
            finalize()
            states.append(state_of_process() | {"temporary files": sorted(one.name for one in folder.iterdir())})
        return states
    finally:
        tempfile.tempdir = None


def state_of_process() -> State:
    """Return what a job can leave behind in a process."""
    from megatron.core import parallel_state

    descriptors = list(Path("/proc/self/fd").iterdir())
    return {
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "open files": len(descriptors),
        "sockets": sum("socket:" in str(link.readlink()) for link in descriptors if link.is_symlink()),
        "environment": dict(os.environ),
        "engine": sorted(name for name, value in vars(parallel_state).items() if name[1:].isupper() and value),
    }


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_left_of_a_training(two_ranks: RankPool, name: str, tmp_path: Path):
    model, parallelism, wrap = RUNS[name]
    run = RunConfig(name=name, model=model, parallelism=parallelism, wrap=wrap, train=TRAIN)
    for states in two_ranks.run(train_again, run, 4, tmp_path):
        assert states[3] == states[1]


@pytest.mark.proof
@pytest.mark.parametrize(("family", "wrap"), list(product(FAMILIES, WRAPS)))
def test_nothing_is_left_of_fifty_trainings(two_ranks: RankPool, family: str, wrap: str, tmp_path: Path):
    model, parallelism = FAMILIES[family]
    if wrap == "fsdp2" and parallelism.pipeline > 1:
        parallelism = Parallelism()
    run = RunConfig(name=family, model=model, parallelism=parallelism, wrap=WRAPS[wrap], train=TRAIN)
    for states in two_ranks.run(train_again, run, 50, tmp_path):
        assert states[49] == states[1]
