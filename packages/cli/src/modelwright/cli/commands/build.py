"""`modelwright build`: build as for training, run one batch forward and backward, say what every rank holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.cli.commands.train import job_config, quiet_engine
from modelwright.cli.reports.split_picture import Stage, draw_split, split_table
from modelwright.cli.run_file import load_run
from modelwright.cli.user_parts import import_parts
from modelwright.config import RunConfig, dumps
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from torch import nn


@dataclass(frozen=True)
class StageRow:
    """One stage of one rank; a line of the table."""

    rank: int
    """Of the whole job."""
    parameters: int
    """A tied weight counts once."""
    size: int
    """Bytes of them."""
    wrapped_in: str
    """Names of the wrappers, outermost first."""
    place: Stage
    """In the pipeline."""


@dataclass(frozen=True)
class BuildOptions:
    """What the ranks need to know of the command line."""

    debug: bool
    svg: Path | None


def check_svg(path: Path) -> None:
    """Refuse a drawing that could not be written, before anything is built.

    Args:
        path: As the user gave it.

    Raises:
        ModelwrightError: No such folder, or a folder itself.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise ModelwrightError(f"`--svg` must name a file in a folder that exists, but `{path}` is not one.")


def build_command(
    file: Path, overrides: tuple[str, ...], modules: tuple[str, ...], *, svg: Path | None, debug: bool
) -> None:
    """Check, start the ranks, wait for them.

    Args:
        file: Config of a run.
        overrides: `a.b=value` each.
        modules: That register parts.
        svg: Where to draw the split into stages.
        debug: Let the engine's warnings through.

    Raises:
        ModelwrightError: Something the user can mend.
        LaunchError: A rank failed.
    """
    run = load_run(file, overrides, modules)
    with quiet_engine(debug=debug):
        from modelwright.training import is_launched, launch, launched_ranks

        if svg is not None:
            check_svg(svg)
        options = BuildOptions(debug=debug, svg=None if svg is None else svg.resolve())
        text = dumps(run, format="json", full=True)
        if is_launched():
            run.parallelism.world_size(launched_ranks())
            build_rank(text, modules, options)
        else:
            launch(build_rank, text, modules, options, ranks=run.parallelism.world_size())


def build_rank(config: str, modules: tuple[str, ...], options: BuildOptions) -> None:
    """One rank of the job."""
    with quiet_engine(debug=options.debug):
        from modelwright.distributed import finalize
        from modelwright.engine import device_runtime

        import_parts(modules)
        run = job_config(config)
        with device_runtime():
            _build(run, options.svg)
            finalize()


def _build(run: RunConfig, svg: Path | None) -> None:
    import torch

    from modelwright.distributed import initialize
    from modelwright.training import builder_of, connect, run_batch, synthetic_batch

    groups = initialize(run.parallelism, seed=run.train.seed)
    stages = builder_of(run).build_distributed_models(
        groups, parallelism=run.parallelism, precision=run.precision, wrap=run.wrap, seed=run.train.seed
    )
    connect(stages, None, groups)
    model: Any = run.model
    size = run.train.micro_batch * groups.dp.size() * run.parallelism.pipeline
    batch = synthetic_batch(size=size, seq_length=model.seq_length, vocab_size=model.vocab_size, seed=run.train.seed)
    loss = run_batch(stages, batch, groups, run.parallelism, micro_batch=run.train.micro_batch)
    rows: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(rows, _rows(run, stages, groups))
    if torch.distributed.get_rank() == 0:
        flat: list[StageRow] = [row for of_rank in rows for row in of_rank]
        _print(flat, loss, tied=model.tie_embeddings)
        if svg is not None:
            draw_split(_stages(flat), svg, tied=model.tie_embeddings)


def _rows(run: RunConfig, stages: "list[nn.Module]", groups: "ProcessGroupCollection") -> list[StageRow]:
    import torch

    from modelwright.distributed import total_bytes, total_parameters, unwrapped

    rows: list[StageRow] = []
    for virtual, stage in enumerate(stages):
        inner: Any = unwrapped(stage)
        decoder = getattr(inner, "decoder", None)
        layers = list(getattr(decoder, "layers", ()))
        place = Stage(
            index=virtual * run.parallelism.pipeline + groups.pp.rank(),
            rank=groups.pp.rank(),
            first_layer=layers[0].layer_number - 1 if layers else 0,
            layers="".join(getattr(decoder, "layer_type_list", ())),
            embedding=inner.pre_process,
            output=inner.post_process,
        )
        rows.append(
            StageRow(
                rank=torch.distributed.get_rank(),
                parameters=total_parameters([stage]),
                size=total_bytes([stage]),
                wrapped_in=_wrappers(stage),
                place=place,
            )
        )
    return rows


def _wrappers(stage: "nn.Module") -> str:
    names: list[str] = []
    while (inner := getattr(stage, "module", None)) is not None:
        names.append(type(stage).__name__)
        stage = inner
    return ", ".join(names) or "nothing"


def _stages(rows: list[StageRow]) -> list[Stage]:
    """Each stage of the pipeline once, whichever ranks share it."""
    return list({row.place.index: row.place for row in rows}.values())


def _print(rows: list[StageRow], loss: float, *, tied: bool) -> None:
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
