"""`verify` finds planted faults, and says clearly what it cannot judge."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace as with_parts
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from modelwright.cli.commands.verify import JSON_MARK
from modelwright.cli.output_file import check_output_file
from modelwright.cli.reports.verdict_page import PAGE_MARK
from modelwright.config import Parallelism, replace
from modelwright.layers import MlpLayerSpec, decoder_stack
from modelwright.protocols import ModelwrightError
from modelwright.testing import RankPool
from modelwright.verify import MegatronModel, Verdict, VerifyError, verify
from tests.integration import verify_models as models
from tests.integration.command import modelwright
from tests.integration.tiny_runs import GPT, MOE
from tests.messages import facts
from tests.proofs.museum.exhibits import FIRST, named
from tests.proofs.museum.fault import Fault, check

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


@pytest.mark.parametrize("exhibit", named(FIRST), ids=lambda exhibit: exhibit.build.__name__)
def test_a_fault_of_the_museum_is_found_and_named(exhibit: Fault, two_ranks: RankPool) -> None:
    check(exhibit, two_ranks)


def test_families_of_ours_are_equal(two_ranks: RankPool) -> None:
    """Some layouts here, all of them in `tests/proofs`."""
    for run, layouts in ((GPT, ["tensor=2 sequence", "data=2 fsdp2"]), (MOE, ["context=2", "expert=2 data=2"])):
        verdict = verify(run, layouts=layouts, pool=two_ranks)
        assert [layout.outcome for layout in verdict.layouts] == ["equal", "equal"]
        assert verdict.is_equal
        assert all(layout.layout_bound == () for layout in verdict.layouts)


def test_float64_leaves_less_to_rounding(two_ranks: RankPool) -> None:
    verdict = verify(GPT, layouts=["tensor=2 sequence", "data=2", "data=2 fsdp2"], float64=True, pool=two_ranks)
    assert [layout.outcome for layout in verdict.layouts] == ["equal", "equal", "refused"]
    assert (verdict.dtype, verdict.tolerance) == ("float64", 2e-6)
    assert all(norm > 0 for layout in verdict.layouts[:2] for norm in layout.grad_norms)


def test_ways_to_build_and_compute_the_same_are_equal(two_ranks: RankPool) -> None:
    """A dispatcher on the meta device once stayed there."""
    layouts = ["expert=2 data=2 sequential-experts", "engine-dispatcher", "pipeline=2 meta-build"]
    run = replace(MOE, model=replace(MOE.model, num_query_groups=4))
    verdict = verify(run, layouts=[*layouts, "tensor=2 sequence meta-build"], pool=two_ranks)
    assert {layout.name: layout.sentence() for layout in verdict.layouts if layout.outcome != "equal"} == {}


def test_a_model_is_made_small_unless_told_otherwise(two_ranks: RankPool) -> None:
    run = replace(GPT, model=replace(GPT.model, hidden_size=128))
    small = verify(run, layouts=["data=2"], pool=two_ranks)
    assert "`model.hidden_size` 128 → 64" in small.changes
    own = verify(run, layouts=["data=2"], shrink=False, steps=1, pool=two_ranks)
    assert own.changes == ("1 steps at a constant learning rate of 0.01", "`train.adam_eps` 0.001")
    assert own.on("data=2").outcome == "equal"


def test_an_option_that_looks_at_local_tokens_differs_by_definition(two_ranks: RankPool) -> None:
    run = replace(MOE, model=replace(MOE.model, capacity_factor=0.75, load_balancing="none"))
    verdict = verify(run, layouts=["context=2", "pipeline=2"], pool=two_ranks)
    assert [layout.outcome for layout in verdict.layouts] == ["differs by definition", "equal"]
    assert "`model.capacity_factor: 0.75`" in verdict.on("context=2").reason
    assert verdict.is_equal


def test_a_layout_is_refused_with_the_numbers_of_the_file(two_ranks: RankPool) -> None:
    run = replace(GPT, model=replace(GPT.model, num_attention_heads=3, num_query_groups=3, hidden_size=48))
    layout = verify(run, layouts=["tensor=2", "data=2"], pool=two_ranks).on("tensor=2")
    assert layout.outcome == "refused"
    assert "3 is not a multiple of 2" in layout.reason


def test_a_verdict_on_no_layout_at_all_is_no_verdict(two_ranks: RankPool) -> None:
    run = replace(GPT, model=replace(GPT.model, num_attention_heads=3, num_query_groups=3, hidden_size=48))
    with pytest.raises(VerifyError, match=r"all are refused, `tensor=2` .* 3 is not a multiple of 2"):
        verify(run, layouts=["tensor=2", "tensor=2 sequence"], pool=two_ranks)


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_file_of_the_user_is_not_overwritten(option: str, tmp_path: Path) -> None:
    """Known before any process starts."""
    mine = tmp_path / "mine"
    mine.write_text("{}")
    for place in (mine, tmp_path / "missing" / "file"):
        done = modelwright("verify", EXAMPLES / "gpt-tiny.yaml", option, place)
        assert (done.returncode, done.stdout) == (2, "")
        assert facts(done.stderr) == f"error `{option}` `{place}`\n"
    assert mine.read_text() == "{}"


def test_parts_that_ignore_the_init_method_are_named_and_compared(two_ranks: RankPool) -> None:
    spec = with_parts(decoder_stack(GPT.model), mlp=MlpLayerSpec(mlp=models.OwnValues))
    (layout,) = verify(GPT, layouts=["data=2"], spec=spec, pool=two_ranks).layouts
    assert layout.outcome == "equal", layout.sentence()
    assert layout.layout_bound == tuple(f"decoder.layers.{number}.mlp.matrix.weight" for number in (1, 3, 5, 7))


def bare(build: Any, layouts: list[str], pool: RankPool) -> Verdict:
    return verify(MegatronModel(build=build), layouts=layouts, pool=pool)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (models.unseeded, "two runs with the same seed must be equal on one rank, but `decoder.layers.0.mlp"),
        (models.not_finite, "must be finite on one rank"),
        (models.needs_cuda, "this kernel needs CUDA"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_model_that_cannot_be_judged(build: Any, said: str, two_ranks: RankPool) -> None:
    with pytest.raises(VerifyError) as caught:
        bare(build, ["data=2"], two_ranks)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bare_model_may_refuse_a_layout(two_ranks: RankPool) -> None:
    layout = bare(models.refuses_pipelines, ["pipeline=2", "data=2"], two_ranks).on("pipeline=2")
    assert layout.outcome == "refused"
    assert "no pipeline, please" in layout.reason


def test_a_layout_that_fails_is_no_success(two_ranks: RankPool) -> None:
    verdict = bare(models.dies_on_two_tensor_ranks, ["tensor=2", "data=2"], two_ranks)
    assert [layout.outcome for layout in verdict.layouts] == ["failed", "equal"]
    assert "two ranks" in verdict.on("tensor=2").reason
    assert not verdict.is_equal


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ModelwrightError, match=r"`layouts` .*'tensro=2'.*did you mean `tensor=2`"):
        verify(GPT, layouts=["tensro=2"])


def test_something_else_is_no_subject() -> None:
    with pytest.raises(ModelwrightError, match=r"`subject` must be .*Parallelism"):
        verify(Parallelism())


def test_the_readme_shows_what_the_command_prints(tmp_path: Path) -> None:
    """Exit code 1, the table of the README, the sentence of the page, JSON of the schema, and a page of HTML."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"\$ cd docs/examples && uv run modelwright (verify .*?)```", readme, re.DOTALL)
    command, *shown = blocks[0].splitlines()
    written = ["--json", str(tmp_path / "verdict.json"), "--html", str(tmp_path / "verdict.html")]
    done = modelwright(*shlex.split(command), *written, cwd=EXAMPLES)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert [line.rstrip() for line in done.stdout.splitlines()][: len(shown)] == shown
    (said,) = re.findall(r"^> (.*)$", (ROOT / "docs" / "verify.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert said in " ".join(done.stdout.split())
    assert "4 of 4 layouts: data=2: equal" in done.stderr
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    jsonschema.validate(verdict, Verdict.model_json_schema())
    assert [layout["outcome"] for layout in verdict["layouts"]] == ["equal", "differs", "equal", "equal"]
    page = (tmp_path / "verdict.html").read_text()
    check_output_file("--json", tmp_path / "verdict.json", mark=JSON_MARK)  # may be written again
    check_output_file("--html", tmp_path / "verdict.html", mark=PAGE_MARK)
    assert "<svg" in page
    assert "gradient not summed over" in page


def test_the_example_names_the_bug_and_its_fix() -> None:
    """The two variants of the page, run as it says."""
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "verify_gate.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    lines = done.stdout.splitlines()
    assert [line.split(": ")[1].split(" ")[0] for line in lines] == ["equal", "differs", "equal", "equal"]
    assert "mlp.gate.weight`: gradient not summed over `tensor`" in lines[1]
