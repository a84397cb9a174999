"""A layout that lacks elements, or has tensors of its own, is never called equal."""

import dataclasses

import numpy as np

from modelwright.verify.comparison import TOLERANCES, Reference, compare
from modelwright.verify.on_ranks.records import Piece, RankRecording, StepRecording

TENSOR = {"tensor": 2, "pipeline": 1, "context": 1, "data": 1, "expert": 1, "expert_tensor": 2, "expert_data": 1}
ALONE = dict.fromkeys(TENSOR, 1)
WHOLE = np.arange(8, dtype=np.float32).reshape(4, 2) + 1


def piece(first: int, count: int, key: str = "weight") -> Piece:
    """Rows of the only parameter."""
    values = WHOLE[first : first + count].copy()
    return Piece(key=key, name=f"linear.{key}", global_shape=(4, 2), start=(first, 0), values=values)


def recording(rank: int, sizes: dict[str, int], *pieces: Piece) -> RankRecording:
    """One step that changes every element, with gradients like the parameters."""
    after = [dataclasses.replace(one, values=one.values + 1) for one in pieces]
    step = StepRecording(loss=1.0, grad_norm=1.0, gradients=list(pieces), parameters=after, outputs=[])
    where = {axis: rank if size > 1 else 0 for axis, size in sizes.items()}
    return RankRecording(
        coordinates=where, sizes=sizes, initial=list(pieces), layout_bound=(), order=("linear",), steps=[step]
    )


def said(*ranks: RankRecording) -> list[str]:
    reference = Reference(recording(0, ALONE, piece(0, 4)))
    return [one.sentence() for one in compare(reference, ranks, TOLERANCES["float32"])]


def test_shards_that_cover_the_tensor_are_equal() -> None:
    assert said(recording(0, TENSOR, piece(0, 2)), recording(1, TENSOR, piece(2, 2))) == []


def test_elements_that_no_rank_has_are_missing() -> None:
    found = said(recording(0, TENSOR, piece(0, 2)), recording(1, TENSOR, piece(2, 1)))
    assert found == [
        "`linear.weight`: gradient is missing: the ranks have 6 of its 8 elements",
        "`linear.weight`: parameter is missing: the ranks have 6 of its 8 elements",
    ]


def test_a_tensor_that_one_rank_does_not_have_is_named() -> None:
    rest = (piece(2, 2), piece(0, 1, key="extra"))
    found = said(recording(0, TENSOR, piece(0, 2)), recording(1, TENSOR, *rest))
    assert found == ["`linear.extra`: parameter does not exist on one rank"]
