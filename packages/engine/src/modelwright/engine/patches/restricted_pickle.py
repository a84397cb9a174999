"""Read the engine's checkpoints without running code that a stranger may have put into them.

The engine's format contains pickles: `.metadata`, which `torch.distributed.checkpoint` reads by `pickle.load`, and the
items that are not tensors, which it reads by `torch.load(weights_only=False)`; both run whatever the file says. Inside
`restricted_reading()` this thread reads both through allow-lists, and refuses files that lie outside the folder. Other
threads read as ever.
"""

import contextlib
import io
import pickle
import threading
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
from torch.distributed.checkpoint import filesystem

_METADATA = {
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "_MEM_FORMAT_ENCODING",
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
        )
    ),
    *(
        ("torch.distributed.checkpoint.planner", name)
        for name in ("BytesIOWriteData", "SavePlan", "TensorWriteData", "WriteItem", "WriteItemType")
    ),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
}


class _MetadataUnpickler(pickle.Unpickler):
    """Find only the classes that describe tensors and their places."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        known = (module_name, global_name) in _METADATA
        if known or (module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype)):
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"it asks for `{module_name}.{global_name}`, which no checkpoint needs")


def load_metadata(file: IO[bytes]) -> Any:
    """Return the object of a `.metadata` file.

    Raises:
        pickle.UnpicklingError: It asks for anything but descriptions of tensors, or names a file outside its folder.
    """
    metadata: Any = _MetadataUnpickler(file).load()
    for place in (getattr(metadata, "storage_data", None) or {}).values():
        name = str(place.relative_path)
        if name != Path(name).name or name in ("", ".", ".."):
            raise pickle.UnpicklingError(f"it names the file `{name}`, which is not in its folder")
    return metadata


def refuse_links(folder: Path) -> None:
    """Refuse a checkpoint in which a file is a link, a pipe or anything else but a file.

    Raises:
        pickle.UnpicklingError: There is one.
    """
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise pickle.UnpicklingError(f"`{path.name}` is not a plain file")


@contextlib.contextmanager
def restricted_reading() -> Generator[None]:
    """Let this thread read checkpoints through allow-lists until the end of the block."""
    thread, plain_load, plain_pickle = threading.get_ident(), torch.load, filesystem.pickle

    def load_metadata_here(file: IO[bytes]) -> Any:
        return load_metadata(file) if threading.get_ident() == thread else plain_pickle.load(file)

    def load_weights_only(file: Any, *args: Any, **options: Any) -> Any:
        if threading.get_ident() == thread:
            options["weights_only"] = True
            if isinstance(file, io.BytesIO):
                file.seek(0)
        return plain_load(file, *args, **options)

    shim: Any = SimpleNamespace(load=load_metadata_here, dump=plain_pickle.dump)
    filesystem.pickle = shim
    torch.load = load_weights_only
    try:
        yield
    finally:
        filesystem.pickle, torch.load = plain_pickle, plain_load
