"""Building 300 million parameters on two tensor ranks: wall time and peak memory, ours against the engine's builder.

Run it with `python -m tests.benchmarks.bench_build`. Both sides build the same config in fresh processes of one run,
in turn; printed are medians, and the median ratio of neighbors. The engine draws each rank's shard from its own random
state; ours draws what the whole model has at that place.
"""

import logging
import resource
import statistics
import time
from dataclasses import dataclass

from modelwright.config import NoWrap, Parallelism, Precision
from modelwright.gpt import GPTModelConfig
from modelwright.testing import RankPool

MODEL = GPTModelConfig(
    num_layers=19, hidden_size=1024, num_attention_heads=16, ffn_hidden_size=2816, vocab_size=32_000, seq_length=512
)
TENSOR_2 = Parallelism(tensor=2)
ROUNDS = 7


@dataclass(frozen=True)
class Built:
    """What building cost one rank."""

    seconds: float
    peak_bytes: int
    parameters: int


def build(side: str) -> Built:
    """Build once as one rank of a job."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize, total_parameters

    groups = initialize(TENSOR_2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if side == "ours":
        builder = builder_for(MODEL)
        stages = builder.build_distributed_models(groups, parallelism=TENSOR_2, precision=Precision(), wrap=NoWrap())
    else:
        stages = [_engine_builder().build_model(groups)]
    seconds = time.perf_counter() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return Built(seconds, peak, total_parameters(stages))


def _engine_builder():
    from megatron.core.models.hybrid import hybrid_block
    from megatron.core.transformer.torch_norm import WrappedTorchNorm
    from megatron.training.models import HybridModelBuilder

    from tests.integration.test_engine_oracle import engine_config

    hybrid_block.TENorm = WrappedTorchNorm  # Transformer Engine's, hard-coded there, needs CUDA
    return HybridModelBuilder(engine_config(MODEL, TENSOR_2))


def warm_up() -> None:
    """Import what both sides need, so that no import is timed."""
    from modelwright.builders import builder_for

    logging.disable(logging.WARNING)
    _engine_builder()
    builder_for(MODEL)


def main() -> None:
    """Print the table."""
    results: dict[str, list[Built]] = {"ours": [], "engine": []}
    for round_ in range(ROUNDS):
        for side in list(results) if round_ % 2 else reversed(results):
            with RankPool(2) as pool:
                pool.run(warm_up)
                results[side].extend(pool.run(build, side))
    medians = {
        side: (statistics.median(b.seconds for b in found), statistics.median(b.peak_bytes for b in found))
        for side, found in results.items()
    }
    for side, (seconds, peak) in medians.items():
        parameters = results[side][0].parameters
        print(
            f"{side:8} {seconds:6.2f} s  {peak / 1e6:7.0f} MB peak  = {peak / (4 * parameters):.2f} × its parameters"
            f"  ({parameters:,} a rank)"
        )
    ratio = statistics.median(a.seconds / b.seconds for a, b in zip(results["ours"], results["engine"], strict=True))
    print(f"ours / engine: time {ratio:.2f}, memory {medians['ours'][1] / medians['engine'][1]:.2f}")


if __name__ == "__main__":
    main()
