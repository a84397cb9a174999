"""Saving and loading checkpoints.

A checkpoint is files of tensors in the safetensors format and a manifest. Each rank writes the parts that it has, under
the names of the unsharded model, so that any layout and any wrapper can load them. A rank reads the parts that overlap
its own.
"""

import contextlib
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from modelwright.config import RunConfig, dumps
from modelwright.training.checkpoint.agreement import agreed, gathered
from modelwright.training.checkpoint.files.durable import delete_folder, replace_folder, sync_folder, write_durably
from modelwright.training.checkpoint.files.manifest import (
    ENGINE_FORMAT,
    MANIFEST,
    CheckpointError,
    FileEntry,
    Manifest,
    read_manifest,
)
from modelwright.training.checkpoint.files.tensor_file import (
    DTYPES,
    StoredBox,
    TensorFile,
    header_checksum,
    split_rows,
    write_tensors,
)
from modelwright.training.checkpoint.run_folder import checkpoint_path, checkpoints
from modelwright.training.checkpoint.run_lock import RunLock, locked
from modelwright.training.checkpoint.stored_tensors import check_complete, fill
from modelwright.training.checkpoint.train_state import NamedBox, TrainState

KINDS = ("weights", "optimizer")
"""Kinds of files. Each rank writes at most one of each."""


def save_checkpoint(state: TrainState, run: RunConfig, run_dir: Path, step: int) -> Path:
    """Write a checkpoint under a temporary name, and rename it when it is complete. Every rank of the model calls this.

    Files and folders are synced before the rename and after it. Then checkpoints older than the newest
    `train.keep_checkpoints` are deleted.

    Args:
        state: The objects to save the state of.
        run: The config, saved with the state.
        run_dir: Folder of the run, visible to all ranks.
        step: Number of steps done.

    Returns:
        The folder of the checkpoint.

    Raises:
        CheckpointError: The checkpoint cannot be written. Older checkpoints are untouched.
    """
    group = state.pg_collection.intra_dist_opt
    path = checkpoint_path(run_dir, step)
    aside = path.with_name(f".{path.name}.partial")
    _write(state, run, aside, step, dry=False)
    with agreed(group):
        if group.rank() == 0:
            replace_folder(aside, path)
            _forget_old(run_dir, run.train.keep_checkpoints)
    return path


@contextlib.contextmanager
def saving_into(run_dir: Path, state: TrainState, run: RunConfig) -> Generator[Callable[[int], Path]]:
    """Hold the lock of a run folder until the end of the block, after a trial of saving into it.

    Args:
        run_dir: Folder of the run, visible to all ranks.
        state: The objects that will be saved.
        run: The config.

    Yields:
        A function that saves a checkpoint of a step, and returns its folder.

    Raises:
        CheckpointError: Another run uses the folder, or a checkpoint cannot be saved there.
    """
    group = state.pg_collection.intra_dist_opt
    with contextlib.ExitStack() as held:
        lock: RunLock | None = None
        with agreed(group):
            if group.rank() == 0:
                lock = held.enter_context(locked(run_dir))
        try_save(state, run, run_dir)

        def save(step: int) -> Path:
            with agreed(group):
                if lock is not None:
                    lock.check()
            return save_checkpoint(state, run, run_dir, step)

        yield save


def try_save(state: TrainState, run: RunConfig, run_dir: Path) -> None:
    """Find out before the first step whether a checkpoint can be saved, by one without the values of its tensors.

    Args:
        state: The objects that will be saved.
        run: The config.
        run_dir: Folder of the run, visible to all ranks.

    Raises:
        CheckpointError: A tensor cannot be described, the folder cannot be written, or the disk has too little space.
    """
    group = state.pg_collection.intra_dist_opt
    aside = run_dir / "checkpoints" / ".step-00000000.partial"
    needed = _write(state, run, aside, 0, dry=True)
    with agreed(group):
        if group.rank() == 0:
            free = shutil.disk_usage(aside).free
            delete_folder(aside)
            if free < needed:
                raise CheckpointError(
                    f"`{run_dir}` must have space for a checkpoint of {needed:,} bytes, but its disk has {free:,} "
                    "bytes left; delete something, or name another folder."
                )


def _write(state: TrainState, run: RunConfig, aside: Path, step: int, *, dry: bool) -> int:
    """Write the files of all ranks and the manifest. Return the number of bytes of all tensors."""
    group = state.pg_collection.intra_dist_opt
    with agreed(group):
        if group.rank() == 0:
            delete_folder(aside)
            aside.mkdir(parents=True)
            sync_folder(aside.parent, up=2)
    sizes, total = [0, 0], 0
    with agreed(group):
        for index, (kind, boxes) in enumerate(_by_kind(state).items()):
            if boxes:
                stored = [entry for entry, _ in boxes]
                contents = (_bytes(local) for _, local in boxes)
                sizes[index] = write_tensors(aside / f"{kind}-{group.rank():05}.safetensors", stored, contents, dry=dry)
                total += sum(entry.bytes for entry in stored)
    answers = gathered([*sizes, total], group)
    with agreed(group):
        if group.rank() == 0:
            files = _entries(aside, answers)
            manifest = Manifest(
                step=step, config=dumps(run, format="json", full=True), files=files, numbers=state.numbers()
            )
            write_durably(aside / MANIFEST, manifest.dumps().encode())
            sync_folder(aside)
    return sum(answer[2] for answer in answers)


def _by_kind(state: TrainState) -> dict[str, list[tuple[StoredBox, Tensor]]]:
    """Return what this rank writes: the description of each tensor, and its elements."""
    found: dict[str, list[tuple[StoredBox, Tensor]]] = {kind: [] for kind in KINDS}
    for named in state.boxes():
        if named.box.is_first_copy:
            found[KINDS[0] if named.optimized is None else KINDS[1]].extend(_stored(named))
    return found


def _stored(named: NamedBox) -> Iterator[tuple[StoredBox, Tensor]]:
    """Cut a box into tensors of a bounded size."""
    box, step = named.box, 0 if named.optimized is None else named.optimized.step
    dtype = str(box.local.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise CheckpointError(f"`{named.name}` must have a dtype that can be saved, but has {dtype}.")
    shape = tuple(box.local.shape)
    parts = split_rows(shape, DTYPES[dtype][1]) if shape else [(0, 1)]
    for first, rows in parts:
        local = box.local[first : first + rows] if shape else box.local
        entry = StoredBox(
            name=named.name,
            dtype=dtype,
            global_shape=box.global_shape,
            start=(box.start[0] + first, *box.start[1:]) if shape else (),
            shape=tuple(local.shape),
            step=step,
        )
        yield entry, local


def _bytes(local: Tensor) -> memoryview:
    """Return the bytes of a tensor."""
    array = local.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _entries(folder: Path, answers: list[list[int]]) -> dict[str, FileEntry]:
    """Return the files of all ranks by name, and check that together they have every tensor once."""
    entries: dict[str, FileEntry] = {}
    boxes: list[StoredBox] = []
    for rank, answer in enumerate(answers):
        for kind, size in zip(KINDS, answer, strict=False):
            if size:
                path = folder / f"{kind}-{rank:05}.safetensors"
                if not path.is_file():
                    raise CheckpointError(
                        f"`{folder.parent}` must be visible to all ranks, but `{path.name}`, which rank {rank} wrote, "
                        "is not there; use a folder on a shared file system."
                    )
                entries[path.name] = FileEntry(bytes=size, header=header_checksum(path))
                with TensorFile(path) as file:
                    boxes += file.boxes
    check_complete(boxes)
    return entries


def _forget_old(run_dir: Path, keep: int | None) -> None:
    for _, path in checkpoints(run_dir)[: -keep if keep else 0]:
        delete_folder(path)


@torch.no_grad()
def load_checkpoint(state: TrainState, path: Path, *, keep: Sequence[str] = (), verify: bool = True) -> None:
    """Load a checkpoint into a model, and into the optimizer and the schedule where they are given.

    What was saved on one layout, backend and wrapper can be loaded on another. Nothing that the files contain is
    executed, and nothing outside the folder is read. Every rank of the model calls this.

    Args:
        state: The objects to load into.
        path: Folder of the checkpoint.
        keep: Patterns of parameter names in the unsharded model. A matching parameter that the checkpoint lacks keeps
            its value, such as an adapter (`*.lora_?`).
        verify: Compare everything that is read with its checksum.

    Raises:
        CheckpointError: The checkpoint lacks something that the model needs.
        DamagedCheckpointError: A file is not what was written.
    """
    with agreed(state.pg_collection.intra_dist_opt):
        manifest = read_manifest(path, verify=verify)
        if manifest.format == ENGINE_FORMAT:
            from modelwright.training.checkpoint.engine_format import load_engine_format

            load_engine_format(state, path, keep=keep)
            return
        fill(list(state.boxes()), path, manifest, keep=keep, verify=verify)
        state.restore(manifest.numbers)
