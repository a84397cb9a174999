"""The cost of checksums: saving and loading a checkpoint with and without them, in turn, in one process.

    python -m tests.benchmarks.bench_checkpoint [--hidden 1024] [--rounds 9] [--folder /var/tmp]

One rank that `launch` starts, weights and optimizer state. A load ends when the values are in the model, with the files
in the page cache or not. A save ends when everything is on the disk. Optimizer state is made anew in each load, as in a
new process.
"""

import argparse
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from modelwright.config import Parallelism, RunConfig, TrainConfig
from modelwright.gpt import GPTModelConfig
from modelwright.training import launch


def evict(folder: Path) -> None:
    """Remove the files of a folder from the page cache."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read_all(folder: Path) -> None:
    """Bring the files of a folder into the page cache."""
    for file in folder.iterdir():
        with file.open("rb", buffering=0) as opened:
            while opened.read(2**24):
                pass


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def compare(title: str, rounds: int, once: Callable[[bool], float]) -> None:
    """Print medians of both sides, and the median of the ratios of neighbors. One round is not counted."""
    pairs: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        order = random.sample([True, False], 2)
        taken = {side: once(side) for side in order}
        if number:
            pairs.append((taken[True], taken[False]))
    having, lacking = (median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(a / b for a, b in pairs)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    print(
        f"{title}: {1000 * having:7.1f} ms with, {1000 * lacking:7.1f} ms without checksums; ratio of medians "
        f"{having / lacking:.3f}, median ratio {median(ratios):.3f} (quartiles {low:.3f} to {high:.3f})",
        flush=True,
    )


def measure(hidden: int, rounds: int, base: Path) -> None:
    """Run the comparison in a rank."""
    from modelwright.distributed import initialize
    from modelwright.engine import device_runtime
    from modelwright.training import Trainer, builder_of, load_checkpoint, prepare_text, save_checkpoint
    from modelwright.training.checkpoint.files import tensor_file
    from modelwright.training.checkpoint.files.checksum import CHECKSUM_LENGTH

    model = GPTModelConfig(num_layers=4, hidden_size=hidden, num_attention_heads=8, vocab_size=256, seq_length=128)
    run = RunConfig(model=model, train=TrainConfig(steps=1, micro_batch=1, global_batch=1)).with_data_size(1)
    with device_runtime():
        groups = initialize(Parallelism())
        options: dict[str, Any] = {"parallelism": run.parallelism, "precision": run.precision, "wrap": run.wrap}
        state = Trainer(
            run, builder_of(run).build_distributed_models(groups, **options), groups, prepare_text(run)
        ).state
        path = save_checkpoint(state, run, base / "whole", 1)
        size = sum(file.stat().st_size for file in path.iterdir())
        print(f"{size / 2**30:.2f} GiB, {os.cpu_count()} cores, median of {rounds}")

        def load(cache: Callable[[Path], None], verify: bool) -> float:
            cache(path)
            for optimizer in getattr(state.optimizer, "chained_optimizers", [state.optimizer]):
                optimizer.optimizer.state.clear()
            return timed(lambda: load_checkpoint(state, path, verify=verify))

        compare("load, page cache warm", rounds, lambda verify: load(read_all, verify))
        compare("load, page cache cold", rounds, lambda verify: load(evict, verify))
        before = tensor_file.checksum

        def save(summed: bool) -> float:
            shutil.rmtree(base / "saved", ignore_errors=True)
            os.sync()
            tensor_file.checksum = before if summed else lambda content, **options: "0" * CHECKSUM_LENGTH
            try:
                return timed(lambda: save_checkpoint(state, run, base / "saved", 1))
            finally:
                tensor_file.checksum = before

        compare("save, synced to the disk", rounds, save)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as base:
        launch(measure, given.hidden, given.rounds, Path(base), ranks=1, threads=given.threads)


if __name__ == "__main__":
    main()
