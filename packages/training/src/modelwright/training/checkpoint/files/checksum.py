"""Checksums of a checkpoint's bytes, fast enough to compute on every save and load.

A checksum is XXH3 with 128 bits. It is computed faster than memory delivers bytes, and while they are in the cache it
costs a tenth of copying them. It detects damage, not forgery: whoever can change the files can also change the
checksums.
"""

import hashlib
from typing import Protocol, final

import numpy as np
import xxhash

from modelwright.training.checkpoint.files.manifest import FORMAT

CHUNK_BYTES = 256 * 2**10
"""Number of bytes between two updates of a checksum, so that the cache has them for it and for reading or writing."""
CHECKSUM_LENGTH = 32
"""Number of hexadecimal digits of a checksum."""
WORD_SUMS_FORMAT = 2
"""Version of the format of checkpoints that have `WordSums`. They are only read."""
_COLUMNS = 512


class Checksum(Protocol):
    """A checksum of bytes that arrive in chunks."""

    def update(self, data: memoryview, /) -> None:
        """Add bytes.

        Args:
            data: A multiple of 4,096 of them; another number only at the end.
        """
        ...

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far, as hexadecimal digits."""
        ...


def new_checksum(size: int, *, version: int = FORMAT) -> Checksum:
    """Return the checksum of no bytes.

    Args:
        size: Number of bytes that will be added.
        version: Version of the checkpoint's format.
    """
    return WordSums(size) if version == WORD_SUMS_FORMAT else xxhash.xxh3_128()


def checksum(content: bytes | memoryview, *, version: int = FORMAT) -> str:
    """Return the checksum of some bytes.

    Args:
        content: The bytes.
        version: Version of the checkpoint's format.
    """
    found = new_checksum(len(content), version=version)
    found.update(memoryview(content))
    return found.hexdigest()


@final
class WordSums:
    """The checksum of format 2: the SHA-256 of sums of 64-bit words modulo 2**64, along the rows and the columns.

    The bytes are read as a matrix with 512 columns, whose last row is padded with zeros.

    Args:
        size: Number of bytes that will be added.
    """

    def __init__(self, size: int) -> None:
        self._digest = hashlib.sha256(size.to_bytes(8, "little"))
        self._columns = np.zeros(_COLUMNS, dtype=np.uint64)
        self._last = np.zeros(_COLUMNS, dtype=np.uint64)

    def update(self, data: memoryview, /) -> None:
        """Add bytes.

        Args:
            data: A multiple of 4,096 of them; another number only at the end.
        """
        array = np.frombuffer(data, dtype=np.uint8)
        full = array.size - array.size % self._last.nbytes
        rows = array[:full].view(np.uint64).reshape(-1, _COLUMNS)
        self._last.view(np.uint8)[: array.size - full] = array[full:]
        self._digest.update(rows.sum(axis=1, dtype=np.uint64).tobytes())
        self._columns += rows.sum(axis=0, dtype=np.uint64)

    def hexdigest(self) -> str:
        """Return the checksum of all bytes, as 64 hexadecimal digits."""
        digest = self._digest.copy()
        digest.update(self._last.sum(dtype=np.uint64).tobytes())
        digest.update((self._columns + self._last).tobytes())
        return digest.hexdigest()
