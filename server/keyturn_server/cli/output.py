"""What commands print: times, tables and JSON."""

import json
import shlex
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import durationpy
from google.protobuf import duration_pb2, json_format, message, timestamp_pb2
from rich.console import Console
from rich.table import Table


def print_json(value: Any) -> None:
    """One JSON document on standard output, readable by people too."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def as_json(value: message.Message) -> dict[str, Any]:
    """A message as JSON, with every field of it, named as in the contract."""
    converted: dict[str, Any] = json_format.MessageToDict(
        value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return converted


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table on standard output; never cut off where the output is not a terminal. Rich honours NO_COLOR."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 1000
    Console(width=width, highlight=False).print(table)


def terminal_width() -> int:
    """Columns of the terminal; 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns


def duration_text(duration: duration_pb2.Duration) -> str:
    """A duration as the configuration would say it."""
    return durationpy.to_str(duration.ToTimedelta()) or "0s"


def time_text(time: timestamp_pb2.Timestamp, *, absent: str = "-") -> str:
    """A time to the second in UTC."""
    if not time.ByteSize():
        return absent
    return moment(time.ToDatetime(tzinfo=UTC))


def moment(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def command_line(config: Path) -> str:
    """How to call this very `keyturn` with a configuration, ready to paste."""
    program = Path(sys.argv[0]).absolute()
    this = [sys.executable, "-m", "keyturn_server"] if program.name == "__main__.py" else [str(program)]
    return shlex.join([*this, "--config", str(config.absolute())])
