"""`RankPool` runs what it is given on every rank, says which rank failed and how, never hangs, and starts anew."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from modelwright.distributed import RankError, RankPool, run_ranks
from modelwright.protocols import ModelwrightError
from packages.distributed.tests import jobs
from tests.messages import facts


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    """Two processes; after a test that ends them they are started again."""
    with RankPool(2) as started:
        yield started


def test_answers_come_by_rank(pool: RankPool) -> None:
    assert pool.run(jobs.whoami, "hello") == [(0, 2, "hello"), (1, 2, "hello")]


def test_the_processes_stay(pool: RankPool) -> None:
    first, again = pool.run(jobs.pid), pool.run(jobs.pid)
    assert first == again
    assert len({*first, os.getpid()}) == 3


def test_each_run_makes_its_own_groups(pool: RankPool) -> None:
    assert pool.run(jobs.summed, 2) == [([1.0, 2.0], 2, 1)] * 2
    assert pool.run(jobs.summed, 1) == [([1.0, 2.0], 1, 2)] * 2
    assert pool.run(jobs.initialized) == [False, False]


def test_fewer_ranks_than_processes(pool: RankPool) -> None:
    assert pool.run(jobs.whoami, ranks=1) == [(0, 1, "")]
    assert pool.run(jobs.summed, ranks=1) == [([0.0, 1.0], 1, 1)]
    assert pool.run(jobs.summed, 2) == [([1.0, 2.0], 2, 1)] * 2


@pytest.mark.parametrize("ranks", [0, 3])
def test_ranks_that_the_pool_does_not_have(pool: RankPool, ranks: int) -> None:
    """It is an error of the caller, and no rank failed."""
    with pytest.raises(ModelwrightError) as caught:
        pool.run(jobs.whoami, ranks=ranks)
    assert facts(caught.value) == f"`ranks` 1 2 {ranks}"


def test_threads(pool: RankPool) -> None:
    assert pool.run(jobs.threads) == [1, 1]


def test_the_exception_of_a_rank_arrives(pool: RankPool) -> None:
    before = pool.run(jobs.pid)
    started = time.monotonic()
    with pytest.raises(RankError) as caught:
        pool.run(jobs.one_raises)
    assert time.monotonic() - started < 250  # the timeout of the pool is 300
    found = str(caught.value)
    assert found.startswith("rank 1:\nTraceback (most recent call last):\n")
    assert found.endswith("ValueError: the loss of rank 1 is nan\n")
    assert "rank 0" not in found  # it only waited
    assert not set(before) & set(pool.run(jobs.pid))
    assert pool.run(jobs.summed, 2) == [([1.0, 2.0], 2, 1)] * 2


def test_an_answer_that_cannot_be_sent(pool: RankPool) -> None:
    with pytest.raises(RankError, match=r"^rank 0:\n.*picklable"):
        pool.run(jobs.unpicklable, ranks=1)


def test_a_rank_that_is_killed(pool: RankPool) -> None:
    pool.run(jobs.whoami)
    started = time.monotonic()
    with pytest.raises(RankError, match=r"^rank 1:\n.* -9$"):
        pool.run(jobs.one_is_killed)
    assert time.monotonic() - started < 250  # the timeout of the pool is 300
    assert pool.run(jobs.whoami) == [(0, 2, ""), (1, 2, "")]


def test_a_process_that_dies_between_two_runs(pool: RankPool) -> None:
    victim = pool.run(jobs.pid)[0]
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(RankError, match=r"^rank 0:\n.* -9$"):
        pool.run(jobs.whoami)
    assert pool.run(jobs.whoami) == [(0, 2, ""), (1, 2, "")]


def test_a_rank_that_does_not_end(pool: RankPool) -> None:
    before = pool.run(jobs.pid)
    started = time.monotonic()
    with pytest.raises(RankError, match=r"^rank 1 .*`timeout` of 2 s"):
        pool.run(jobs.one_sleeps, timeout=2)
    assert time.monotonic() - started < 250  # the timeout of the pool is 300
    for process in before:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_one_call_for_one_job() -> None:
    assert run_ranks(jobs.whoami, "once", ranks=1) == [(0, 1, "once")]
