"""What commands share: the configuration that was asked for."""

import os
from pathlib import Path

import click

from keyturn_server.config import Configuration, find_configuration, load_configuration


def load(context: click.Context) -> Configuration:
    """The configuration of `--config` or of the usual places."""
    explicit = context.find_root().obj
    return load_configuration(find_configuration(explicit, os.environ, Path.cwd()), os.environ)
