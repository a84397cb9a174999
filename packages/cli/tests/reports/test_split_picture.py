"""The picture of a split: which rank of the pipeline holds what, in text and as a drawing."""

import io
import re
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

from modelwright.cli.reports.split_picture import Stage, draw_split, split_table

STAGES = [
    Stage(index=0, rank=0, first_layer=0, layers="*-*-", embedding=True, output=False),
    Stage(index=3, rank=1, first_layer=8, layers="", embedding=False, output=True),
    Stage(index=1, rank=1, first_layer=4, layers="M-", embedding=False, output=False),
    Stage(index=2, rank=0, first_layer=6, layers="*E", embedding=False, output=False),
]


def printed(stages: list[Stage], *, tied: bool) -> list[list[str]]:
    """The words of each line of the table."""
    console = Console(file=io.StringIO(), width=120)
    console.print(split_table(stages, tied=tied))
    file = console.file
    assert isinstance(file, io.StringIO)
    return [re.sub(r"[^\w*+\-: ]", " ", line).split() for line in file.getvalue().splitlines()]


def test_a_line_for_each_rank_of_the_pipeline() -> None:
    lines = printed(STAGES, tied=False)
    assert ["0", "0:", "embedding", "*-*-", "2:", "*E"] in lines
    assert ["1", "1:", "M-", "3:", "no", "layer", "output"] in lines


def test_one_stage_a_rank() -> None:
    lines = printed([Stage(index=0, rank=0, first_layer=0, layers="*-", embedding=True, output=True)], tied=True)
    assert ["pipeline", "rank", "layers"] in lines
    assert ["0", "0:", "embedding", "*-", "output"] in lines
    assert any("shares" in line for line in lines)


def test_the_drawing_holds_every_layer_in_order(tmp_path: Path) -> None:
    draw_split(STAGES, tmp_path / "split.svg", tied=True)
    texts = [text.text or "" for text in ElementTree.parse(tmp_path / "split.svg").getroot().findall(".//{*}text")]
    headings = ("stage 0: layers 0-3", "stage 1: layers 4-5", "stage 3: no layer")
    starts = [texts.index(heading) for heading in headings]
    assert texts[starts[0] + 1 : starts[0] + 6] == ["emb", "*", "-", "*", "-"]
    assert texts[starts[1] + 1 : starts[1] + 3] == ["M", "-"]
    assert texts[starts[2] + 1] == "out"
    assert {"pipeline rank 0", "pipeline rank 1"} <= set(texts)
    assert "The output layer shares the weight of the embedding." in texts
    assert any("E MoE" in text for text in texts)
    assert not any("sparse" in text for text in texts)


def test_equal_splits_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw_split(STAGES, tmp_path / name, tied=False)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
