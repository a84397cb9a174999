"""Loading a folder from a stranger executes nothing, under an audit hook, whichever file has the payload."""

import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelwright.testing import RankPool
from tests.integration.checkpoint_cells import cell_of
from tests.integration.checkpoint_jobs import modules_of

CELLS = {
    "gpt": "gpt-float32-all-alone-ddp-one-ddp-one",
    "moe": "moe-float32-all-alone-ddp-one-ddp-one",
    "hybrid": "hybrid-bfloat16-all-alone-ddp-one-ddp-one",
    "lora": "gpt-float16-lora-alone-ddp-one-ddp-one",
}
WATCHED = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "pickle.find_class",
    "ctypes.dlopen",
}


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch '{self.mark}'",)


def attacks(payload: bytes) -> dict[str, Callable[[bytes], bytes]]:
    """Every way to put a payload into a file."""
    return {
        "instead": lambda content: payload,
        "before": lambda content: payload + content,
        "after": lambda content: content + payload,
        "at the end": lambda content: content[: -len(payload)] + payload,
        "in the middle": lambda content: (
            content[: len(content) // 2] + payload + content[len(content) // 2 + len(payload) :]
        ),
        "as a text": lambda content: content.replace(b'"config"', b"\"cos\\nsystem\\n(S'id'\\ntR.\""),
    }


def _is_outside(folder: Path, opened: object) -> bool:
    """True for a path that is not below the folder; a descriptor was opened before."""
    return not isinstance(opened, int) and str(folder) not in str(opened)


def load_attacked(cell_id: str, folder: Path) -> dict[str, Any]:
    """Save a checkpoint, put the payload into each of its files in turn, and load it with and without checksums."""
    from modelwright.protocols import ModelwrightError
    from modelwright.training import checkpoint_config, load_checkpoint, save_checkpoint

    module = modules_of(cell_of(cell_id), target=False)["model"]
    whole = save_checkpoint(module.state, module.run, folder / "whole", 1)
    load_checkpoint(module.state, whole)  # imports what a load imports
    mark = folder / "mark"
    events: list[str] = []
    watching = [False]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching[0] and (event in WATCHED or (event == "open" and _is_outside(folder, args[0]))):
            events.append(f"{event} {args[:1]}")

    sys.addaudithook(hook)
    outcomes: dict[str, int] = {"loaded": 0, "refused": 0}
    for file in sorted(whole.iterdir()):
        for attack in attacks(pickle.dumps(Payload(mark))).values():
            path = folder / "attacked"
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(whole, path)
            (path / file.name).write_bytes(attack(file.read_bytes()))
            for verify in (True, False):
                watching[0] = True
                try:
                    checkpoint_config(path, verify=verify)
                    load_checkpoint(module.state, path, verify=verify)
                    outcomes["loaded"] += 1
                except ModelwrightError:
                    outcomes["refused"] += 1
                finally:
                    watching[0] = False
    return {"events": events, "mark": mark.exists(), "files": len(list(whole.iterdir())), **outcomes}


@pytest.mark.parametrize("cell", CELLS)
def test_no_file_of_a_checkpoint_is_executed(cell: str, two_ranks: RankPool, tmp_path: Path) -> None:
    (found,) = two_ranks.run(load_attacked, CELLS[cell], tmp_path, ranks=1)
    assert (found["events"], found["mark"], found["files"]) == ([], False, 3)
    assert found["refused"] > found["loaded"] > 0


def test_the_payload_runs_when_it_is_unpickled(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "mark")))  # noqa: S301 - of this test
    assert (tmp_path / "mark").exists()
