"""`modelwright build`: build a model as for training, run one batch forward and backward, and describe every rank."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, final

import typer

from modelwright.cli.exit_codes import command
from modelwright.cli.options import Debug, File, Import, Set
from modelwright.cli.output_file import check_output_file
from modelwright.cli.ranks import Job, run_on_ranks
from modelwright.cli.reports.split_picture import DRAWING_MARK, Stage, draw_split, split_table
from modelwright.cli.run_file import load_run
from modelwright.config import DecoderConfig, Parallelism, RunConfig

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from torch import nn


@final
@dataclass(frozen=True, kw_only=True)
class BuildJob(Job):
    """Input of every rank of a build."""

    svg: Path | None
    """File for the drawing of the split. None: no drawing."""


@dataclass(frozen=True)
class StageRow:
    """One stage of one rank: a line of the table."""

    rank: int
    """Rank in the job."""
    parameters: int
    """Number of parameters; a tied weight counts once."""
    size: int
    """Size of the parameters in bytes."""
    wrapped_in: str
    """Names of the wrappers, outermost first."""
    place: Stage
    """Place of the stage in the pipeline."""


@command
def build(
    file: File,
    svg: Annotated[Path | None, typer.Option(help="Draw the split into stages.", metavar="FILE")] = None,
    overrides: Set = None,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Build a model, run one forward and backward pass, and print the layers and parameters of every rank."""
    run = load_run(file, overrides, modules)
    if svg is not None:
        check_output_file("--svg", svg, mark=DRAWING_MARK)
    drawing = None if svg is None else svg.resolve()
    run_on_ranks(build_rank, BuildJob(run=run, modules=tuple(modules or ()), debug=debug, svg=drawing))


def build_rank(job: BuildJob) -> None:
    """Build as one rank; rank 0 prints.

    Args:
        job: Input of the rank.
    """
    import torch

    from modelwright.distributed import gather_texts, initialize
    from modelwright.training import builder_of, naming_engine_errors

    run = job.run
    groups = initialize(run.parallelism, seed=run.train.seed)
    with naming_engine_errors("build", run):
        stages = builder_of(run).build_distributed_models(
            groups, parallelism=run.parallelism, precision=run.precision, wrap=run.wrap, seed=run.train.seed
        )
    with naming_engine_errors("forward and backward", run, stages):
        loss = _loss_of_one_batch(run, stages, groups)
    rows = gather_texts(json.dumps([asdict(row) for row in _rows(run, stages, groups)]))
    if torch.distributed.get_rank() == 0:
        flat = [_row(fields) for of_rank in rows for fields in json.loads(of_rank)]
        tied = isinstance(run.model, DecoderConfig) and run.model.tie_embeddings
        _print(flat, loss, tied=tied)
        if job.svg is not None:
            draw_split(_stages(flat), job.svg, tied=tied)


def _row(fields: dict[str, Any]) -> StageRow:
    """Return a row that was sent as JSON."""
    place = Stage(**fields.pop("place"))
    return StageRow(**fields, place=place)


def _loss_of_one_batch(run: RunConfig, stages: "list[nn.Module]", groups: "ProcessGroupCollection") -> float:
    """Run one batch of random tokens forward and backward."""
    from modelwright.training import language_shape, run_batch, synthetic_batch

    vocab_size, seq_length = language_shape(run)
    size = run.train.micro_batch * groups.dp.size() * run.parallelism.pipeline
    batch = synthetic_batch(size=size, seq_length=seq_length, vocab_size=vocab_size, seed=run.train.seed)
    return run_batch(stages, batch, groups, run.parallelism, micro_batch=run.train.micro_batch)


def _rows(run: RunConfig, stages: "list[nn.Module]", groups: "ProcessGroupCollection") -> list[StageRow]:
    """Describe the stages of this rank."""
    import torch

    from modelwright.distributed import total_bytes, total_parameters

    return [
        StageRow(
            rank=torch.distributed.get_rank(),
            parameters=total_parameters([stage]),
            size=total_bytes([stage]),
            wrapped_in=_wrappers(stage),
            place=_place(stage, run.parallelism, virtual=virtual, rank=groups.pp.rank()),
        )
        for virtual, stage in enumerate(stages)
    ]


def _place(stage: "nn.Module", parallelism: Parallelism, *, virtual: int, rank: int) -> Stage:
    """Describe the place of a stage, and its layers if it is the engine's model; a custom builder may make another."""
    from megatron.core.models.hybrid.hybrid_model import HybridModel

    from modelwright.distributed import unwrapped

    index = virtual * parallelism.pipeline + rank
    last = parallelism.pipeline * parallelism.virtual_pipeline - 1
    place = Stage(index=index, rank=rank, first_layer=0, layers="", embedding=index == 0, output=index == last)
    inner = unwrapped(stage)
    if not isinstance(inner, HybridModel):
        return place
    decoder: Any = cast("Any", inner).decoder  # its class has no type that a checker can follow
    if not decoder.layers:
        return place
    return replace(place, first_layer=decoder.layers[0].layer_number - 1, layers="".join(decoder.layer_type_list))


def _wrappers(stage: "nn.Module") -> str:
    """Return the names of the wrappers of a stage."""
    from modelwright.distributed import wrappers_of

    return ", ".join(type(wrapper).__name__ for wrapper in wrappers_of(stage)) or "nothing"


def _stages(rows: list[StageRow]) -> list[Stage]:
    """Return each stage of the pipeline once, although several ranks may have it."""
    return list({row.place.index: row.place for row in rows}.values())


def _print(rows: list[StageRow], loss: float, *, tied: bool) -> None:
    """Print the tables and the loss."""
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table("rank", "stage", "layers", "pattern", "parameters", "size", "wrapped in", box=None)
    for row in rows:
        place = row.place
        last = place.first_layer + len(place.layers) - 1
        table.add_row(
            str(row.rank),
            str(place.index),
            f"{place.first_layer}-{last}" if place.layers else "none",
            place.layers,
            f"{row.parameters:,}",
            decimal(row.size),
            row.wrapped_in,
        )
    console = Console()
    console.print(table)
    console.print(split_table(_stages(rows), tied=tied))
    console.print(f"one forward and backward ran: loss {loss:.4f} on random tokens")
