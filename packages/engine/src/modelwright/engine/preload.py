"""Import torch and the engine; the fork server imports this module before it forks ranks."""

import contextlib
import logging
import warnings

from modelwright.engine import guard_torch_import, load_engine
from modelwright.protocols import ModelwrightError

guard_torch_import()
# Whatever is forked decides for itself what it shows.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        # A torch that is too old is reported by the first rank, not by the server.
        with contextlib.suppress(ModelwrightError):
            load_engine()
    finally:
        logging.disable(logging.NOTSET)
