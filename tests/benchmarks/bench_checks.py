"""The checks before a build, for rank 5 of a world of 16,384: how long they take beside what they protect.

Run it with `python -m tests.benchmarks.bench_checks`. The world is torch's fake process group, so every group has its
real size. The ranks' agreement at the store costs the same four requests whatever the world; it is timed on two real
ranks.
"""

import logging
import statistics
import time

from modelwright.config import MegatronDDP, Parallelism, Precision
from modelwright.gpt import llama31_405b
from modelwright.testing import RankPool

WORLD, RANK, ROUNDS = 16_384, 5, 20
LAYOUT = Parallelism(
    tensor=8, sequence=True, pipeline=16, context=2, stages=(*[8] * 14, *[7] * 2), data=WORLD // (8 * 16 * 2)
)


def timed_ms(function, rounds: int = ROUNDS) -> list[float]:
    """Milliseconds of each call."""
    found: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        found.append(1000 * (time.perf_counter() - start))
    return found


def checks() -> tuple[float, float]:
    """Seconds that making all groups takes once, and milliseconds of the checks."""
    import torch
    from megatron.core import parallel_state
    from megatron.core.process_groups_config import ProcessGroupCollection
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from modelwright.distributed import build_problems

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=WORLD)
    start = time.perf_counter()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=LAYOUT.tensor,
        pipeline_model_parallel_size=LAYOUT.pipeline,
        context_parallel_size=LAYOUT.context,
        create_gloo_process_groups=False,
    )
    groups = ProcessGroupCollection.use_mpu_process_groups()
    making = time.perf_counter() - start
    config = llama31_405b()

    def check() -> None:
        options = {"parallelism": LAYOUT, "precision": Precision(params="bfloat16"), "wrap": MegatronDDP()}
        found = list(build_problems(config, groups, **options))
        if found:
            raise RuntimeError(f"the layout must fit, but: {found}")

    return making, statistics.median(timed_ms(check))


def agreement() -> float:
    """Milliseconds of one agreement of two real ranks."""
    from modelwright.distributed import initialize
    from modelwright.distributed.phase_barrier import PhaseBarrier

    initialize(Parallelism())
    together = PhaseBarrier()
    phases = iter(range(ROUNDS))
    return statistics.median(timed_ms(lambda: together.agree(f"phase {next(phases)}", [], seed="1")))


def main() -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    with RankPool(2) as pool:
        agreed = max(pool.run(agreement))
        ((making, checked),) = pool.run(checks, ranks=1)
    print(f"making the groups of {WORLD:,} ranks    {1000 * making:9.1f} ms")
    print(f"checks of rank {RANK} (aim: under 100)    {checked:9.3f} ms")
    print(f"agreement of two real ranks           {agreed:9.3f} ms")


if __name__ == "__main__":
    main()
