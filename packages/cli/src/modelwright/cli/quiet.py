"""Suppression of the warnings of Megatron-Core, which gives dozens at every start."""

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager

from modelwright.protocols import ModelwrightWarning


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=ModelwrightWarning)
        try:
            yield
        finally:
            logging.disable(level)
