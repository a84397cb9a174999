"""Suppression of the warnings of Megatron-Core, which gives dozens at every start."""

import logging
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager

from modelwright.engine import environment_variables
from modelwright.protocols import ModelwrightWarning

# Read when torch is loaded. Its sockets warn wherever the loopback address has no name, as without a name server.
_TORCH_LEVEL = "TORCH_CPP_LOG_LEVEL"


@contextmanager
def quiet_engine(*, debug: bool) -> Generator[None]:
    """Suppress warnings for the time of a command, or of a rank that a command started.

    Args:
        debug: Show the warnings instead, and the log messages of modelwright.
    """
    if debug:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("modelwright").setLevel(logging.INFO)
        yield
        return
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    torch_level = {_TORCH_LEVEL: os.environ.get(_TORCH_LEVEL, "ERROR")}
    with warnings.catch_warnings(), environment_variables(torch_level):
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=ModelwrightWarning)
        try:
            yield
        finally:
            logging.disable(level)
