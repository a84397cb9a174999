"""The tensors of a checkpoint, by name: are all complete, and which parts of files overlap the parts of this rank."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from modelwright.training.checkpoint.files.manifest import CheckpointError, Manifest
from modelwright.training.checkpoint.files.tensor_file import StoredBox, open_tensors
from modelwright.training.checkpoint.train_state import NamedBox


def check_complete(boxes: Iterable[StoredBox]) -> None:
    """Refuse a checkpoint in which an element of a tensor is missing or occurs twice.

    Args:
        boxes: The tensors of all files.

    Raises:
        CheckpointError: A tensor is not complete. The message lists up to five.
    """
    by_name: dict[str, list[StoredBox]] = defaultdict(list)
    for box in boxes:
        by_name[box.name].append(box)
    problems = [f"`{name}` {problem}" for name, parts in by_name.items() if (problem := _incomplete(parts))]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"the ranks must have every element of every tensor once between them, but "
            f"{'; '.join(problems[:5])}{more}; "
            "look at `sharded_state_dict` of the part that has it."
        )


def _incomplete(parts: list[StoredBox]) -> str | None:
    """Return what is wrong with the parts of one tensor. None: nothing."""
    if len({(box.global_shape, box.dtype) for box in parts}) > 1:
        return "has several shapes or dtypes"
    present, all_elements = sum(math.prod(box.shape) for box in parts), math.prod(parts[0].global_shape)
    if present != all_elements:
        return f"has {present:,} elements instead of {all_elements:,}"
    if len({box.start for box in parts if box.bytes}) < len([box for box in parts if box.bytes]):
        return "has parts twice"
    return None


def fill(
    wanted: Sequence[NamedBox], path: Path, manifest: Manifest, *, keep: Sequence[str] = (), verify: bool = True
) -> None:
    """Fill local tensors from a checkpoint. Nothing is changed before all files are found to have what is wanted.

    Args:
        wanted: What this rank has.
        path: Folder of the checkpoint.
        manifest: Its manifest.
        keep: Patterns of names of weights. A matching weight that the checkpoint lacks is left as it is.
        verify: Compare what is read with its checksums.

    Raises:
        CheckpointError: The checkpoint lacks a tensor, or has it in another shape.
        DamagedCheckpointError: A file is not what was written.
    """
    by_name: dict[str, list[NamedBox]] = defaultdict(list)
    for named in wanted:
        by_name[named.name].append(named)
    stored = _stored_parts(by_name, path, manifest, verify=verify)
    _check(by_name, stored, path, keep)
    for file_name, boxes in stored.items():
        with open_tensors(path, manifest, file_name, verify=verify) as file, _one_copying_thread():
            needed = [box for box in boxes if any(_overlap(box, named) for named in by_name[box.name])]
            for box, content in file.read(needed, verify=verify):
                _copy(_as_tensor(content, box), box, by_name[box.name])


@contextlib.contextmanager
def _one_copying_thread() -> Generator[None]:
    """Let torch copy with one thread: more take memory bandwidth and a core from the thread that reads ahead."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _copy(values: Tensor, box: StoredBox, wanted: Sequence[NamedBox]) -> None:
    """Copy a stored tensor into the local tensors that overlap it."""
    for named in wanted:
        overlap = _overlap(box, named)
        if overlap is not None:
            there, here = overlap
            named.box.local[here].copy_(values[there])
            if named.optimized is not None:
                named.optimized.set_step(box.step)


def _stored_parts(
    wanted: Mapping[str, object], path: Path, manifest: Manifest, *, verify: bool
) -> dict[str, list[StoredBox]]:
    """Return the parts of the wanted tensors, by file. A checkpoint may have more, such as optimizer state."""
    found: dict[str, list[StoredBox]] = {}
    for name in manifest.files:
        with open_tensors(path, manifest, name, verify=verify) as file:
            found[name] = [box for box in file.boxes if box.name in wanted]
    return found


def _check(
    wanted: dict[str, list[NamedBox]], stored: Mapping[str, list[StoredBox]], path: Path, keep: Sequence[str]
) -> None:
    """Compare the wanted tensors with the stored ones, and drop those that may keep their values."""
    parts: dict[str, list[StoredBox]] = defaultdict(list)
    for boxes in stored.values():
        for box in boxes:
            parts[box.name].append(box)
    problems: list[str] = []
    for name, needed in list(wanted.items()):
        if not parts[name]:
            if any(fnmatchcase(name, pattern) for pattern in keep):
                del wanted[name]
            else:
                problems.append(f"`{name}` is missing")
        else:
            problems += dict.fromkeys(p for named in needed if (p := _mismatch(named, parts[name])))
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"`{path}` cannot be loaded into this model: {'; '.join(problems[:5])}{more}.")


def _mismatch(named: NamedBox, parts: Sequence[StoredBox]) -> str | None:
    """Return why a wanted box cannot be filled from the parts of its tensor. None: it can."""
    shapes = {part.global_shape for part in parts}
    if shapes != {named.box.global_shape}:
        there = " and ".join(map(str, sorted(shapes)))
        return f"`{named.name}` has the shape {there} where the model has {named.box.global_shape}"
    overlaps = (_overlap(part, named) for part in parts)
    present = sum(math.prod(s.stop - s.start for s in overlap[0]) for overlap in overlaps if overlap is not None)
    return None if present == named.box.local.numel() else f"`{named.name}` is not complete"


type _Window = tuple[slice, ...]


def _overlap(stored: StoredBox, named: NamedBox) -> tuple[_Window, _Window] | None:
    """Return the common elements as windows of the stored and of the local tensor. None: there are none."""
    there: list[slice] = []
    here: list[slice] = []
    ours = zip(named.box.start, named.box.local.shape, strict=True)
    for (first, size), (start, length) in zip(zip(stored.start, stored.shape, strict=True), ours, strict=True):
        low, high = max(first, start), min(first + size, start + length)
        if low >= high:
            return None
        there.append(slice(low - first, high - first))
        here.append(slice(low - start, high - start))
    return tuple(there), tuple(here)


def _as_tensor(content: memoryview, box: StoredBox) -> Tensor:
    """Return the bytes of a tensor as a tensor that shares their memory."""
    return torch.frombuffer(content, dtype=getattr(torch, box.dtype)).view(box.shape)
