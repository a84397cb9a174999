"""What the ranks of the launch tests run; importable, because the ranks find it by name. Nothing loads the engine."""

import os
import signal
import time
from pathlib import Path

from modelwright.protocols import ModelwrightError

FOREVER = 600.0
LARGE = 64 * 2**20  # bytes


def _rank() -> int:
    return int(os.environ["RANK"])


def tell(folder: Path, word: str) -> None:
    """Leave a file that says who ran, and as what."""
    said = [word, os.environ["WORLD_SIZE"], os.environ["OMP_NUM_THREADS"]]
    (folder / os.environ["RANK"]).write_text(" ".join(said))


def faults_of_large_tensors(folder: Path) -> None:
    """Leave a file that says how many pages a large tensor faulted in that was made after several like it."""
    import resource

    import torch

    for _ in range(8):  # glibc 2.36 looks for more room than an aligned block leaves, and finds it where two lay
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(LARGE // 4)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    (folder / os.environ["RANK"]).write_text(str(faults))


def _present(folder: Path) -> None:
    """Say which process this is, and wait until every rank has said so."""
    (folder / f"pid-{_rank()}").write_text(str(os.getpid()))
    while len(list(folder.glob("pid-*"))) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.05)


def mendable(folder: Path) -> None:
    """Rank 1 finds something that the user can mend while rank 0 waits."""
    _present(folder)
    if _rank() == 1:
        raise ModelwrightError("`x` must be 1, but is 2.")
    time.sleep(FOREVER)


def defect(folder: Path) -> None:
    """Rank 1 fails in a way that nobody foresaw while rank 0 waits."""
    _present(folder)
    if _rank() == 1:
        raise ZeroDivisionError("of the test")
    time.sleep(FOREVER)


def leave(folder: Path) -> None:
    """Rank 1 ends without a word while rank 0 waits."""
    _present(folder)
    if _rank() == 1:
        os._exit(3)
    time.sleep(FOREVER)


def killed(folder: Path, *, in_collective: bool) -> None:
    """Rank 1 is killed while rank 0 waits, for it or for anything else."""
    import torch

    _present(folder)
    if in_collective:
        torch.distributed.init_process_group("gloo")
        torch.distributed.barrier()
    if _rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if in_collective:
        torch.distributed.barrier()
    time.sleep(FOREVER)


def killed_in_collective(folder: Path) -> None:
    """As `killed`, rank 0 in a barrier."""
    killed(folder, in_collective=True)


def killed_beside_a_sleeper(folder: Path) -> None:
    """As `killed`, rank 0 asleep."""
    killed(folder, in_collective=False)
