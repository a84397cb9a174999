"""Power cuts, full disks and damage, many times."""

import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from modelwright.cli.reports.metrics_file import read_metrics
from modelwright.cli.reports.run_log import RunLog
from modelwright.config import RunConfig, replace
from modelwright.training import CheckpointError, checkpoints, train, verify_checkpoint
from packages.training.tests.checkpoint import test_mutations
from packages.training.tests.checkpoint.power_cut import recorded, write_tree
from packages.training.tests.tiny import BigramConfig, bigram_run
from tests.chaos.conftest import Row

CUTS = 20
FULL = 20
CORRUPTIONS = 10_000
RUN = replace(bigram_run(12, checkpoint_interval=3, keep_checkpoints=1), model=BigramConfig(width=4))

pytestmark = pytest.mark.usefixtures("engine")


def test_power_cuts(tmp_path: Path, table: list[Row]) -> None:
    """After each the run resumes from the newest checkpoint, and the metrics lack at most the line being written."""
    draw = random.Random(0)
    (tmp_path / "disk").mkdir()
    with recorded(tmp_path / "disk") as disk:
        unbroken = train(RUN, out=tmp_path / "disk" / "run", callback=RunLog(tmp_path / "disk" / "run"))
    losses = {record.step: record.loss for record in unbroken}
    first = next(index for index, (_, *trees) in enumerate(disk.seen) if all(map(has_checkpoint, trees)))
    resumed = 0
    for point in sorted(draw.sample(range(first, len(disk.seen)), CUTS)):
        _, *trees = disk.seen[point]
        after = tmp_path / f"after-{point}"
        write_tree(draw.choice(trees), after)
        resumed += goes_on(after / "run", RUN, losses)
    table.append(("power cuts, by replaying writes and syncs", CUTS, f"no checkpoint lost, {resumed} runs resumed"))


def goes_on(run_dir: Path, run: RunConfig, losses: Mapping[int, float]) -> bool:
    """Check what a cut left of a run that had saved a checkpoint, and resume it unless it was at its end."""
    found = checkpoints(run_dir)
    assert found, "the only checkpoint is lost"
    for _, path in found:
        verify_checkpoint(path)
    records, damaged = read_metrics(run_dir / "metrics.jsonl")
    assert damaged == {}
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    if found[-1][0] == run.train.steps:
        return False
    assert len(records) >= found[-1][0] - 1
    again = train(run, out=run_dir, resume=run_dir, callback=RunLog(run_dir))
    assert {record.step: record.loss for record in again}.items() <= losses.items()
    return True


def has_checkpoint(tree: Any) -> bool:
    """Return True if a disk has a folder with the name of a checkpoint."""
    return any(name.startswith("step-") for name in tree.get("run", {}).get("checkpoints", {}))


class Filling:
    """Fills the disk after a step; a callback."""

    def __init__(self, log: RunLog, step: int, fill: Any) -> None:
        self.log, self.step, self.fill = log, step, fill

    def on_start(self, run: RunConfig, stages: Any, first_step: int) -> None:
        self.log.on_start(run, stages, first_step)

    def on_step(self, record: Any) -> None:
        if record.step == self.step:
            self.fill()
        self.log.on_step(record)

    def on_checkpoint(self, path: Path, step: int) -> None: ...


@contextmanager
def small_disk(folder: Path) -> Iterator[tuple[Path, str]]:
    """A disk of one megabyte; where none can be mounted, an ordinary folder."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield folder, "mounted" if mounted.returncode == 0 else "limited"
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(folder)], check=True)


def fill_up(filler: Path, hard: int, *, kind: str, room: int) -> None:
    """Leave some bytes on the disk, or for each file."""
    if kind == "mounted":
        filler.write_bytes(os.urandom(max(0, shutil.disk_usage(filler.parent).free - room)))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))


def test_full_disks(tmp_path: Path, table: list[Row]) -> None:
    """The first words are the reason and the path, what was saved stays, and with room the run goes on."""
    draw = random.Random(0)
    losses = {record.step: record.loss for record in train(RUN)}
    kinds: set[str] = set()
    for number in range(FULL):
        with small_disk(tmp_path / f"disk-{number}") as (disk, kind):
            kinds.add(kind)
            out, filler = disk / "run", disk / "filler"
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            fill = partial(fill_up, filler, limits[1], kind=kind, room=draw.choice([0, 512, 2000, 8000, 20_000]))
            callback = Filling(RunLog(out), draw.randrange(1, 9), fill)
            try:
                with pytest.raises(CheckpointError) as caught:
                    train(RUN, out=out, callback=callback)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert str(caught.value).startswith(f"`{out}/")
            assert "No space left on device" in str(caught.value) or "File too large" in str(caught.value)
            for _, path in checkpoints(out):
                verify_checkpoint(path)
            filler.unlink(missing_ok=True)
            resume = out if checkpoints(out) else None
            again = train(RUN, out=out, resume=resume, callback=RunLog(out))
            assert {record.step: record.loss for record in again}.items() <= losses.items()
            records, _ = read_metrics(out / "metrics.jsonl")
            assert [record["step"] for record in records] == list(range(1, 13))
    table.append((f"full disks ({', '.join(sorted(kinds))})", FULL, "named, nothing lost, resumed when there was room"))


def test_corruptions(tmp_path: Path, table: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_mutations, "COUNT", CORRUPTIONS)
    trainer = test_mutations.made_trainer()
    for folder, test in (
        ("ours", test_mutations.test_damaged_checkpoints),
        ("engine", test_mutations.test_damaged_checkpoints_in_the_format_of_the_engine),
    ):
        (tmp_path / folder).mkdir()
        test(trainer, tmp_path / folder)
    table.append(("corrupted files, our format", CORRUPTIONS, "loaded or one clear error"))
    table.append(("corrupted files, the engine's format", CORRUPTIONS // 5, "loaded or one clear error"))
