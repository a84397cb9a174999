"""What a file system may have on its disk after a power cut, by replaying the recorded writes and syncs.

The model is the weakest that POSIX allows: a file's content is on the disk once the file is synced, and a name once its
folder is synced. Before that it may be there or not. Two disks are made at every point: one with no change of a name
since the last sync of its folder, and one with all of them. On both, content that was not synced is empty.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

type Inode = tuple[int, int]
"""Number of an inode, and how often the number was used before."""


@dataclass
class Disk:
    """What was synced below a folder."""

    root: Path
    contents: dict[Inode, bytes] = field(default_factory=dict[Inode, bytes])
    """Content of each file at its last sync."""
    names: dict[Inode, dict[str, Inode]] = field(default_factory=dict[Inode, dict[str, Inode]])
    """Names in each folder at its last sync."""
    folders: set[Inode] = field(default_factory=set[Inode])
    reused: Counter[int] = field(default_factory=Counter[int])
    """How often each inode was deleted, because its number is given to a new file."""
    seen: list[tuple[str, "Tree", "Tree"]] = field(default_factory=list["tuple[str, Tree, Tree]"])
    """Every point: the operation before it, and the two disks after a cut there."""

    def synced(self, descriptor: int) -> None:
        """A file or folder was synced."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path != self.root and self.root not in path.parents:
            return
        inode = self.inode(path)
        if path.is_dir():
            self.names[inode] = {entry.name: self.inode(Path(entry.path)) for entry in os.scandir(path)}
        else:
            self.contents[inode] = path.read_bytes()

    def inode(self, path: Path) -> Inode:
        number = path.lstat().st_ino
        return number, self.reused[number]

    def look(self, operation: str) -> None:
        """Record what the disk may have now."""
        current: dict[Inode, dict[str, Inode]] = {}
        for folder, _, _ in os.walk(self.root):
            here = self.inode(Path(folder))
            self.folders.add(here)
            current[here] = {entry.name: self.inode(Path(entry.path)) for entry in os.scandir(folder)}
        root = self.inode(self.root)
        self.seen.append((operation, self._tree(root, self.names), self._tree(root, current)))

    def _tree(self, inode: Inode, names: dict[Inode, dict[str, Inode]]) -> "Tree":
        if inode not in self.folders:
            return self.contents.get(inode, b"")
        return {name: self._tree(inner, names) for name, inner in names.get(inode, {}).items()}


type Tree = bytes | dict[str, "Tree"]


CHANGES = ("rename", "replace", "mkdir", "unlink", "rmdir", "open")
SYNCS = ("fsync", "fdatasync")


@contextmanager
def recorded(root: Path) -> Iterator[Disk]:
    """Record every change of a name and every sync below a folder until the end of the block."""
    disk = Disk(root)
    with _replaced(disk):
        descriptor = os.open(root, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        yield disk
        disk.look("end")


@contextmanager
def _replaced(disk: Disk) -> Iterator[None]:
    before: dict[str, Any] = {name: getattr(os, name) for name in (*CHANGES, *SYNCS)}
    inside = False

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal inside
            if inside or (name == "open" and not args[1] & os.O_CREAT):
                return before[name](*args, **options)
            inside = True
            try:
                disk.look(f"before {name} {args[0]}")
                lost = _lost(name, args, options)
                number = lost.lstat().st_ino if lost is not None and os.path.lexists(lost) else None
                result = before[name](*args, **options)
                if number is not None:
                    disk.reused[number] += 1
                if name in SYNCS:
                    disk.synced(args[0])
                return result
            finally:
                inside = False

        return call

    try:
        for name in before:
            setattr(os, name, wrapped(name))
        yield
    finally:
        for name, function in before.items():
            setattr(os, name, function)


def _lost(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Path | None:
    """The file or folder that an operation deletes. None: it deletes nothing."""
    if name in ("rename", "replace"):
        return Path(args[1])
    if name in ("unlink", "rmdir"):
        folder = options.get("dir_fd")
        return Path(args[0]) if folder is None else Path(f"/proc/self/fd/{folder}") / args[0]
    return None


def write_tree(tree: Tree, path: Path) -> None:
    """Write what a disk has."""
    if isinstance(tree, bytes):
        path.write_bytes(tree)
        return
    path.mkdir()
    for name, inner in tree.items():
        write_tree(inner, path / name)
