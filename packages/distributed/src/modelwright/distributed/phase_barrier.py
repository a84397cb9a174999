"""Going through a build together: every rank comes to the end of a phase, or every rank learns which one did not.

The engine's collectives wait for a missing rank until the process groups time out, and then name nobody. `Together`
speaks through the store that the job was started with, never through the groups whose fitness is in question: each rank
leaves word there when it has finished a phase or failed in it, and waits, for a limited time, until all have. A phase
costs a rank four requests to the store, however many ranks there are.
"""

import contextlib
import datetime
import json
from collections.abc import Generator, Iterable, Sequence
from typing import Any, final

import torch
from torch.distributed import DistStoreError

from modelwright.protocols import ModelwrightError

DEFAULT_TIMEOUT = datetime.timedelta(minutes=10)


class BuildError(ModelwrightError):
    """A build that cannot start as it was asked for, or that another rank did not get through."""


@final
class Together:
    """The ranks that build one model.

    Args:
        ranks: Their numbers in the job; all of it when None.
        timeout: How long a rank waits for the others at the end of a phase.
    """

    def __init__(self, ranks: Sequence[int] | None = None, *, timeout: datetime.timedelta = DEFAULT_TIMEOUT) -> None:
        joined = torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if joined else 0
        self.ranks = range(torch.distributed.get_world_size() if joined else 1) if ranks is None else ranks
        self.timeout = timeout
        # A job of fake groups, for planning, has one rank that stands for all.
        self._alone = len(self.ranks) == 1 or torch.distributed.get_backend() == "fake"
        if not self._alone:
            store: Any = torch.distributed.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]
            scope = f"modelwright/build/{self.ranks[0]}-{self.ranks[-1]}"
            # Each rank counts its own builds; all ranks build in the same order, so the counts agree.
            self._prefix = f"{scope}/{store.add(f'{scope}/{self.rank}', 1)}"
            self._store = store

    def agree(self, phase: str, problems: Iterable[str], **facts: str) -> None:
        """Compare on all ranks what must be equal, and refuse the build on all of them when one has a problem.

        Args:
            phase: Named in errors.
            problems: What this rank found wrong.
            **facts: By name, what must be the same on every rank.

        Raises:
            BuildError: A rank has a problem or other facts than the first rank; the same message on every rank.
        """
        found = list(problems)
        if not self._alone:
            key = f"{self._prefix}/{phase}"
            if self.rank == self.ranks[0]:
                self._store.set(f"{key}/facts", json.dumps(facts))
            first = json.loads(self._get(phase, f"{key}/facts", self.ranks[:1]))
            found += [f"{name} is not the same on every rank" for name, fact in facts.items() if fact != first[name]]
            if found:
                self._tell(phase, found)
            self._come(phase)
            told = self._told(phase)
        else:
            told = {self.rank: found} if found else {}
        if told:
            raise BuildError(_refusal(told, len(self.ranks)))

    @contextlib.contextmanager
    def phase(self, name: str) -> Generator[None]:
        """A part of the build that ends for no rank before it has ended for all.

        Args:
            name: Named in errors.

        Raises:
            BuildError: Another rank failed in it, or did not come to its end in time.
        """
        if self._alone:
            yield
            return
        try:
            yield
        except Exception as error:
            told = self._told(name)
            self._tell(name, [f"{type(error).__name__}: {error}"])
            self._store.set(f"{self._prefix}/{name}/end", "failed")
            if told and not isinstance(error, ModelwrightError):  # then a lost connection is the consequence
                raise BuildError(_failure(name, told)) from error
            raise
        self._come(name)
        if told := self._told(name):
            raise BuildError(_failure(name, told))

    def _come(self, phase: str) -> None:
        """Be counted, and wait until all are."""
        key = f"{self._prefix}/{phase}"
        self._store.set(f"{key}/{self.rank}", "")
        if self._store.add(f"{key}/count", 1) == len(self.ranks):
            self._store.set(f"{key}/end", "together")
        self._get(phase, f"{key}/end", self.ranks)

    def _get(self, phase: str, key: str, ranks: Sequence[int]) -> str:
        """A value that one of `ranks` sets."""
        try:
            self._store.wait([key], self.timeout)
            return str(self._store.get(key), "utf-8")
        except DistStoreError as error:
            silent = [rank for rank in ranks if not self._store.check([f"{self._prefix}/{phase}/{rank}"])]
            raise BuildError(
                f"every rank must come through `{phase}` of the build within {self.timeout.total_seconds():.0f} s, but "
                f"{_named(silent)} did not; look at what that rank said, or pass a longer `timeout`."
            ) from error

    def _tell(self, phase: str, words: list[str]) -> None:
        self._store.append(f"{self._prefix}/{phase}/told", json.dumps([self.rank, words]) + "\n")

    def _told(self, phase: str) -> dict[int, list[str]]:
        """What the ranks that had something to tell told, by rank."""
        key = f"{self._prefix}/{phase}/told"
        if not self._store.check([key]):
            return {}
        return dict(sorted(json.loads(line) for line in str(self._store.get(key), "utf-8").splitlines()))


def _refusal(told: dict[int, list[str]], ranks: int) -> str:
    """All problems of all ranks in one message; a problem that every rank has is told once."""
    by_problem: dict[str, list[int]] = {}
    for rank, problems in told.items():
        for problem in problems:
            by_problem.setdefault(problem, []).append(rank)
    lines = [
        problem if len(where) == ranks else f"on {_named(where)}: {problem}" for problem, where in by_problem.items()
    ]
    return "\n".join(lines) if len(lines) > 1 else lines[0]


def _failure(phase: str, told: dict[int, list[str]]) -> str:
    words = "; ".join(f"rank {rank}: {' '.join(said)}" for rank, said in told.items())
    return f"another rank failed in `{phase}` of the build: {words}"


def _named(ranks: Sequence[int]) -> str:
    """A few of them by number."""
    shown = ", ".join(map(str, ranks[:8]))
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{more}"
