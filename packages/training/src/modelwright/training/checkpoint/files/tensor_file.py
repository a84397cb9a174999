"""Files of named tensors in the safetensors format, with the place of each tensor in the unsharded model.

A file begins with the length of its header, the header as JSON, and then the bytes of the tensors. Nothing in it is
executed. The header's `__metadata__` has an entry `modelwright`: for each tensor its name in the unsharded model, the
shape there, where it begins, and a checksum. Readers of plain safetensors ignore it.
"""

import json
import math
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, zip_longest
from pathlib import Path
from typing import Any, final

from modelwright.training.checkpoint.files.checksum import CHECKSUM_LENGTH, CHUNK_BYTES, checksum, new_checksum
from modelwright.training.checkpoint.files.durable import naming
from modelwright.training.checkpoint.files.manifest import (
    FORMAT,
    CheckpointError,
    DamagedCheckpointError,
    Manifest,
    open_file,
)

MAX_HEADER_BYTES = 16 * 2**20
"""Longest header that is read, in bytes. One tensor takes about 300 bytes of it."""
MAX_TENSOR_BYTES = 16 * 2**20
"""Size in bytes up to which rows are stored as one tensor, and so most memory that reading or writing takes."""
_MAX_DIMS = 16
# Format name, size of an element in bytes.
DTYPES = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
}
"""Names in the file and sizes in bytes of the dtypes, by their names in torch."""
_DTYPE_OF = {stored: name for name, (stored, _) in DTYPES.items()}


@final
@dataclass(frozen=True, kw_only=True)
class StoredBox:
    """A box of an unsharded tensor, as a tensor of a file."""

    name: str
    """Name of the unsharded tensor."""
    dtype: str
    """Dtype of the elements, by its name in torch."""
    global_shape: tuple[int, ...]
    """Shape of the unsharded tensor."""
    start: tuple[int, ...]
    """Index of the first element in each dim."""
    shape: tuple[int, ...]
    """Shape of the box."""
    step: int = 0
    """Number of optimizer steps that the elements have had; 0 for weights."""
    first_byte: int = 0
    """Position in the file."""
    checksum: str = ""
    """Checksum of the bytes."""

    @property
    def bytes(self) -> int:
        """Number of bytes in the file."""
        return math.prod(self.shape) * DTYPES[self.dtype][1]

    @property
    def stored_name(self) -> str:
        """Name in the file: that of the unsharded tensor, and the range in each dim where it is only a part."""
        if self.shape == self.global_shape:
            return self.name
        ranges = (f"{start}:{start + size}" for start, size in zip(self.start, self.shape, strict=True))
        return f"{self.name}[{','.join(ranges)}]"


def write_tensors(path: Path, boxes: list[StoredBox], contents: Iterable[memoryview], *, dry: bool = False) -> int:
    """Write a file and sync it to the disk.

    Args:
        path: The file, which must not exist.
        boxes: The tensors of the file, in order.
        contents: The bytes of each, made one at a time. With `dry` they are not read.
        dry: Write the header and leave a hole for the tensors, to try out a folder.

    Returns:
        Size of the file in bytes.

    Raises:
        OSError: The file cannot be written.
        CheckpointError: The header would be too long to be read again.
    """
    sums = ["0" * CHECKSUM_LENGTH] * len(boxes)
    header = _header(boxes, sums)
    if len(header) > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"the header of `{path}` must be at most {MAX_HEADER_BYTES:,} bytes, but {len(boxes):,} tensors take "
            f"{len(header):,}; use more ranks."
        )
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with naming(path), os.fdopen(os.open(path, flags, 0o644), "wb", buffering=0) as file:
        _write_all(file, header)
        if dry:
            os.ftruncate(file.fileno(), len(header) + sum(box.bytes for box in boxes))
        else:
            with ThreadPoolExecutor(max_workers=1) as writer:
                for index, content in enumerate(contents):
                    written = writer.submit(_write_all, file, content)
                    sums[index] = checksum(content)
                    written.result()
            file.seek(0)
            _write_all(file, _header(boxes, sums))  # as long as before
        size = file.seek(0, os.SEEK_END)
        os.fsync(file.fileno())
    return size


def _write_all(file: Any, content: bytes | memoryview) -> None:
    """Write all bytes: an unbuffered write may stop early, at a full disk for one."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _header(boxes: list[StoredBox], sums: list[str]) -> bytes:
    """Return the length of the header and the header, padded to a multiple of 8 bytes."""
    tensors: dict[str, object] = {}
    places: dict[str, list[object]] = {}
    first = 0
    for box, total in zip(boxes, sums, strict=True):
        tensors[box.stored_name] = {
            "dtype": DTYPES[box.dtype][0],
            "shape": list(box.shape),
            "data_offsets": [first, first + box.bytes],
        }
        places[box.stored_name] = [box.name, list(box.global_shape), list(box.start), box.step, total]
        first += box.bytes
    metadata = {"format": "pt", "modelwright": json.dumps(places, separators=(",", ":"))}
    text = json.dumps({"__metadata__": metadata} | tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


@final
class TensorFile:
    """An open file of tensors, checked against its size; a context manager.

    Args:
        path: The file.
        header_checksum: Checksum of the header. None: it is not compared.
        version: Version of the checkpoint's format, which decides the kind of checksum.

    Raises:
        DamagedCheckpointError: The file is not what a save writes.
    """

    def __init__(self, path: Path, *, header_checksum: str | None = None, version: int = FORMAT) -> None:
        self.path, self._version = path, version
        self._file = open_file(path)
        try:
            self.boxes = self._read(header_checksum)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError, struct.error) as error:
            self._file.close()
            raise DamagedCheckpointError(f"`{path}` has a header that cannot be read: {error}.") from error
        except DamagedCheckpointError:
            self._file.close()
            raise

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def _read(self, header_checksum: str | None) -> list[StoredBox]:
        size = os.fstat(self._file.fileno()).st_size
        (length,) = struct.unpack("<Q", self._file.read(8))
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"its length is {length}, in a file of {size} bytes")
        text = self._file.read(length)
        if header_checksum is not None and self._checksum(length, text) != header_checksum:
            raise ValueError("its checksum is another")
        header: dict[str, Any] = json.loads(text)
        places: dict[str, Any] = json.loads(header.pop("__metadata__")["modelwright"])
        if header.keys() != places.keys():
            raise ValueError("its two lists of tensors differ")
        boxes = [_box(header[name], places[name], 8 + length) for name in header]
        ends = [8 + length, *(box.first_byte + box.bytes for box in boxes)]
        if [box.first_byte for box in boxes] != ends[:-1] or ends[-1] != size:
            raise ValueError(f"its tensors do not fill the {size} bytes of the file")
        return boxes

    def _checksum(self, length: int, text: bytes) -> str:
        return checksum(struct.pack("<Q", length) + text, version=self._version)

    def read(self, boxes: Sequence[StoredBox], *, verify: bool = True) -> Iterator[tuple[StoredBox, memoryview]]:
        """Yield tensors and their bytes, which stay until the next are asked for; those are read in the meantime.

        Args:
            boxes: Some of `boxes`.
            verify: Compare with the checksums.

        Raises:
            DamagedCheckpointError: The bytes are not those that were written.
        """
        largest = max((box.bytes for box in boxes), default=0)
        buffers = cycle([memoryview(bytearray(largest)) for _ in boxes[:2]])
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = [reader.submit(self._content, box, next(buffers), verify) for box in boxes[:1]]
            for box, following in zip_longest(boxes, boxes[1:]):
                content = ahead.pop().result()
                if following is not None:
                    ahead.append(reader.submit(self._content, following, next(buffers), verify))
                yield box, content

    def _content(self, box: StoredBox, buffer: memoryview, verify: bool) -> memoryview:  # noqa: FBT001 - of `submit`
        """Read a tensor into the buffer. Each chunk is added to the checksum while reading has it in the cache."""
        total = new_checksum(box.bytes, version=self._version)
        content = buffer[: box.bytes]
        try:
            self._file.seek(box.first_byte)
            for first in range(0, box.bytes, CHUNK_BYTES):
                chunk = content[first : first + CHUNK_BYTES]
                if self._file.readinto(chunk) != len(chunk):
                    raise DamagedCheckpointError(f"`{self.path}` ends within `{box.stored_name}`.")
                if verify:
                    total.update(chunk)
        except OSError as error:
            raise DamagedCheckpointError(f"`{self.path}` cannot be read: {error.strerror}.") from error
        if verify and total.hexdigest() != box.checksum:
            raise DamagedCheckpointError(
                f"`{self.path}` is damaged: the bytes of `{box.stored_name}` do not have their checksum."
            )
        return content


def open_tensors(path: Path, manifest: Manifest, name: str, *, verify: bool = True) -> TensorFile:
    """Open a file of tensors of a checkpoint.

    Args:
        path: Folder of the checkpoint.
        manifest: Its manifest.
        name: Name of the file.
        verify: Compare the header with its checksum.

    Raises:
        DamagedCheckpointError: The file is not what a save writes.
    """
    expected = manifest.files[name].header if verify else None
    return TensorFile(path / name, header_checksum=expected, version=manifest.format)


def header_checksum(path: Path) -> str:
    """Return the checksum of the header of a file that was just written.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        start = file.read(8)
        return checksum(start + file.read(struct.unpack("<Q", start)[0]))


_NAME = re.compile(r"[\w.:/-]{1,1024}", re.ASCII)


def _box(tensor: Mapping[str, Any], place: list[Any], first: int) -> StoredBox:
    """Return one tensor of a header. Every number of a header is checked, because a stranger may have written it."""
    name, global_shape, start, step, total = place
    low, high = tensor["data_offsets"]
    box = StoredBox(
        name=name,
        dtype=_DTYPE_OF[tensor["dtype"]],
        global_shape=tuple(global_shape),
        start=tuple(start),
        shape=tuple(tensor["shape"]),
        step=step,
        first_byte=first + low,
        checksum=total,
    )
    if not (isinstance(name, str) and _NAME.fullmatch(name) and isinstance(total, str)):
        raise ValueError("it has a tensor with an impossible name")
    numbers = (low, high, step, *box.global_shape, *box.start, *box.shape)
    if any(type(number) is not int or not 0 <= number < 2**62 for number in numbers):
        raise ValueError(f"`{name}` has a size that is not a number")
    dims = {len(box.global_shape), len(box.start), len(box.shape)}
    if len(dims) > 1 or max(dims) > _MAX_DIMS or high - low != box.bytes:
        raise ValueError(f"`{name}` has sizes that contradict each other")
    if any(a + b > c for a, b, c in zip(box.start, box.shape, box.global_shape, strict=True)):
        raise ValueError(f"`{name}` has a part that lies outside of it")
    return box


def split_rows(shape: tuple[int, ...], element_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield first row and number of rows of the parts in which a tensor is stored.

    Args:
        shape: Shape of the tensor, at least one dim.
        element_bytes: Size of an element in bytes.
    """
    row = max(1, math.prod(shape[1:]) * element_bytes)
    rows = max(1, MAX_TENSOR_BYTES // row)
    for first in range(0, shape[0], rows):
        yield first, min(rows, shape[0] - first)
