"""A ring as people see it: a table of its keys, or a picture of them over time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import timestamp_pb2

from keyturn.v1 import keys_pb2
from keyturn_server.cli.output import moment, print_table, terminal_width, time_text

BARS = {"pre-active": "░", "active": "█", "deactivated": "▒"}
LABEL = 12
"""Characters of a kid in the picture: enough to tell keys apart."""

LEAST_WIDTH = 20


@dataclass(frozen=True, slots=True)
class Segment:
    """A state of a key, and the time that it has it for. None: it is not known when that ends."""

    state: str
    start: datetime
    end: datetime | None


def print_ring(ring: keys_pb2.KeyRing) -> None:
    """The keys of a ring, in the order in which they sign."""
    print(f"Issuer {ring.issuer}, ring version {ring.version}, as of {time_text(ring.as_of)}:")
    print_table(
        ["key", "state", "age", "published", "signs from", "signs until", "published until"],
        [
            [
                key.key_id,
                f"{state_text(key.state)} (forced)" if key.forced else state_text(key.state),
                _age(ring.as_of, key.create_time),
                time_text(key.publish_time),
                time_text(key.activate_time),
                time_text(key.revoke_time if _was_revoked(key) else key.deactivate_time),
                time_text(key.unpublish_time),
            ]
            for key in ring.keys
        ],
    )
    print(f"Next rotation: {_next_rotation(ring)}")


def state_text(state: "keys_pb2.KeyState.ValueType") -> str:
    name = keys_pb2.KeyState.Name(state).removeprefix("KEY_STATE_").lower().replace("_", "-")
    return "-" if name == "unspecified" else name


def segments(key: keys_pb2.Key) -> Iterator[Segment]:
    """The states that a key has had, has and will have, as far as that is known."""
    made, activates = _time(key.create_time), _time(key.activate_time)
    deactivates, unpublished = _time(key.deactivate_time), _time(key.unpublish_time)
    revoked = _time(key.revoke_time)
    starts = [("pre-active", made), ("active", activates), ("deactivated", deactivates)]
    ends = [activates, deactivates, unpublished]
    for (state, start), end in zip(starts, ends, strict=True):
        if start is None or made is None:
            continue
        bounded = min((time for time in (end, revoked) if time is not None), default=None)
        begun = max(start, made)
        if bounded is None or begun < bounded:
            yield Segment(state, begun, bounded)


def timeline_json(ring: keys_pb2.KeyRing) -> dict[str, Any]:
    """The picture as data."""
    return {
        "issuer": ring.issuer,
        "version": ring.version,
        "now": _iso(_time(ring.as_of)),
        "keys": [
            {
                "key_id": key.key_id,
                "state": state_text(key.state),
                "segments": [
                    {"state": segment.state, "from": _iso(segment.start), "until": _iso(segment.end)}
                    for segment in segments(key)
                ],
            }
            for key in ring.keys
        ],
    }


def print_timeline(ring: keys_pb2.KeyRing) -> None:
    """A row for each key that is or will be published, its states as bars; `|` is now."""
    now = ring.as_of.ToDatetime(tzinfo=UTC)
    rows = [(key, list(segments(key))) for key in ring.keys]
    shown = [(key, parts) for key, parts in rows if any(part.end is None or part.end > now for part in parts)]
    times = [now, *(time for _, parts in shown for part in parts for time in (part.start, part.end) if time)]
    start, end = min(times), max(times)
    end += (end - start) / 10 or timedelta(seconds=1)
    width = max(LEAST_WIDTH, terminal_width() - LABEL - 1)

    def column(time: datetime) -> int:
        return min(width, max(0, math.floor((time - start) / (end - start) * width)))

    print(f"Issuer {ring.issuer}, ring version {ring.version}: {moment(start)} to {moment(end)}")
    for key, parts in shown:
        row = [" "] * width
        for part in parts:
            last = width if part.end is None else max(column(part.start) + 1, column(part.end))
            row[column(part.start) : last] = BARS[part.state] * (last - column(part.start))
        row[min(width - 1, column(now))] = "|"
        print(f"{key.key_id[:LABEL]} {''.join(row[:width])}")
    legend = "  ".join(f"{bar} {state}" for state, bar in BARS.items())
    hidden = len(rows) - len(shown)
    print(f"{legend}  | now, {moment(now)}{f'  ({hidden} older keys are not shown)' if hidden else ''}")
    print(f"Next rotation: {_next_rotation(ring)}")


def _next_rotation(ring: keys_pb2.KeyRing) -> str:
    if ring.HasField("retire_time"):
        return f"none: the issuer was retired at {time_text(ring.retire_time)}"
    current = [key for key in ring.keys if key.state == keys_pb2.KEY_STATE_ACTIVE]
    if not current or not current[0].HasField("deactivate_time"):
        return "as soon as a standby is published and dated, by the next pass"
    return time_text(current[0].deactivate_time)


def _was_revoked(key: keys_pb2.Key) -> bool:
    return key.HasField("revoke_time")


def _age(now: timestamp_pb2.Timestamp, made: timestamp_pb2.Timestamp) -> str:
    """The age of a key to its largest unit."""
    seconds = max(0, now.seconds - made.seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _time(stamp: timestamp_pb2.Timestamp) -> datetime | None:
    return stamp.ToDatetime(tzinfo=UTC) if stamp.ByteSize() else None


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat().replace("+00:00", "Z")
