"""Draw the loss curves of one small GPT on eight layouts of two processes: `python docs/figures/layout_curves.py`.

Writes `layout_curves.svg` next to this file. The curves lie on top of each other. The largest difference is in the
title.
"""

from pathlib import Path

import matplotlib as mpl

from modelwright.config import MegatronDDP, Parallelism, RunConfig, TorchFSDP2, TrainConfig, Wrap, replace
from modelwright.distributed import RankPool
from modelwright.gpt import GPTModelConfig
from modelwright.testing import reference_curve
from modelwright.testing.layout_parity import train_curve

mpl.use("svg")
import matplotlib.pyplot as plt

STEPS = 40
RUN = RunConfig(
    model=GPTModelConfig(
        num_layers=4, hidden_size=64, num_attention_heads=8, num_query_groups=4, vocab_size=256, seq_length=64
    ),
    train=TrainConfig(steps=STEPS, micro_batch=2, global_batch=8, lr=1e-3),
)
LAYOUTS: dict[str, tuple[Parallelism, Wrap]] = {
    "tensor 2": (Parallelism(tensor=2), MegatronDDP()),
    "tensor 2, sequence": (Parallelism(tensor=2, sequence=True), MegatronDDP()),
    "pipeline 2": (Parallelism(pipeline=2), MegatronDDP()),
    "pipeline 2 × virtual 2": (Parallelism(pipeline=2, virtual_pipeline=2), MegatronDDP()),
    "context 2": (Parallelism(context=2), MegatronDDP()),
    "data 2, DDP": (Parallelism(data=2), MegatronDDP()),
    "data 2, FSDP2": (Parallelism(data=2), TorchFSDP2()),
}


def main() -> None:
    curves: dict[str, list[float]] = {}
    with RankPool(2) as pool:
        curves["1 rank"] = [point.loss for point in reference_curve(pool, RUN)]
        for name, (parallelism, wrap) in LAYOUTS.items():
            run = replace(RUN, parallelism=parallelism, wrap=wrap)
            curves[name] = [point.loss for point in pool.run(train_curve, run)[0]]
    reference = curves["1 rank"]
    apart = max(abs(a - b) for losses in curves.values() for a, b in zip(losses, reference, strict=True))
    mpl.rcParams["svg.hashsalt"] = "modelwright"
    figure, axes = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    for index, (name, losses) in enumerate(curves.items()):
        width = 1.2 + 0.9 * (len(curves) - index)  # thick below thin, so that all can be seen
        axes.plot(range(1, STEPS + 1), losses, linewidth=width, label=name)
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.set_title(f"One seed, eight layouts: largest difference {apart:.0e}", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).with_name("layout_curves.svg"), metadata={"Date": None})
    print(f"largest difference {apart:.2e}")


if __name__ == "__main__":
    main()
