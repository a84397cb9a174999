"""A line of the metrics that cannot be read is named, whatever is wrong with it."""

from pathlib import Path

import pytest

from modelwright.cli.reports.metrics_file import read_metrics


@pytest.mark.parametrize("line", ["{", "[" * 200_000, "[1]"], ids=["cut off", "very deep", "no record"])
def test_a_line_that_is_no_record(line: str, tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 2.0}\n' + line + "\n")
    records, damaged = read_metrics(file)
    assert [record["step"] for record in records] == [1]
    assert list(damaged) == [2]
