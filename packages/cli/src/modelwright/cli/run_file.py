"""Files of a run: its config, read with custom parts and overrides, and the name of its metrics."""

from collections.abc import Sequence
from pathlib import Path

from modelwright.cli.user_parts import import_parts
from modelwright.config import RunConfig, load
from modelwright.protocols import ModelwrightError

METRICS = "metrics.jsonl"
"""File of a run folder with one line of metrics for each step."""
CONFIG = "config.yaml"
"""File of a run folder with its config, every field."""
LOSS_PLOT = "loss.png"
"""Plot of the losses of a run."""
LOAD_PLOT = "expert_load.png"
"""Plot of the load of each expert of a run."""
RUN_FILES = (CONFIG, METRICS, LOSS_PLOT, LOAD_PLOT, "checkpoints")
"""Everything that a run writes into its folder."""


def load_run(file: Path, overrides: Sequence[str] | None, modules: Sequence[str] | None) -> RunConfig:
    """Read the config of a run.

    Args:
        file: YAML, JSON or TOML file.
        overrides: `a.b=value` each, applied in order. None: no overrides.
        modules: Modules with custom parts. None: no modules.

    Returns:
        The run.

    Raises:
        ModelwrightError: The file, an override or a module is wrong.
    """
    import_parts(modules)
    config = load(file, list(overrides or ()))
    if not isinstance(config, RunConfig):
        raise ModelwrightError(
            f"`{file}` must describe a run, but contains a `{config.kind}` model alone; put it under `model:` in a "
            "file that begins with `modelwright: 1`."
        )
    return config
