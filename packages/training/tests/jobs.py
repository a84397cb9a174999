"""Functions that the ranks of the launch tests run, and import by name. Nothing loads the engine."""

import os
import resource
import signal
import sys
import time
from pathlib import Path

from modelwright.protocols import ModelwrightError

FOREVER = 600.0


def _rank() -> int:
    return int(os.environ["RANK"])


def tell(folder: Path, word: str) -> None:
    """Leave a file that says who ran, and as what."""
    import torch

    said = [word, os.environ["WORLD_SIZE"], os.environ["OMP_NUM_THREADS"], str(torch.get_num_threads())]
    (folder / os.environ["RANK"]).write_text(" ".join(said))


def tell_allocator(folder: Path) -> None:
    """Leave a file that says what the environment tells glibc's allocator, and if it maps a large tensor anew."""
    import ctypes

    import torch

    class Mallinfo2(ctypes.Structure):
        """Numbers of glibc's allocator (man 3 mallinfo); the fourth counts blocks that are mapped."""

        _fields_ = [(f"number_{index}", ctypes.c_size_t) for index in range(10)]

    read = ctypes.CDLL(None).mallinfo2
    read.restype = Mallinfo2
    before = read().number_3
    large = torch.empty(64 * 2**20, dtype=torch.uint8)
    how = "mapped" if read().number_3 > before else "kept"
    told = [os.environ["MALLOC_MMAP_MAX_"], os.environ["MALLOC_TRIM_THRESHOLD_"], how]
    (folder / os.environ["RANK"]).write_text(" ".join(told))
    del large


def _present(folder: Path) -> None:
    """Say which process this is, and wait until every rank has said so."""
    (folder / f"pid-{_rank()}").write_text(str(os.getpid()))
    while len(list(folder.glob("pid-*"))) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.05)


def user_error(folder: Path) -> None:
    """Rank 1 finds a user error while rank 0 waits."""
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


def speechless(folder: Path) -> None:
    """Rank 1 can write no long file any more, and finds a user error while rank 0 waits."""
    _present(folder)
    if _rank() == 1:
        sys.stderr = (folder / "stderr").open("w")
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        raise ModelwrightError("`x` must be 1, but is 2." + 1200 * " ")  # the report has it twice
    time.sleep(FOREVER)


def orphaned(folder: Path) -> None:
    """Rank 1 kills the process that it was forked from."""
    _present(folder)
    if _rank() == 1:
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(FOREVER)


def exits(folder: Path) -> None:
    """Rank 1 calls `sys.exit(0)`, as a script does, while rank 0 waits."""
    _present(folder)
    if _rank() == 1:
        sys.exit(0)
    time.sleep(FOREVER)


def stopped(folder: Path) -> None:
    """Rank 1 is stopped while rank 0 waits for it."""
    _present(folder)
    if _rank() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
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
    """Run `killed` with rank 0 in a barrier."""
    killed(folder, in_collective=True)


def killed_beside_a_sleeper(folder: Path) -> None:
    """Run `killed` with rank 0 asleep."""
    killed(folder, in_collective=False)


def tell_listeners(folder: Path) -> None:
    """Leave files that say on which addresses this rank and those that started it listen while the job has groups."""
    import psutil
    import torch

    def addresses(process: psutil.Process) -> str:
        found = {it.laddr.ip for it in process.net_connections("inet") if it.status == psutil.CONN_LISTEN}
        return " ".join(sorted(found))

    torch.distributed.init_process_group("gloo")
    torch.distributed.all_reduce(torch.ones(1))
    (folder / os.environ["RANK"]).write_text(addresses(psutil.Process()))
    if _rank() == 0:
        names = ("server", "parent")  # of the forks, and of the server
        for name, process in zip(names, psutil.Process().parents(), strict=False):
            (folder / name).write_text(addresses(process))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
