"""The checksum of a checkpoint's bytes, fast enough to compute on every save and load.

The bytes are read as a matrix of 64-bit words with 512 columns. The checksum is the SHA-256 of the sums of its rows and
of its columns, modulo 2**64. Any change within one row or one column changes it: a flipped bit, a zeroed block, two
exchanged rows. SHA-256 over all bytes takes ten times as long. It detects damage, not forgery: whoever can change the
files can also change the checksums.
"""

import hashlib

import numpy as np

_COLUMNS = 512
_ROW_BYTES = 8 * _COLUMNS

CHECKSUM_LENGTH = 64
"""Number of hexadecimal digits of a checksum."""


def checksum(content: bytes | bytearray | memoryview) -> str:
    """Return the checksum of some bytes, as 64 hexadecimal digits.

    Args:
        content: The bytes, contiguous.
    """
    array = np.frombuffer(content, dtype=np.uint8)
    full = array.size - array.size % _ROW_BYTES
    rows = array[:full].view(np.uint64).reshape(-1, _COLUMNS)
    rest = np.zeros(_ROW_BYTES, dtype=np.uint8)
    rest[: array.size - full] = array[full:]
    last = rest.view(np.uint64)
    digest = hashlib.sha256(array.size.to_bytes(8, "little"))
    digest.update(rows.sum(axis=1, dtype=np.uint64).tobytes())
    digest.update(last.sum(dtype=np.uint64).tobytes())
    digest.update((rows.sum(axis=0, dtype=np.uint64) + last).tobytes())
    return digest.hexdigest()
