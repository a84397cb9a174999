"""The command `modelwright`. It imports nothing heavy before a command needs it."""


def main() -> None:
    """Run the command line and exit."""
    from modelwright.cli.app import app

    app(prog_name="modelwright")


__all__ = ["main"]
