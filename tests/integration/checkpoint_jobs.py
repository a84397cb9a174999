"""What the ranks of the checkpoint matrix run."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from modelwright.config import RunConfig, replace
from tests.integration.checkpoint_cells import FAMILIES, Cell
from tests.integration.jobs import quiet

if TYPE_CHECKING:
    from modelwright.training import Text

type Records = list[tuple[str, int, float, float]]


class Module:
    """One module with its optimizer; a model alone is one of them."""

    def __init__(self, run: RunConfig, stages: list[nn.Module], groups: Any) -> None:
        from modelwright.training import TrainState, make_lr_schedule, make_optimizer

        self.run, self.stages, self.groups = run, stages, groups
        self.optimizer: Any = make_optimizer(stages, run.train, run.precision, groups)
        self.schedule = make_lr_schedule(self.optimizer, run.train)
        self.state = TrainState(stages, groups, self.optimizer, self.schedule)

    def step(self, text: "Text", step: int) -> tuple[float, float]:
        from modelwright.training import run_batch, training_batch
        from modelwright.training.step import clear_gradients

        train = self.run.train
        batch = training_batch(text, seed=train.seed, step=step, size=train.global_batch, seq_length=16)
        clear_gradients(self.stages, self.optimizer)
        loss = run_batch(
            self.stages,
            batch,
            self.groups,
            self.run.parallelism,
            micro_batch=train.micro_batch,
            optimizer=self.optimizer,
        )
        _, norm, _ = self.optimizer.step()
        self.schedule.step(increment=1)
        return loss, float(norm or 0.0)


def parts_of(cell: Cell) -> dict[str, Any]:
    """What a builder is given to train only a part of the model."""
    from modelwright.distributed import freeze, train_only
    from modelwright.layers import decoder_stack, with_lora

    config: Any = FAMILIES[cell.family]
    if cell.trained == "lora":
        slots: Any = ("linear_qkv", "linear_proj")
        return {
            "spec": with_lora(decoder_stack(config), rank=4, alpha=8, slots=slots),
            "hooks": [train_only("*.lora_?")],
        }
    return {"hooks": [freeze("embedding.*")]} if cell.trained == "frozen" else {}


def modules_of(cell: Cell, *, target: bool) -> dict[str, Module]:
    """Build one side of a cell."""
    from modelwright.builders import builder_for
    from modelwright.distributed import CompositeModelBuilder, ModulePlan, initialize

    run, parts = cell.run(target=target), parts_of(cell)
    layout, wrap, precision = run.parallelism, run.wrap, run.precision
    if cell.model == "alone":
        groups = initialize(layout)
        stages = builder_for(run.model, **parts).build_distributed_models(
            groups, parallelism=layout, precision=precision, wrap=wrap
        )
        return {"model": Module(run, stages, groups)}
    other = replace(run, model=FAMILIES["gpt"], parallelism=replace(layout, expert=1))
    plain = builder_for(run.model)
    builder: Any = partial(type(plain), spec=parts["spec"]) if "spec" in parts else None
    ranks = range(layout.world_size())
    plans = {
        "model": ModulePlan(
            config=run.model,
            ranks=ranks,
            parallelism=layout,
            precision=precision,
            wrap=wrap,
            hooks=parts.get("hooks", ()),
            builder=builder,
        ),
        "other": ModulePlan(
            config=other.model, ranks=ranks, parallelism=other.parallelism, precision=precision, wrap=wrap
        ),
    }
    composite = CompositeModelBuilder(plans)
    built = composite.build_distributed_models(composite.initialize())
    runs = {"model": run, "other": other}
    return {name: Module(runs[name], module.stages, module.pg_collection) for name, module in built.items()}


def first_part(cell: Cell, folder: Path) -> Records:
    """Train four steps, and save after the second: the unbroken run."""
    from modelwright.training import save_checkpoint
    from modelwright.training.checkpoint.optimizer_state import loss_scalers

    modules = _ready(cell, target=False)
    for module in modules.values():
        for scaler in loss_scalers(module.optimizer):
            scaler._scale.fill_(2.0**10)  # unlike the initial one, so that it has to be restored
    records = _steps(modules, (1, 2))
    for name, module in modules.items():
        save_checkpoint(module.state, module.run, folder / name, 2)
    return records + _steps(modules, (3, 4))


def second_part(cell: Cell, folder: Path, again: Path, *, target: bool) -> Records:
    """Load, save what was loaded, and train the last two steps."""
    from modelwright.training import latest_checkpoint, load_checkpoint, save_checkpoint

    modules = _ready(cell, target=target)
    for name, module in modules.items():
        load_checkpoint(module.state, latest_checkpoint(folder / name)[1])
        save_checkpoint(module.state, module.run, again / name, 2)
    return _steps(modules, (3, 4))


def _ready(cell: Cell, *, target: bool) -> dict[str, Module]:
    quiet()
    torch.manual_seed(target)  # nothing may depend on it
    return modules_of(cell, target=target)


def _steps(modules: dict[str, Module], steps: tuple[int, ...]) -> Records:
    from modelwright.training import read_text

    text = read_text(None, validation_fraction=0.1, seq_length=16)
    return [(name, step, *module.step(text, step)) for step in steps for name, module in modules.items()]
