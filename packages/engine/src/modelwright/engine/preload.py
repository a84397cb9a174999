"""Import torch and the engine; the fork server imports this module before it forks ranks."""

import contextlib
import logging
import warnings

from modelwright.engine import keep_torch_from_working_folder, load_engine
from modelwright.protocols import ModelwrightError

keep_torch_from_working_folder()
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
