"""Page faults of a tensor above 32 MB that is made and freed over and over, in a rank that `launch` starts.

`launch` tells glibc to keep freed memory; the other side of the comparison has glibc's default. How many pages the
kernel reclaims in between depends on the machine, so this is a benchmark and no test.

    python -m tests.benchmarks.bench_memory
"""

import os
import resource
import tempfile
from pathlib import Path
from statistics import median

import torch

from modelwright.training import launch

TENSOR_BYTES = 64 * 2**20
ROUNDS = 20
GLIBC_DEFAULTS = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_TRIM_THRESHOLD_": str(128 * 2**10)}


def count_faults(file: Path) -> None:
    """Write the median number of page faults of one such tensor."""
    faults = []
    for _ in range(ROUNDS):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(TENSOR_BYTES // 4)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    file.write_text(str(median(faults)))


def main() -> None:
    pages = TENSOR_BYTES / resource.getpagesize()
    for name, settings in (("freed memory kept", {}), ("glibc's default", GLIBC_DEFAULTS)):
        for variable in GLIBC_DEFAULTS:
            os.environ.pop(variable, None)
        os.environ.update(settings)
        with tempfile.TemporaryDirectory() as folder:
            launch(count_faults, Path(folder, "faults"), ranks=1)
            faults = float(Path(folder, "faults").read_text())
        print(f"{name}: {faults:.0f} faults a tensor, {faults / pages:.2f} of its pages")


if __name__ == "__main__":
    main()
