"""`modelwright build`: build as for training, run one batch forward and backward, say what every rank holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.cli._loading import load_run
from modelwright.cli._parts import import_parts
from modelwright.cli._train import quiet_engine
from modelwright.config import RunConfig, dumps, loads

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from torch import nn


@dataclass(frozen=True)
class StageRow:
    """One stage of one rank; a line of the table."""

    rank: int
    """Of the whole job."""
    stage: int
    """Of the whole pipeline."""
    first_layer: int
    """Index of its first layer in the whole model."""
    layers: str
    """One symbol per layer."""
    parameters: int
    """A tied weight counts once."""
    size: int
    """Bytes of them."""
    wrapped_in: str
    """Names of the wrappers, outermost first."""


def build_command(file: Path, overrides: tuple[str, ...], modules: tuple[str, ...], *, debug: bool) -> None:
    """Check, start the ranks, wait for them.

    Args:
        file: Config of a run.
        overrides: `a.b=value` each.
        modules: That register parts.
        debug: Let the engine's warnings through.

    Raises:
        ModelwrightError: Something the user can mend.
        LaunchError: A rank failed.
    """
    run = load_run(file, overrides, modules)
    with quiet_engine(debug=debug):
        from modelwright.training import is_launched, launch, launched_ranks

        options = {"debug": debug}
        text = dumps(run, format="json", full=True)
        if is_launched():
            run.parallelism.world_size(launched_ranks())
            build_rank(text, modules, options)
        else:
            launch(build_rank, text, modules, options, ranks=run.parallelism.world_size())


def build_rank(config: str, modules: tuple[str, ...], options: dict[str, bool]) -> None:
    """One rank of the job."""
    import_parts(modules)
    run = loads(config, format="json")
    if not isinstance(run, RunConfig):
        raise TypeError(f"a job holds the config of a run, not {type(run).__name__}")
    with quiet_engine(**options):
        from modelwright.distributed import device_runtime, finalize

        with device_runtime():
            _build(run)
            finalize()


def _build(run: RunConfig) -> None:
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
        _print([row for of_rank in rows for row in of_rank], loss)


def _rows(run: RunConfig, stages: "list[nn.Module]", groups: "ProcessGroupCollection") -> list[StageRow]:
    import torch

    from modelwright.distributed import total_bytes, total_parameters, unwrapped

    rows: list[StageRow] = []
    for virtual, stage in enumerate(stages):
        decoder = getattr(unwrapped(stage), "decoder", None)
        layers = list(getattr(decoder, "layers", ()))
        rows.append(
            StageRow(
                rank=torch.distributed.get_rank(),
                stage=virtual * run.parallelism.pipeline + groups.pp.rank(),
                first_layer=layers[0].layer_number - 1 if layers else 0,
                layers="".join(getattr(decoder, "layer_type_list", ())),
                parameters=total_parameters([stage]),
                size=total_bytes([stage]),
                wrapped_in=_wrappers(stage),
            )
        )
    return rows


def _wrappers(stage: "nn.Module") -> str:
    names: list[str] = []
    while (inner := getattr(stage, "module", None)) is not None:
        names.append(type(stage).__name__)
        stage = inner
    return ", ".join(names) or "nothing"


def _print(rows: list[StageRow], loss: float) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table("rank", "stage", "layers", "pattern", "parameters", "size", "wrapped in", box=None)
    for row in rows:
        last = row.first_layer + len(row.layers) - 1
        table.add_row(
            str(row.rank),
            str(row.stage),
            f"{row.first_layer}-{last}" if row.layers else "none",
            row.layers,
            f"{row.parameters:,}",
            decimal(row.size),
            row.wrapped_in,
        )
    console = Console()
    console.print(table)
    console.print(f"one forward and backward ran: loss {loss:.4f} on random tokens")
