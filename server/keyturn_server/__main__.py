"""The command `keyturn`. The base distribution is the client alone, and then says what the command needs."""

import importlib.util
import sys


def main() -> None:
    if importlib.util.find_spec("click") is None or importlib.util.find_spec("sqlalchemy") is None:
        sys.exit("keyturn: the command needs the service's libraries: pip install 'keyturn[server]'")
    from keyturn_server.cli.main import run  # noqa: PLC0415 - its libraries may be missing until here

    run()


if __name__ == "__main__":
    main()
