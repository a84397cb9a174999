"""Exit codes and error messages of the commands.

2: a user error, with one message that says how to fix it. 1: a run that failed. No traceback without `--debug`.
"""

import functools
import os
import sys
import traceback
from collections.abc import Callable

import typer

from modelwright.cli.printable import printable
from modelwright.cli.quiet import quiet_engine
from modelwright.protocols import ModelwrightError

USER_ERROR, FAILED, INTERRUPTED = 2, 1, 130


def command[**ParametersT](function: Callable[ParametersT, None]) -> Callable[ParametersT, None]:
    """Make a function a command: quiet, and ended by an exit code instead of an exception; a decorator.

    Args:
        function: The command. Its parameter `debug` shows tracebacks and the engine's warnings.

    Returns:
        The command with the same signature; it raises `typer.Exit`.
    """

    @functools.wraps(function)
    def run(*args: ParametersT.args, **kwargs: ParametersT.kwargs) -> None:
        debug = bool(kwargs["debug"])
        try:
            # Custom parts may import the engine at any time, so the whole command is quiet.
            with quiet_engine(debug=debug):
                function(*args, **kwargs)
        except KeyboardInterrupt:
            print_error("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except typer.Exit:
            raise
        except Exception as error:  # noqa: BLE001 - the program ends here
            raise typer.Exit(_report(error, debug=debug)) from None

    return run


def print_error(message: str) -> None:
    """Print an error on stderr, with the rank if a launcher started several.

    Args:
        message: The error without `error:`.
    """
    rank = os.environ.get("RANK")
    where = f" (rank {rank})" if rank is not None else ""
    sys.stderr.write(f"error{where}: {printable(message)}\n")
    sys.stderr.flush()


def _report(error: Exception, *, debug: bool) -> int:
    """Print an exception, and return the exit code."""
    message, trace, code = _described(error)
    if debug and trace:
        sys.stderr.write(trace + "\n")
    print_error(message)
    return code


def _described(error: Exception) -> tuple[str, str, int]:
    """Return the message, the traceback and the exit code of an exception."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, ModelwrightError):
        return str(error), trace, USER_ERROR
    if "torch" in sys.modules:  # only a command that loaded torch can have started ranks
        from modelwright.training import LaunchError

        if isinstance(error, LaunchError):
            cause = error.failures[0]
            traces = "\n".join(failure.trace for failure in error.failures if failure.trace)
            return cause.message, traces, USER_ERROR if cause.user_error else FAILED
    return f"{type(error).__name__}: {error} (run again with --debug for the traceback)", trace, FAILED
