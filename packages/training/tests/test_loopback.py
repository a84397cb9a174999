"""Nothing that a job on this machine listens on can be reached from another machine."""

import os
from pathlib import Path

import psutil
import pytest

from modelwright.distributed import finalize
from modelwright.engine import can_fork
from modelwright.training import launch, train
from packages.training.tests import jobs
from packages.training.tests.tiny import bigram_run


def listening(process: psutil.Process) -> set[str]:
    """The addresses on which a process accepts connections."""
    return {found.laddr.ip for found in process.net_connections("inet") if found.status == psutil.CONN_LISTEN}


def test_local_ranks_and_their_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever interface the environment names: a local job has no use for another."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    launch(jobs.tell_listeners, tmp_path, ranks=2)
    told = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    here = ["127.0.0.1"]
    expected = {"0": here, "1": here, "server": [], "parent": here}
    assert told == (expected if can_fork() else {**expected, "server": here, "parent": []})


@pytest.mark.usefixtures("engine")
def test_a_job_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens while it has groups, and afterwards the environment is as before."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    heard: set[str] = set()

    class Listener:
        def on_start(self, *args: object, **options: object) -> None:
            heard.update(listening(psutil.Process()))

        def on_step(self, *args: object, **options: object) -> None: ...

        def on_checkpoint(self, *args: object, **options: object) -> None: ...

    train(bigram_run(1), callback=Listener())
    assert heard == {"127.0.0.1"}
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    finalize()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
