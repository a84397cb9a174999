"""The content of a checkpoint as unsharded tensors, read as any program could."""

from pathlib import Path

import torch
from torch import Tensor

from modelwright.training.checkpoint.files.tensor_file import TensorFile


def contents(path: Path) -> dict[str, tuple[Tensor, set[int]]]:
    """Every unsharded tensor of a checkpoint by name, and the optimizer steps that its parts have had."""
    found: dict[str, tuple[Tensor, set[int]]] = {}
    for name in sorted(path.glob("*.safetensors")):
        with TensorFile(name) as file:
            for box, content in file.read(file.boxes):
                dtype = getattr(torch, box.dtype)
                full, steps = found.setdefault(box.name, (torch.zeros(box.global_shape, dtype=dtype), set()))
                window = tuple(slice(at, at + size) for at, size in zip(box.start, box.shape, strict=True))
                full[window] = torch.frombuffer(content, dtype=dtype).view(box.shape)
                steps.add(box.step)
    return found


def assert_same_contents(one: Path, other: Path) -> None:
    """Every tensor of two checkpoints is equal in every bit."""
    ours, theirs = contents(one), contents(other)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name][0], theirs[name][0])]
    assert different == []
    assert {name: steps for name, (_, steps) in ours.items()} == {name: steps for name, (_, steps) in theirs.items()}
