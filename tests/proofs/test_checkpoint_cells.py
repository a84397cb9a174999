"""The cells of the checkpoint matrix that the default suite leaves out. `-k ID` runs one of them.

`MODELWRIGHT_CELL` runs a cell that the design does not contain, such as
`moe-float16-lora-alone-distributed-expert-ddp-pipeline`.
"""

import os
from pathlib import Path

import pytest

from modelwright.testing import RankPool
from tests.integration.checkpoint_cells import CELLS, Cell, cell_of, first_of_each
from tests.integration.test_checkpoint_cells import check

GIVEN = os.environ.get("MODELWRIGHT_CELL")
REST = [cell_of(GIVEN)] if GIVEN else [cell for cell in CELLS if cell not in first_of_each()]


@pytest.mark.parametrize("cell", REST, ids=lambda cell: cell.id)
def test_saved_resumed_and_moved(cell: Cell, two_ranks: RankPool, tmp_path: Path) -> None:
    check(cell, two_ranks, tmp_path)
