"""Every kind of run can be saved, resumed where it was, and moved: one cell of the matrix for each wrap and family.

The other cells are in `tests/proofs/test_checkpoint_cells.py`.
"""

from pathlib import Path

import pytest

from modelwright.testing import RankPool
from tests.integration.checkpoint_cells import CELLS, Cell, first_of_each, pairs_of, possible_pairs
from tests.integration.checkpoint_contents import assert_same_contents
from tests.integration.checkpoint_jobs import first_part, second_part

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}
"""Largest difference of losses and gradient norms between layouts. In float32 it is the promise of the README; in the
others it is what two layouts differ by without any checkpoint."""


def check(cell: Cell, pool: RankPool, folder: Path) -> None:
    """Save, resume on the same layout (equal in every bit), resume on the other."""
    before, after = (cell.run(target=target).parallelism.world_size() for target in (False, True))
    unbroken = pool.run(first_part, cell, folder / "saved", ranks=before)[0]
    same = pool.run(_resumed, cell, folder / "saved", folder / "same", False, ranks=before)[0]
    moved = pool.run(_resumed, cell, folder / "saved", folder / "moved", True, ranks=after)[0]
    names = {name for name, *_ in unbroken}
    assert len(names) == (2 if cell.model == "composite" else 1)
    for name in names:
        saved = folder / "saved" / name / "checkpoints" / "step-00000002"
        for other in ("same", "moved"):
            assert_same_contents(saved, folder / other / name / "checkpoints" / "step-00000002")
    last = [record for record in unbroken if record[1] > 2]
    assert same == last
    for (name, step, *found), (_, _, *expected) in zip(moved, last, strict=True):
        assert found == pytest.approx(expected, abs=TOLERANCE[cell.dtype]), (name, step)


def _resumed(cell: Cell, folder: Path, again: Path, target: bool) -> list[tuple[str, int, float, float]]:
    return second_part(cell, folder, again, target=target)


@pytest.mark.parametrize("cell", first_of_each(), ids=lambda cell: cell.id)
def test_saved_resumed_and_moved(cell: Cell, two_ranks: RankPool, tmp_path: Path) -> None:
    check(cell, two_ranks, tmp_path)


def test_the_cells_cover_every_pair_of_values() -> None:
    assert {pair for cell in CELLS for pair in pairs_of(cell)} == possible_pairs()
    assert all(cell.occurs for cell in CELLS)
