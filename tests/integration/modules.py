"""Modules of one composite model, trained side by side and compared with one rank; the ranks import it."""

from collections.abc import Callable
from typing import Any

import pytest

from modelwright.config import ConstantSchedule, Parallelism, RunConfig, TrainConfig, Wrap
from modelwright.testing import CurvePoint, RankPool, reference_curve
from tests.integration.jobs import TINY, quiet

RUN = RunConfig(
    model=TINY,
    train=TrainConfig(steps=5, micro_batch=2, global_batch=8, lr=1e-3, lr_schedule=ConstantSchedule()),
)
type Place = tuple[range, Parallelism, Wrap]


def train_side_by_side(places: dict[str, Place]) -> dict[str, list[CurvePoint]]:
    """Modules of one config and one seed, each in a place of its own; those of this rank in turn, step by step."""
    quiet()
    from modelwright.distributed import CompositeModelBuilder, ModulePlan, seed_random_states
    from modelwright.training import (
        make_lr_schedule,
        make_optimizer,
        prepare_text,
        run_batch,
        training_batch,
    )

    train, text = RUN.train, prepare_text(RUN)
    builder = CompositeModelBuilder(
        {
            name: ModulePlan(config=TINY, ranks=ranks, parallelism=layout, wrap=wrap, seed=train.seed)
            for name, (ranks, layout, wrap) in places.items()
        }
    )
    models = builder.build_distributed_models(builder.initialize())
    optimizers: dict[str, Any] = {}
    for name, module in models.items():
        optimizers[name] = make_optimizer(module.stages, train, RUN.precision, module.pg_collection)
        make_lr_schedule(optimizers[name], train)
    curves: dict[str, list[CurvePoint]] = {name: [] for name in models}
    for step in range(1, train.steps + 1):
        batch = training_batch(text, seed=train.seed, step=step, size=train.global_batch, seq_length=TINY.seq_length)
        for name, module in models.items():
            seed_random_states(module.pg_collection, seed=train.seed + step)
            for stage in module.stages:
                clear: Callable[[], None] = getattr(stage, "zero_grad_buffer", lambda: None)
                clear()
            optimizers[name].zero_grad()
            parallelism = builder.modules[name].parallelism
            loss = run_batch(
                module.stages,
                batch,
                module.pg_collection,
                parallelism,
                micro_batch=train.micro_batch,
                optimizer=optimizers[name],
            )
            _, norm, _ = optimizers[name].step()
            curves[name].append(CurvePoint(loss, float(norm)))
    return curves


def assert_modules_agree(pool: RankPool, places: dict[str, Place]) -> list[dict[str, list[CurvePoint]]]:
    """Each module has, at every step, the loss and the gradient norm of one rank; returns the curves by rank."""
    expected = reference_curve(pool, RUN)
    found = pool.run(train_side_by_side, places)
    for curves in found:
        for name, curve in curves.items():
            for here, there in zip(curve, expected, strict=True):
                assert here.loss == pytest.approx(there.loss, abs=1e-4), name
                assert here.grad_norm == pytest.approx(there.grad_norm, abs=1e-4), name
    return found
