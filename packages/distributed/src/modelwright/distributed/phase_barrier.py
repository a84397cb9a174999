"""`PhaseBarrier`: every rank reaches the end of a build phase, or the other ranks report which one did not.

The engine's collectives wait for a missing rank until the process groups time out, and then name no rank. The barrier
uses the store that the job was started with, because the process groups may be wrong. Each rank reports there that it
finished a phase or failed in it, and waits for the others for a limited time. The number of requests that a rank makes
in a phase does not depend on the number of ranks.

Seam: `_get_default_store` is the only way to the store of a job.
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
    """Config, groups and wrapper do not fit each other, or another rank failed or timed out."""


@final
class PhaseBarrier:
    """The barrier of the ranks that build one model.

    Args:
        ranks: Ranks of the job that take part. None: all ranks.
        timeout: Longest time that a rank waits for the others at the end of a phase.
    """

    def __init__(self, ranks: Sequence[int] | None = None, *, timeout: datetime.timedelta = DEFAULT_TIMEOUT) -> None:
        joined = torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if joined else 0
        self.ranks = range(torch.distributed.get_world_size() if joined else 1) if ranks is None else ranks
        self.timeout = timeout
        # A job of fake groups, for planning, has one process for all ranks.
        self._alone = len(self.ranks) == 1 or torch.distributed.get_backend() == "fake"
        if not self._alone:
            store: Any = torch.distributed.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]
            scope = f"modelwright/build/{self.ranks[0]}-{self.ranks[-1]}"
            # Each rank counts its own builds; all ranks build in the same order, so the counts agree.
            self._prefix = f"{scope}/{store.add(f'{scope}/{self.rank}', 1)}"
            self._store = store

    def agree(self, phase: str, problems: Iterable[str], **facts: str) -> None:
        """Compare values that must be equal on all ranks, and fail on all ranks when one has a problem.

        Args:
            phase: Name of the phase, for errors.
            problems: Problems that this rank found.
            **facts: Values by name that must be the same on every rank.

        Raises:
            BuildError: A rank has a problem, its facts differ from those of the first rank, or it timed out. Except for
                a timeout, the message is the same on every rank.
        """
        found = list(problems)
        if not self._alone:
            key = f"{self._prefix}/{phase}"
            if self.rank == self.ranks[0]:
                self._store.set(f"{key}/facts", json.dumps(facts))
            first = json.loads(self._get(phase, f"{key}/facts", self.ranks[:1]))
            found += [f"{name} is not the same on every rank" for name, fact in facts.items() if fact != first[name]]
            if found:
                self._report(phase, found)
            self._arrive(phase)
            reported = self._reports(phase)
        else:
            reported = {self.rank: found} if found else {}
        if reported:
            raise BuildError(_refusal(reported, len(self.ranks)))

    @contextlib.contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Run a phase of the build. No rank leaves the block before all ranks have reached its end, or one has failed.

        Args:
            name: Name of the phase, for errors.

        Raises:
            BuildError: Another rank failed in the phase, or did not finish it in time.
        """
        if self._alone:
            yield
            return
        try:
            yield
        except Exception as error:
            reported = self._reports(name)
            self._report(name, [f"{type(error).__name__}: {error}"])
            self._store.set(f"{self._prefix}/{name}/end", "failed")
            if reported and not isinstance(error, ModelwrightError):  # then a lost connection is the consequence
                raise BuildError(_failure(name, reported)) from error
            raise
        self._arrive(name)
        if reported := self._reports(name):
            raise BuildError(_failure(name, reported))

    def _arrive(self, phase: str) -> None:
        """Count this rank, and wait until all ranks are counted."""
        key = f"{self._prefix}/{phase}"
        self._store.set(f"{key}/{self.rank}", "")
        if self._store.add(f"{key}/count", 1) == len(self.ranks):
            self._store.set(f"{key}/end", "all")
        self._get(phase, f"{key}/end", self.ranks)

    def _get(self, phase: str, key: str, ranks: Sequence[int]) -> str:
        """Return a value that one of `ranks` sets."""
        try:
            self._store.wait([key], self.timeout)
            return str(self._store.get(key), "utf-8")
        except DistStoreError as error:
            silent = [rank for rank in ranks if not self._store.check([f"{self._prefix}/{phase}/{rank}"])]
            raise BuildError(
                f"every rank must finish build phase `{phase}`, but this rank timed out after "
                f"{self.timeout.total_seconds():.0f} s waiting for {_named(silent)}; check the log of that rank, or "
                "raise `timeout`."
            ) from error

    def _report(self, phase: str, problems: list[str]) -> None:
        self._store.append(f"{self._prefix}/{phase}/reports", json.dumps([self.rank, problems]) + "\n")

    def _reports(self, phase: str) -> dict[int, list[str]]:
        """Return the problems that ranks reported, by rank."""
        key = f"{self._prefix}/{phase}/reports"
        if not self._store.check([key]):
            return {}
        return dict(sorted(json.loads(line) for line in str(self._store.get(key), "utf-8").splitlines()))


def _refusal(reported: dict[int, list[str]], ranks: int) -> str:
    """Return all problems of all ranks in one message. A problem that several ranks have appears once."""
    by_problem: dict[str, list[int]] = {}
    for rank, problems in reported.items():
        for problem in problems:
            by_problem.setdefault(problem, []).append(rank)
    lines = [
        problem if len(where) == ranks else f"on {_named(where)}: {problem}" for problem, where in by_problem.items()
    ]
    return "\n".join(lines) if len(lines) > 1 else lines[0]


def _failure(phase: str, reported: dict[int, list[str]]) -> str:
    causes = "; ".join(f"rank {rank}: {' '.join(problems)}" for rank, problems in reported.items())
    return f"another rank failed in build phase `{phase}`: {causes}"


def _named(ranks: Sequence[int]) -> str:
    """Return the numbers of at most eight ranks in words."""
    shown = ", ".join(map(str, ranks[:8]))
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{more}"
