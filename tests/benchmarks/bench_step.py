"""A training step of a built model against the same engine modules wired by hand, on two tensor ranks.

Run it with `python -m tests.benchmarks.bench_step`. Both models stand in the same two processes, hold the same classes
of modules and the same weights, and take their steps in turn; printed are the median ratio of neighboring steps, in
wall time and in CPU time, and the same for the model by hand against a second one by hand, which is the noise.
"""

import logging
import statistics
import time
import warnings
from typing import Any

from modelwright.config import MegatronDDP, Parallelism, Precision, TrainConfig
from modelwright.gpt import GPTModelConfig
from modelwright.testing import RankPool

MODEL = GPTModelConfig(num_layers=4, hidden_size=256, num_attention_heads=8, vocab_size=256, seq_length=256)
TENSOR_2 = Parallelism(tensor=2)
TRAIN = TrainConfig(steps=1, micro_batch=4, global_batch=4)
ROUNDS = 60


def by_hand(groups: Any, weights: dict[str, Any]) -> Any:
    """The engine's modules through its own specs, builder and wrapper, with the parts of our `torch` backend."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.models.hybrid import hybrid_block
    from megatron.training.models import HybridModelBuilder

    from modelwright.layers import SdpaCoreAttention, TorchNorm
    from tests.integration.test_engine_oracle import engine_config

    hybrid_block.TENorm = TorchNorm  # Transformer Engine's, hard-coded there, needs CUDA
    config = engine_config(MODEL, TENSOR_2, norm=TorchNorm, core_attention=SdpaCoreAttention)
    model = HybridModelBuilder(config).build_model(groups)
    model.load_state_dict(weights, strict=False)
    return DistributedDataParallel(
        config=model.config, ddp_config=DistributedDataParallelConfig(), module=model, pg_collection=groups
    )


def steps() -> dict[str, tuple[float, float]]:
    """By what is compared: ratios of wall and of CPU time."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize, unwrapped
    from modelwright.training import make_optimizer, run_batch, synthetic_batch

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    groups = initialize(TENSOR_2)
    (ours,) = builder_for(MODEL).build_distributed_models(
        groups, parallelism=TENSOR_2, precision=Precision(), wrap=MegatronDDP()
    )
    weights = unwrapped(ours).state_dict()
    models = {"ours": ours, "by hand": by_hand(groups, weights), "by hand again": by_hand(groups, weights)}
    classes = {name: sorted(type(m).__name__ for m in unwrapped(model).modules()) for name, model in models.items()}
    if classes["ours"] != classes["by hand"]:
        raise RuntimeError(f"the models must hold the same classes of modules, but are {classes}")
    optimizers = {name: make_optimizer([model], TRAIN, Precision(), groups) for name, model in models.items()}
    batch = synthetic_batch(size=4, seq_length=MODEL.seq_length, vocab_size=MODEL.vocab_size, seed=1)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    losses: dict[str, float] = {}
    for round_ in range(ROUNDS):
        order = list(models)
        for name in order[round_ % 3 :] + order[: round_ % 3]:
            wall, cpu = time.perf_counter(), time.process_time()
            models[name].zero_grad_buffer()
            losses[name] = run_batch([models[name]], batch, groups, TENSOR_2, micro_batch=4, optimizer=optimizers[name])
            optimizers[name].step()
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    if max(losses.values()) - min(losses.values()) > 1e-4:
        raise RuntimeError(f"the models must train alike, but their last losses are {losses}")
    return {
        name: tuple(
            statistics.median(a[i] / b[i] for a, b in zip(taken[name], taken["by hand"], strict=True)) for i in range(2)
        )
        for name in ("ours", "by hand again")
    }


def main() -> None:
    """Print the ratios of rank 0."""
    with RankPool(2) as pool:
        found = pool.run(steps)[0]
    print("time of a step over that of the same modules by hand (aim: 1 ± 0.02)")
    for name, (wall, cpu) in found.items():
        print(f"  {name:14}  wall {wall:.3f}  CPU {cpu:.3f}")


if __name__ == "__main__":
    main()
