"""`keyturn` itself: finds the configuration, loads a command when it is called, turns errors into exit codes."""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from keyturn import KeyturnError as ServiceError
from keyturn_server.domain.errors import ConfigurationError, KeyturnError

FAILED, CONFIGURATION = 1, 78
"""Exit codes; 2 is click's, for wrong usage, and 78 is EX_CONFIG of sysexits.h."""

COMMANDS: Mapping[str, tuple[str, str]] = {
    "init": ("keyturn_server.cli.init:init", "Make a configuration, its secrets and a store in a folder."),
    "serve": ("keyturn_server.cli.serve:serve", "Serve until SIGTERM, then drain."),
    "issuers": ("keyturn_server.cli.issuers:issuers", "Show issuers, apply their policies, retire them."),
    "keys": ("keyturn_server.cli.keys:keys", "Show, rotate, revoke and import keys."),
    "token": ("keyturn_server.cli.token:token", "Sign, verify and decode tokens."),
    "demo": ("keyturn_server.cli.demo:demo", "Run everything in a scratch folder: sign a token, verify it, serve."),
}


class _Commands(click.Group):
    """Imports a command's module when the command is called: some of them take a second to load."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration. Otherwise $KEYTURN_CONFIG, ./keyturn.toml, /etc/keyturn/keyturn.toml.",
)
@click.version_option(package_name="keyturn")
@click.pass_context
def keyturn(context: click.Context, config: Path | None) -> None:
    """Sign and rotate the authentication tokens of Dynamics 365 Omnichannel chat."""
    context.obj = config


def run() -> None:
    """Runs the command line and exits: 0 done, 1 failed, 2 usage, 78 configuration."""
    try:
        keyturn.main(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(FAILED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except ConfigurationError as error:
        _fail(error.message, CONFIGURATION)
    except (KeyturnError, ServiceError) as error:
        _fail(str(error), FAILED)


def _fail(message: str, code: int) -> None:
    print(f"keyturn: {message}", file=sys.stderr)
    sys.exit(code)
