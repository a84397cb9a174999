"""Power cuts of a real file system: an ext4 image is copied in the middle of a run, and the copy is mounted."""

import errno
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modelwright.cli.reports.run_log import RunLog
from modelwright.config import RunConfig, replace
from modelwright.training import checkpoints, train
from packages.training.tests.tiny import BigramConfig, bigram_run
from tests.chaos.conftest import Row
from tests.chaos.test_disks import goes_on

CUTS = 20
STEPS = 120
RUN = replace(bigram_run(STEPS, checkpoint_interval=1, keep_checkpoints=1), model=BigramConfig(width=4))

pytestmark = pytest.mark.usefixtures("engine")


def command(*words: object) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(errno.EPERM, f"`{' '.join(map(str, words))}` fails: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[str]:
    """Mount an image; its loop device."""
    folder.mkdir()
    device = command("losetup", "--find", "--show", image)
    try:
        command("mount", "-t", "ext4", device, folder)
        try:
            yield Path(device).name
        finally:
            command("umount", folder)
    finally:
        command("losetup", "--detach", device)


class Cutter:
    """Copies the image after some steps, while the run goes on to save its next checkpoint; a callback."""

    def __init__(self, log: RunLog, image: Path, device: str, copies: list[Path]) -> None:
        self.log, self.image, self.device, self.copies = log, image, device, copies
        self.draw = random.Random(0)
        self.steps = sorted(self.draw.sample(range(2, STEPS - 1), len(copies)))
        self.thread = threading.Thread()
        self.retried = 0

    def on_start(self, run: RunConfig, stages: Any, first_step: int) -> None:
        self.log.on_start(run, stages, first_step)

    def on_step(self, record: Any) -> None:
        self.log.on_step(record)
        if record.step in self.steps:
            copy, delay = self.copies[self.steps.index(record.step)], self.draw.uniform(0.0, 0.03)
            self.thread = threading.Thread(target=self.cut, args=(copy, delay))
            self.thread.start()

    def on_checkpoint(self, path: Path, step: int) -> None:
        if self.thread.is_alive():  # one copy at a time
            self.thread.join()

    def cut(self, copy: Path, delay: float) -> None:
        """Copy the image as it is at one moment: again, if the device was written meanwhile."""
        time.sleep(delay)
        writes = self.writes()
        while not copy.exists() or (now := self.writes()) != writes:
            writes = now if copy.exists() else writes
            self.retried += copy.exists()
            shutil.copyfile(self.image, copy)

    def writes(self) -> str:
        """The numbers of requests and sectors that the device has written, and of requests under way."""
        return " ".join(Path(f"/sys/block/{self.device}/stat").read_text().split()[4:9:2])


def test_power_cuts_of_ext4(tmp_path: Path, table: list[Row]) -> None:
    """The only checkpoint is whole after each, and the run resumes from it, equal in every bit."""
    image, folder = tmp_path / "image", tmp_path / "mounted"
    copies = [tmp_path / f"copy-{number}" for number in range(CUTS)]
    try:
        image.touch()
        os.truncate(image, 16 * 2**20)
        command("mkfs.ext4", "-q", "-F", image)
        with mounted(image, folder) as device:
            cutter = Cutter(RunLog(folder / "run"), image, device, copies)
            losses = {record.step: record.loss for record in train(RUN, out=folder / "run", callback=cutter)}
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        pytest.skip(f"no file system can be mounted here: {error.strerror}")
    resumed, steps = 0, set[int]()
    for number, copy in enumerate(copies):
        after = tmp_path / f"after-{number}"
        with mounted(copy, after):  # which replays the journal
            steps.add(checkpoints(after / "run")[-1][0])
            resumed += goes_on(after / "run", RUN, losses)
    assert len(steps) > CUTS // 2
    table.append(("power cuts of an ext4 image", CUTS, f"no checkpoint lost, {resumed} runs resumed"))


def test_the_copies_of_an_image_show_a_missing_sync(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing: what is renamed without a sync is empty in the copy."""
    image, folder = tmp_path / "image", tmp_path / "mounted"
    try:
        image.touch()
        os.truncate(image, 16 * 2**20)
        command("mkfs.ext4", "-q", "-F", image)
        with mounted(image, folder):
            (folder / "partial").mkdir()
            (folder / "partial" / "file").write_bytes(b"content" * 1000)
            (folder / "partial").rename(folder / "whole")
            descriptor = os.open(folder, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            shutil.copyfile(image, tmp_path / "copy")
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        pytest.skip(f"no file system can be mounted here: {error.strerror}")
    with mounted(tmp_path / "copy", tmp_path / "after"):
        assert (tmp_path / "after" / "whole" / "file").read_bytes() == b""
