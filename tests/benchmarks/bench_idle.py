"""What an idle rank of a pool costs: CPU time, threads and context switches while it waits, before and after a job.

The scheduler counts the switches (`/proc/PID/task/*/status`), and how many there are depends on what else runs. So this
is a benchmark and no test.

    python -m tests.benchmarks.bench_idle
"""

import os
import time
from pathlib import Path

from modelwright.config import Parallelism
from modelwright.testing import RankPool

SECONDS = 5.0


def pid() -> int:
    return os.getpid()


def job() -> int:
    """Join a job, reduce a number, and leave it."""
    import torch

    from modelwright.distributed import initialize

    initialize(Parallelism(tensor=2))
    torch.distributed.all_reduce(torch.ones(1))
    return os.getpid()


def counts(process: int) -> tuple[float, int, int]:
    """Seconds of CPU, voluntary context switches and threads of a process."""
    ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    switches, threads = 0, list(Path(f"/proc/{process}/task").iterdir())
    for thread in threads:
        status = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines() if ":\t" in line)
        switches += int(status["voluntary_ctxt_switches"])
    return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK"), switches, len(threads)


def main() -> None:
    with RankPool(2) as pool:
        for name, function in (("before its first job", pid), ("after a job", job), ("after another job", job)):
            processes = pool.run(function)
            time.sleep(1.0)
            before = [counts(process) for process in processes]
            time.sleep(SECONDS)
            for rank, (process, (cpu, switches, _)) in enumerate(zip(processes, before, strict=True)):
                cpu_now, switches_now, threads = counts(process)
                print(
                    f"rank {rank} {name}: {100 * (cpu_now - cpu) / SECONDS:.1f} % of a core, "
                    f"{(switches_now - switches) / SECONDS:.1f} voluntary switches a second, {threads} threads"
                )


if __name__ == "__main__":
    main()
