"""The configuration: one TOML file, overridable by environment variables.

    path = find_configuration(explicit=None, environ=os.environ, cwd=Path.cwd())
    configuration = load_configuration(path, os.environ)

A `Configuration` that was loaded has been checked as a whole. Whether the files it names exist, and whom their folders
belong to, is for those to check who open them.
"""

from keyturn_server.config.loading import find_configuration, load_configuration
from keyturn_server.config.reference import Setting, reference
from keyturn_server.config.settings import Configuration
from keyturn_server.config.values import Address

__all__ = ["Address", "Configuration", "Setting", "find_configuration", "load_configuration", "reference"]
