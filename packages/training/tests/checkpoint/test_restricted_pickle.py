"""Loading a checkpoint runs no code that its files contain, and reads nothing outside its folder."""

import io
import os
import pickle
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader

from modelwright.config import RunConfig, replace
from modelwright.training import CheckpointError, latest_checkpoint, load_for_inference, train
from packages.training.tests.tiny import BigramConfig, bigram_run
from tests.messages import facts

ENGINE_FORMAT = Path(__file__).parent / "engine_format"
"""A run of two steps, saved by the version that used the engine's format."""

pytestmark = pytest.mark.usefixtures("engine")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.system, (f"touch '{self.mark}'",))


def in_metadata(path: Path, mark: Path) -> None:
    (path / ".metadata").write_bytes(pickle.dumps(Payload(mark)))


def in_the_metadata_of_an_item(path: Path, mark: Path) -> None:
    metadata: Any = FileSystemReader(path).read_metadata()
    metadata.planner_data = Payload(mark)
    (path / ".metadata").write_bytes(pickle.dumps(metadata))


def in_an_item(path: Path, mark: Path) -> None:
    """Behind the tensors of a shard, where the metadata then says that the item lies."""
    metadata: Any = FileSystemReader(path).read_metadata()
    for index, place in metadata.storage_data.items():
        if type(metadata.state_dict_metadata.get(index.fqn)).__name__ != "BytesStorageMetadata":
            continue
        buffer = io.BytesIO()
        torch.save(Payload(mark), buffer)
        file = path / place.relative_path
        place.offset, place.length = file.stat().st_size, buffer.tell()
        file.write_bytes(file.read_bytes() + buffer.getvalue())
    (path / ".metadata").write_bytes(pickle.dumps(metadata))


def in_a_compressed_item(path: Path, mark: Path) -> None:
    """A few kilobytes that would unpack to many megabytes."""
    metadata: Any = FileSystemReader(path).read_metadata()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(2**27))
        archive.writestr("archive/version", "3\n")
    for index, place in metadata.storage_data.items():
        if type(metadata.state_dict_metadata.get(index.fqn)).__name__ == "BytesStorageMetadata":
            file = path / place.relative_path
            place.offset, place.length = file.stat().st_size, buffer.tell()
            file.write_bytes(file.read_bytes() + buffer.getvalue())
    (path / ".metadata").write_bytes(pickle.dumps(metadata))


def in_the_old_common_file(path: Path, mark: Path) -> None:
    torch.save(Payload(mark), path / "common.pt")


def outside_the_folder(path: Path, mark: Path) -> None:
    """The files are there and good, so that only the refusal of the place keeps them from being read."""
    for shard in path.glob("*.distcp"):
        shutil.copy(shard, path.parent.parent)
    metadata: Any = FileSystemReader(path).read_metadata()
    for place in metadata.storage_data.values():
        place.relative_path = f"../../{place.relative_path}"
    (path / ".metadata").write_bytes(pickle.dumps(metadata))


def through_a_link(path: Path, mark: Path) -> None:
    shard = next(path.glob("*.distcp"))
    shard.rename(path.parent / "elsewhere")
    shard.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize(
    "attack",
    [
        in_metadata,
        in_the_metadata_of_an_item,
        in_an_item,
        in_a_compressed_item,
        in_the_old_common_file,
        outside_the_folder,
        through_a_link,
    ],
)
def test_nothing_runs_and_nothing_outside_is_read(attack: Callable[[Path, Path], None], tmp_path: Path) -> None:
    shutil.copytree(ENGINE_FORMAT, tmp_path / "run")
    _, path = latest_checkpoint(tmp_path / "run")
    mark = tmp_path / "mark"
    load_for_inference(tmp_path / "run")  # the folder is good until the attack
    attack(path, mark)
    for load in (
        lambda: load_for_inference(tmp_path / "run"),
        lambda: train(resumed(4), resume=tmp_path / "run"),
    ):
        with pytest.raises(CheckpointError) as caught:
            load()
        assert facts(caught.value).startswith(f"`{path}`")
    assert not mark.exists()


def resumed(steps: int) -> RunConfig:
    """The run that the folder is of, with more steps."""
    return replace(bigram_run(steps), model=BigramConfig(width=4))


def test_a_checkpoint_in_the_format_of_the_engine_is_resumed(tmp_path: Path) -> None:
    """The numbers are of the version that wrote the folder, resumed there."""
    losses = [record.loss for record in train(resumed(4), resume=ENGINE_FORMAT, out=tmp_path)]
    assert losses == pytest.approx([5.617068529129028, 5.449084281921387], rel=1e-6)
    (_, path) = latest_checkpoint(tmp_path)
    assert sorted(file.name for file in path.iterdir()) == [
        "modelwright.json", "optimizer-00000.safetensors", "weights-00000.safetensors"
    ]  # fmt: skip


def test_the_payload_of_the_tests_runs_without_the_restriction(tmp_path: Path) -> None:
    """Otherwise the tests above would prove nothing."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "mark")))  # noqa: S301 - of this test
    assert (tmp_path / "mark").exists()


def test_other_threads_read_as_ever(tmp_path: Path) -> None:
    """A second thread that loads a pickle of its own is not restricted."""
    from modelwright.engine import restricted_reading

    torch.save(Path, tmp_path / "theirs.pt")
    found: list[object] = []

    def theirs() -> None:
        found.append(torch.load(tmp_path / "theirs.pt", weights_only=False))

    before = torch.load
    with restricted_reading():
        thread = threading.Thread(target=theirs)
        thread.start()
        thread.join()
        with pytest.raises(pickle.UnpicklingError):
            theirs()
    assert found == [Path]
    assert torch.load is before
    assert sys.modules["torch.distributed.checkpoint.filesystem"].pickle is pickle
