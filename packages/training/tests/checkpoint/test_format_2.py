"""Checkpoints of format 2, which had other checksums, are verified and resumed."""

import shutil
from pathlib import Path

import pytest

from modelwright.config import replace
from modelwright.training import DamagedCheckpointError, checkpoints, latest_checkpoint, train, verify_checkpoint
from modelwright.training.checkpoint.files.checksum import CHUNK_BYTES, new_checksum
from modelwright.training.checkpoint.files.manifest import read_manifest
from packages.training.tests.tiny import BigramConfig, bigram_run

FORMAT_2 = Path(__file__).parent / "format_2"
"""A run of two steps, saved by the version that wrote format 2."""
RUN = replace(bigram_run(4), model=BigramConfig(width=4))

pytestmark = pytest.mark.usefixtures("engine")


def test_it_is_resumed_and_the_next_checkpoint_has_the_newest_format(tmp_path: Path) -> None:
    """The losses are of the version that wrote the folder, resumed there."""
    ((_, older),) = checkpoints(FORMAT_2)
    verify_checkpoint(older)
    losses = [record.loss for record in train(RUN, resume=FORMAT_2, out=tmp_path)]
    assert losses == pytest.approx([5.617068529129028, 5.449084281921387], rel=1e-6)
    (_, newer) = latest_checkpoint(tmp_path)
    assert [read_manifest(path).format for path in (older, newer)] == [2, 3]


@pytest.mark.parametrize("name", ["modelwright.json", "optimizer-00000.safetensors", "weights-00000.safetensors"])
@pytest.mark.parametrize("place", [300, -100], ids=["first bytes", "last bytes"])
def test_one_flipped_bit_is_found(name: str, place: int, tmp_path: Path) -> None:
    shutil.copytree(FORMAT_2, tmp_path / "run")
    ((_, path),) = checkpoints(tmp_path / "run")
    content = bytearray((path / name).read_bytes())
    content[place] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=f"^`{path / name}`"):
        verify_checkpoint(path)
    with pytest.raises(DamagedCheckpointError, match=f"^`{path / name}`"):
        train(RUN, resume=tmp_path / "run")


# Computed by that version.
CHECKSUMS = {
    0: "d7af8f8bddfd8b18ae03171150ad5c100f8c114c81cff5031c581e1164f18593",
    1: "51bfafb9ff86bd89f773441986843dc1b11cd275a675d4730934269161891d44",
    4095: "03d15a7ce10ade9d7d3cacce1b515a3fb0a769ba9dc8e6131dd62b9648ece754",
    4096: "29709a3c3a0b85909a331abfec6942f1f45be39cd2873f8a8906ac5455932800",
    4097: "e2add561a172606eed64d508bec40862b4887d472a82f4abd9453ecd41512f91",
    262_144: "7720f3c1f2b3d627243b49503c40630111de760bcd103ce4aff0109d152d2b1a",
    262_149: "5356f13dfc56ef5f72d1e4733813e24724a86de32f7c3f1688d07fb1c956cd40",
    600_001: "bc8243fcaddbc420817790933ef40a4f1d8263b0c5b47be0fbb10d5f5ee9de7d",
}


@pytest.mark.parametrize("size", CHECKSUMS)
def test_its_checksums_can_be_computed_in_chunks(size: int) -> None:
    content = memoryview((bytes(range(251)) * (size // 251 + 1))[:size])
    found = new_checksum(size, version=2)
    for first in range(0, size, CHUNK_BYTES):
        found.update(content[first : first + CHUNK_BYTES])
    assert found.hexdigest() == CHECKSUMS[size]
