"""A cut at any point of a run that keeps one checkpoint leaves a whole one, and no name on a damaged one."""

import os
import shutil
from pathlib import Path

import pytest

from modelwright.config import replace
from modelwright.training import checkpoints, train, verify_checkpoint
from packages.training.tests.checkpoint.power_cut import recorded, write_tree
from packages.training.tests.tiny import BigramConfig, bigram_run

pytestmark = pytest.mark.usefixtures("engine")


def test_a_cut_at_any_point_leaves_the_newest_or_the_one_before(tmp_path: Path) -> None:
    run = replace(bigram_run(3, checkpoint_interval=1, keep_checkpoints=1), model=BigramConfig(width=4))
    (tmp_path / "disk").mkdir()
    with recorded(tmp_path / "disk") as disk:
        train(run, out=tmp_path / "disk" / "run")
    assert sum("before rename" in operation for operation, *_ in disk.seen) >= 3
    saved, certain = set[int](), False
    for operation, *trees in disk.seen:
        whole: list[set[int]] = []
        for tree in trees:
            write_tree(tree, tmp_path / "after")
            found = checkpoints(tmp_path / "after" / "run")
            for _, path in found:
                verify_checkpoint(path)  # no name on half a checkpoint
            whole.append({step for step, _ in found})
            shutil.rmtree(tmp_path / "after")
        assert not certain or all(whole), operation  # once one is safe, there is always one
        certain = certain or all(whole)
        saved.update(*whole)
    assert saved == {1, 2, 3}
    assert whole == [{3}, {3}]


def test_the_model_of_the_disk_finds_a_missing_sync(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing: what is renamed without a sync is empty after a cut."""
    root = tmp_path / "disk"
    root.mkdir()
    with recorded(root) as disk:
        descriptor = os.open(root / "a.partial", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"content")
        os.close(descriptor)
        os.rename(root / "a.partial", root / "a")  # noqa: PTH104 - the call that is recorded
    _, durable, names = disk.seen[-1]
    assert durable == {}
    assert names == {"a": b""}
