"""The command `modelwright`. Nothing heavy is imported until a command needs it."""

import sys


def main() -> None:
    """Run the command line and exit."""
    from modelwright.cli._app import run

    sys.exit(run(sys.argv[1:]))


__all__ = ["main"]
