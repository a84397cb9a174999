"""Read the engine's checkpoints without running code that a third party may have put into them.

- **Changes**: the name `pickle` in `torch.distributed.checkpoint.filesystem`, and `torch.load`. Both accept only
  allow-listed classes in the thread that entered `restricted_reading()`.
- **Why**: the format contains pickles. `.metadata` is read by `pickle.load`, items that are not tensors by
  `torch.load(weights_only=False)`, and both run whatever a file tells them to.
- **Versions**: torch 2.11 to 2.15, megatron-core 0.19.
- **Undone**: at the end of the block.
- **Entered**: by `modelwright.training.load_checkpoint`.
- **Test that fails when it is no longer needed**: `packages/training/tests/checkpoint/test_restricted_pickle.py`
  shows that its payload runs where nothing restricts it.
"""

import io
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
from torch.distributed.checkpoint import filesystem

from modelwright.engine.thread_patch import Change, ThreadPatch

_ALLOWED_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        "_MEM_FORMAT_ENCODING",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
    },
    "torch.distributed.checkpoint.planner": {
        "BytesIOWriteData",
        "SavePlan",
        "TensorWriteData",
        "WriteItem",
        "WriteItemType",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},
}


class _MetadataUnpickler(pickle.Unpickler):
    """An unpickler that loads only the classes that describe tensors and where they are stored."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        is_dtype = module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype)
        if is_dtype or global_name in _ALLOWED_CLASSES.get(module_name, ()):
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"its metadata refers to `{module_name}.{global_name}`, which no checkpoint needs")


def load_metadata(file: IO[bytes]) -> Any:
    """Load the object in a `.metadata` file.

    Args:
        file: The open file.

    Raises:
        pickle.UnpicklingError: The file refers to other classes than those that describe tensors, or to a file outside
            its folder.
    """
    metadata: Any = _MetadataUnpickler(file).load()
    places: dict[object, Any] = getattr(metadata, "storage_data", None) or {}
    for place in places.values():
        name = str(place.relative_path)
        if name != Path(name).name or name in ("", ".", ".."):
            raise pickle.UnpicklingError(f"its metadata refers to the file `{name}`, which is outside its folder")
    return metadata


def refuse_links(folder: Path) -> None:
    """Refuse a checkpoint that contains a link, a pipe or anything else that is not a plain file.

    Args:
        folder: The folder of the checkpoint.

    Raises:
        pickle.UnpicklingError: The folder contains something other than plain files.
    """
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise pickle.UnpicklingError(f"`{path.name}` is not a plain file")


def _refuse_compression(file: io.BytesIO) -> None:
    """Refuse an archive with compressed items, which torch does not write and which may expand a thousandfold."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                raise pickle.UnpicklingError("an item is compressed, which no save does")
    file.seek(0)


def restricted_reading() -> AbstractContextManager[None]:
    """Return a context in which this thread loads only allow-listed classes from checkpoints."""
    return _RESTRICTED()


def _changes() -> Iterator[Change]:
    plain_load = torch.load

    def load_weights_only(file: Any, *args: Any, **options: Any) -> Any:
        if isinstance(file, io.BytesIO):
            file.seek(0)
            _refuse_compression(file)
        return plain_load(file, *args, **{**options, "weights_only": True})

    # A namespace replaces the module in `filesystem` only; `pickle.load` itself is unchanged for all other code.
    shim = SimpleNamespace(load=pickle.load, dump=pickle.dump)
    yield shim, "load", load_metadata
    yield filesystem, "pickle", shim
    yield torch, "load", load_weights_only


_RESTRICTED = ThreadPatch(_changes)
