"""Assembly of the commands. Each module of `commands` defines one command: its options, its help, what it does."""

import typer

from modelwright.cli.commands.build import build
from modelwright.cli.commands.config import config_app
from modelwright.cli.commands.doctor import doctor
from modelwright.cli.commands.explain import explain
from modelwright.cli.commands.generate import generate
from modelwright.cli.commands.train import train
from modelwright.cli.commands.verify import verify

app = typer.Typer(
    help="Build and train language models on Megatron-Core, from one file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train)
app.command()(build)
app.command()(verify)
app.command()(generate)
app.add_typer(config_app, name="config")
app.command()(explain)
app.command()(doctor)
