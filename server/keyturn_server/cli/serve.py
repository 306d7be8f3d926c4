"""`keyturn serve`."""

import asyncio

import click

from keyturn_server import app, logs
from keyturn_server.cli.settings import load
from keyturn_server.process import confine


@click.command
@click.pass_context
def serve(context: click.Context) -> None:
    """Serve until SIGTERM or SIGINT, then drain and exit 0. A second signal ends it at once."""
    confine()
    logs.configure()
    asyncio.run(app.serve(load(context)))
