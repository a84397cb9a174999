"""The command `modelwright`. It imports nothing heavy before a command needs it."""

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from modelwright.cli.app import app
        from modelwright.engine import guard_torch_import

        guard_torch_import()
        app(prog_name="modelwright")
    except KeyboardInterrupt:  # a command reports it too, but Ctrl-C may be pressed before it begins
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)


__all__ = ["main"]
