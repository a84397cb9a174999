"""What a command says when it fails, and with which exit code.

2: something the user can mend, with one message that says how. 1: a run that failed. No traceback unless `--debug`.
"""

import os
import sys
import traceback
from collections.abc import Callable

from modelwright.protocols import ModelwrightError

MENDABLE, FAILED, INTERRUPTED = 2, 1, 130


def guarded(command: Callable[[], None], *, debug: bool) -> int:
    """Run a command and turn what it raises into words and an exit code.

    Args:
        command: What to run.
        debug: Print tracebacks too.

    Returns:
        The exit code.
    """
    from modelwright.cli.commands.train import quiet_engine

    try:
        # A user's parts may import the engine at any point, so all of a command is quiet.
        with quiet_engine(debug=debug):
            command()
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except ModelwrightError as error:
        return _report(str(error), traceback.format_exc(), MENDABLE, debug=debug)
    except Exception as error:  # noqa: BLE001 - the last word of the program
        return _launch_error(error, debug=debug) or _report(
            _unforeseen(error), traceback.format_exc(), FAILED, debug=debug
        )
    return 0


def _launch_error(error: Exception, *, debug: bool) -> int | None:
    """The exit code for ranks that failed, None for any other error."""
    if "torch" not in sys.modules:
        return None
    from modelwright.training import LaunchError

    if not isinstance(error, LaunchError):
        return None
    cause = error.failures[0]
    traces = "\n".join(failure.trace for failure in error.failures if failure.trace)
    return _report(cause.message, traces, MENDABLE if cause.mendable else FAILED, debug=debug)


def _unforeseen(error: Exception) -> str:
    return f"{type(error).__name__}: {error} (run again with --debug for the traceback)"


def _report(message: str, trace: str, code: int, *, debug: bool) -> int:
    if debug and trace:
        sys.stderr.write(trace + "\n")
    say(message)
    return code


def say(message: str) -> None:
    """Print an error on stderr; with the rank in front where a launcher started several."""
    rank = os.environ.get("RANK")
    where = f" (rank {rank})" if rank is not None else ""
    sys.stderr.write(f"error{where}: {message}\n")
    sys.stderr.flush()
