"""`keyturn init`."""

from pathlib import Path

import click

from keyturn_server.cli.output import command_line
from keyturn_server.initialise import Addresses, initialise
from keyturn_server.process import confine


@click.command
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
def init(folder: Path) -> None:
    """Make a configuration, its secrets, development certificates and a store in FOLDER (default: here).

    Nothing is ever overwritten.
    """
    confine()
    path = initialise(folder, Addresses())
    keyturn = command_line(path)
    click.echo(f"""\
Made in {path.parent.resolve()}:
  keyturn.toml   the configuration: read it, and enter your own iss and context variables
  kek            the key that encrypts all others: back it up, apart from the database
  keyturn.db     the store, with the first keys of issuer contoso
  tls/           certificates for development: replace them with those of your own authority

Next:
  {keyturn} serve
  {keyturn} token sign --subject 87b4d06c-abc2-e811-a9b0-000d3a10e09e --context msdyn_cartvalue=10000""")
