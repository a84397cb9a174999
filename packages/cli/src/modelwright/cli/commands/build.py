"""`modelwright build`: build a model as for training, run one batch forward and backward, and describe every rank."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from modelwright.cli.exit_codes import command
from modelwright.cli.options import Debug, File, Import, Set
from modelwright.cli.ranks import Job, run_on_ranks
from modelwright.cli.reports.split_picture import Stage, draw_split, split_table
from modelwright.cli.run_file import load_run
from modelwright.config import RunConfig
from modelwright.protocols import ModelwrightError

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
    if svg is not None and (svg.is_dir() or not svg.parent.is_dir()):
        raise ModelwrightError(f"`--svg` must name a file in an existing folder, but `{svg}` is not one.")
    drawing = None if svg is None else svg.resolve()
    run_on_ranks(build_rank, BuildJob(run=run, modules=tuple(modules or ()), debug=debug, svg=drawing))


def build_rank(job: BuildJob) -> None:
    """Build as one rank; rank 0 prints.

    Args:
        job: Input of the rank.
    """
    import torch

    from modelwright.distributed import initialize
    from modelwright.training import builder_of

    run = job.run
    groups = initialize(run.parallelism, seed=run.train.seed)
    stages = builder_of(run).build_distributed_models(
        groups, parallelism=run.parallelism, precision=run.precision, wrap=run.wrap, seed=run.train.seed
    )
    loss = _loss_of_one_batch(run, stages, groups)
    rows: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(rows, _rows(run, stages, groups))
    if torch.distributed.get_rank() == 0:
        flat: list[StageRow] = [row for of_rank in rows for row in of_rank]
        tied = getattr(run.model, "tie_embeddings", False)
        _print(flat, loss, tied=tied)
        if job.svg is not None:
            draw_split(_stages(flat), job.svg, tied=tied)


def _loss_of_one_batch(run: RunConfig, stages: "list[nn.Module]", groups: "ProcessGroupCollection") -> float:
    """Run one batch of random tokens forward and backward."""
    from modelwright.training import run_batch, synthetic_batch

    model: Any = run.model
    size = run.train.micro_batch * groups.dp.size() * run.parallelism.pipeline
    batch = synthetic_batch(size=size, seq_length=model.seq_length, vocab_size=model.vocab_size, seed=run.train.seed)
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
            place=_place(stage, virtual * run.parallelism.pipeline + groups.pp.rank(), groups.pp.rank()),
        )
        for virtual, stage in enumerate(stages)
    ]


def _place(stage: "nn.Module", index: int, pipeline_rank: int) -> Stage:
    """Describe the layers of a stage. A custom builder may make a model without the engine's decoder."""
    from modelwright.distributed import unwrapped

    inner: Any = unwrapped(stage)
    decoder = getattr(inner, "decoder", None)
    layers = list(getattr(decoder, "layers", ()))
    return Stage(
        index=index,
        rank=pipeline_rank,
        first_layer=layers[0].layer_number - 1 if layers else 0,
        layers="".join(getattr(decoder, "layer_type_list", ())),
        embedding=inner.pre_process,
        output=inner.post_process,
    )


def _wrappers(stage: "nn.Module") -> str:
    """Return the names of the wrappers of a stage."""
    names: list[str] = []
    while (inner := getattr(stage, "module", None)) is not None:
        names.append(type(stage).__name__)
        stage = inner
    return ", ".join(names) or "nothing"


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
