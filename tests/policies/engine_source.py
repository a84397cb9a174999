"""What the installed engine says of its slots, read from its source: importing all of it would need every backend."""

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EngineField:
    """One field of a `…Submodules` dataclass."""

    owner: str
    field: str
    annotation: str
    file: str

    @property
    def name(self) -> str:
        """As a slot is named."""
        return f"{self.owner}.{self.field}"

    @property
    def is_typed(self) -> bool:
        """Whether the engine says with a Protocol of its own what may fill it."""
        return "Builder" in self.annotation


@dataclass(frozen=True)
class EngineProtocol:
    """One Protocol that the engine defines."""

    name: str
    file: str


def engine_folder() -> Path:
    """Where `megatron.core` is installed; nothing of it is imported."""
    spec = importlib.util.find_spec("megatron")
    places = [Path(place) / "core" for place in (spec.submodule_search_locations or ())] if spec else []
    return next(place for place in places if place.is_dir())


def classes(folder: Path) -> Iterator[tuple[str, ast.ClassDef]]:
    """Every class of every file, with the file's path."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield path.relative_to(folder).as_posix(), node


def submodules_fields(folder: Path) -> list[EngineField]:
    """Every field of every dataclass whose name ends in `Submodules`."""
    return [
        EngineField(node.name, item.target.id, ast.unparse(item.annotation), file)
        for file, node in classes(folder)
        if node.name.endswith("Submodules") and any("dataclass" in ast.unparse(mark) for mark in node.decorator_list)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]


def protocols(folder: Path) -> list[EngineProtocol]:
    """Every class that names `Protocol` among its bases."""
    return [
        EngineProtocol(node.name, file)
        for file, node in classes(folder)
        if any(ast.unparse(base).split("[")[0].split(".")[-1] == "Protocol" for base in node.bases)
    ]


def defined_names(folder: Path, module: str) -> set[str]:
    """The classes and functions of one module, and of its classes, dotted: `MLP`, `MLP.as_mlp_submodule`."""
    path = folder / (module.replace(".", "/") + ".py")
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return found
