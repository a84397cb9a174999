"""The scan of Mamba-2 in PyTorch against that of HF transformers, forward and backward, and the cost of a single step.

Run it with `python -m tests.benchmarks.bench_ssd [THREADS]`. Both scans get the same tensors, take their turns in one
process, and the best of each is printed, in milliseconds; a ratio above 1 says how much faster ours is. Then ours over
growing lengths, in tokens per second, and `ssd_step` after growing numbers of tokens, in microseconds per token.
"""

import logging
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from modelwright.layers import ssd_scan, ssd_step

BATCH, LENGTH, HEADS, HEAD_SIZE, STATE = 4, 512, 16, 64, 64
ROUNDS = 4


def inputs(length: int, *, groups: int, dtype: torch.dtype = torch.float32, batch: int = BATCH) -> dict[str, Tensor]:
    """x, dt, A, B and C, all with gradients."""
    torch.manual_seed(0)
    shapes = {
        "x": (HEADS, HEAD_SIZE),
        "dt": (HEADS,),
        "B": (groups, STATE),
        "C": (groups, STATE),
    }
    made = {name: torch.randn(batch, length, *tail, dtype=dtype) for name, tail in shapes.items()}
    made["A"] = -torch.linspace(1, 16, HEADS)
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def once(scan: Callable[..., Any], given: dict[str, Tensor], chunk: int, outer: Tensor) -> tuple[float, float]:
    """Seconds of one forward and one backward."""
    options = {"D": torch.ones(HEADS), "dt_bias": torch.full((HEADS,), -3.0), "dt_softplus": True}
    start = time.perf_counter()
    y = scan(given["x"], given["dt"], given["A"], given["B"], given["C"], chunk, **options)
    middle = time.perf_counter()
    torch.autograd.grad(y, list(given.values()), outer.to(y.dtype))
    return middle - start, time.perf_counter() - middle


def against_transformers() -> None:
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    print(f"{BATCH} x {LENGTH} tokens, {HEADS} heads x {HEAD_SIZE}, state {STATE}: forward + backward in ms")
    for groups, chunk, dtype in ((1, 64, torch.float32), (1, 128, torch.float32), (1, 256, torch.float32),
                                 (8, 128, torch.float32), (1, 128, torch.bfloat16)):  # fmt: skip
        given = inputs(LENGTH, groups=groups, dtype=dtype)
        outer = torch.randn(given["x"].shape)
        runs = [
            (once(mamba2_chunk_scan, given, chunk, outer), once(ssd_scan, given, chunk, outer)) for _ in range(ROUNDS)
        ]
        (hf_forward, hf_backward), (forward, backward) = (
            [1e3 * min(run[side][half] for run in runs) for half in range(2)] for side in range(2)
        )
        ratio = (hf_forward + hf_backward) / (forward + backward)
        print(
            f"groups {groups} chunk {chunk:3} {str(dtype).removeprefix('torch.'):8}  HF {hf_forward:4.0f} + "
            f"{hf_backward:4.0f}  ours {forward:3.0f} + {backward:3.0f}  ratio {ratio:.1f}"
        )


def over_lengths() -> None:
    for length in (2048, 4096, 8192, 16384):
        given = inputs(length, groups=1, batch=1)
        outer = torch.randn(given["x"].shape)
        best = min(sum(once(ssd_scan, given, 64, outer)) for _ in range(3))
        print(f"length {length:5}: {length / best:7.0f} tokens/s, forward and backward")


@torch.no_grad()
def steps() -> None:
    given = {name: tensor.detach() for name, tensor in inputs(1, groups=1, batch=1).items()}
    state = torch.zeros(1, HEADS, HEAD_SIZE, STATE)
    x, dt, B, C = given["x"][:, 0], given["dt"][:, 0, :, None], given["B"][:, 0], given["C"][:, 0]
    done = 0
    for until in (1000, 2000, 4000, 8000):
        times: list[float] = []
        while done < until:
            start = time.perf_counter()
            ssd_step(state, x, dt, given["A"][:, None, None], B, C, torch.ones(HEADS, 1), dt_softplus=True)
            times.append(time.perf_counter() - start)
            done += 1
        print(f"step, tokens up to {until}: {1e6 * sorted(times)[len(times) // 2]:.0f} us per token (median)")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    against_transformers()
    over_lengths()
    steps()
