import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyturn_server.domain.policy import Policy
from keyturn_server.domain.ring import Change, FormerPolicy, Key, Ring
from keyturn_server.domain.ring_codec import decode_ring, encode_ring
from tests.rings import DAY, HOUR, NOW, POLICY, SECOND, TICK, key, kid, new_ring, public_key, ring_of

RING = replace(
    ring_of(
        key(
            0, published_at=NOW, activates_at=NOW - TICK, revoked_at=NOW + DAY, destroyed_at=NOW + DAY, reason="leaked"
        ),
        key(1, published_at=NOW, activates_at=NOW + DAY, forced=True, reason="grüße 🗝"),
        key(2),
    ),
    former_policies=(FormerPolicy(replace(POLICY, signing_lease=7 * HOUR), NOW),),
    retired_at=NOW + 2 * DAY,
)
BODY = encode_ring(RING)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TIMES = st.integers(-(10**15), 10**15).map(lambda microseconds: NOW + microseconds * TICK)
LIFETIMES = st.integers(1, 10**14).map(lambda microseconds: microseconds * TICK)
CHANGES = st.builds(Change, made_at=TIMES, actor=TEXTS, action=TEXTS, reason=TEXTS)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    cache, max_age, lease, tolerance = (draw(LIFETIMES) for _ in range(4))
    lifetime = SECOND + draw(LIFETIMES)
    window = cache + max_age + lease + 2 * tolerance
    return Policy(
        rotation_period=window + lifetime + lease + 4 * tolerance,
        propagation_window=window,
        max_token_lifetime=lifetime,
        verifier_cache=cache,
        document_max_age=max_age,
        signing_lease=lease,
        clock_tolerance=tolerance,
        key_size=draw(st.sampled_from([2048, 3072, 4096])),
    )


@st.composite
def keys(draw: st.DrawFn) -> Key:
    maybe = st.none() | TIMES
    return key(
        draw(st.integers(0, 9)),
        created_at=draw(TIMES),
        max_lifetime=draw(LIFETIMES),
        published_at=draw(maybe),
        activates_at=draw(maybe),
        revoked_at=draw(maybe),
        destroyed_at=draw(maybe),
        forced=draw(st.booleans()),
        reason=draw(TEXTS),
    )


RINGS = st.builds(
    Ring,
    issuer=TEXTS,
    iss=TEXTS,
    version=st.integers(1, 2**63),
    policy=policies(),
    keys=st.lists(keys(), max_size=4).map(tuple),
    change=CHANGES,
    former_policies=st.lists(st.builds(FormerPolicy, policies(), TIMES), max_size=2).map(tuple),
    retired_at=st.none() | TIMES,
)


@given(RINGS)
def test_a_ring_survives_being_written_and_read(ring: Ring) -> None:
    assert decode_ring(encode_ring(ring)) == ring


def test_a_ring_is_written_in_one_form() -> None:
    assert json.loads(encode_ring(new_ring())) == {
        "change": {
            "action": "",
            "actor": "operator",
            "made_at": "2026-03-01T12:00:00.000000Z",
            "reason": "",
        },
        "format": 1,
        "former_policies": [],
        "iss": "https://contoso.example",
        "issuer": "contoso",
        "keys": [
            {
                "activates_at": "2026-03-01T11:58:00.000000Z",
                "created_at": "2026-03-01T12:00:00.000000Z",
                "destroyed_at": None,
                "exponent": 65537,
                "forced": False,
                "kid": kid(0),
                "max_lifetime": 3600.0,
                "modulus": f"{public_key(0).modulus:x}",
                "published_at": "2026-03-01T12:00:00.000000Z",
                "reason": "",
                "revoked_at": None,
            },
            {
                "activates_at": None,
                "created_at": "2026-03-01T12:00:00.000000Z",
                "destroyed_at": None,
                "exponent": 65537,
                "forced": False,
                "kid": kid(1),
                "max_lifetime": 3600.0,
                "modulus": f"{public_key(1).modulus:x}",
                "published_at": None,
                "reason": "",
                "revoked_at": None,
            },
        ],
        "policy": {
            "clock_tolerance": 60.0,
            "document_max_age": 300.0,
            "key_size": 2048,
            "max_token_lifetime": 3600.0,
            "propagation_window": 86400.0,
            "rotation_period": 2592000.0,
            "signing_lease": 21600.0,
            "verifier_cache": 43200.0,
        },
        "retired_at": None,
        "version": 1,
    }
    assert encode_ring(new_ring()) == json.dumps(
        json.loads(encode_ring(new_ring())), sort_keys=True, separators=(",", ":")
    ).encode("ascii")


def test_nothing_private_is_written() -> None:
    members = set(json.loads(BODY)["keys"][0])

    assert members == {
        "activates_at",
        "created_at",
        "destroyed_at",
        "exponent",
        "forced",
        "kid",
        "max_lifetime",
        "modulus",
        "published_at",
        "reason",
        "revoked_at",
    }


# What decode_ring refuses: everything that encode_ring would not have written.


def read_or_refuse(body: bytes) -> None:
    """Whatever the bytes, either they are refused by a ValueError or they are those of the ring that is read."""
    try:
        ring = decode_ring(body)
    except ValueError:
        return
    assert encode_ring(ring) == body
    assert_typed(ring)


def assert_typed(ring: Ring) -> None:
    texts = [ring.issuer, ring.iss, ring.change.actor, ring.change.action, ring.change.reason]
    texts += [each.reason for each in ring.keys]
    assert {type(text) for text in texts} == {str}
    numbers = [ring.version, ring.policy.key_size, *(each.public_key.exponent for each in ring.keys)]
    assert {type(number) for number in numbers} == {int}
    assert {type(each.forced) for each in ring.keys} <= {bool}


@given(st.binary(max_size=50))
def test_bytes_that_are_no_ring_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which one depends on the bytes
        decode_ring(body)


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_a_changed_byte_never_passes_for_the_same_ring(position: int, difference: int) -> None:
    changed = bytearray(BODY)
    changed[position] ^= difference

    read_or_refuse(bytes(changed))


@given(st.integers(0, len(BODY) - 1), st.integers(0, 20), st.binary(max_size=20))
def test_a_piece_that_is_cut_out_or_put_in_never_passes_for_the_same_ring(at: int, cut: int, put: bytes) -> None:
    read_or_refuse(BODY[:at] + put + BODY[at + cut :])


FOREIGN: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, False, -1, 0, 1, 10**400, 1.0, "", "7", [], {}]),
    st.integers(),
    st.floats(),
    TEXTS,
    st.lists(st.integers(), max_size=2),
    st.dictionaries(TEXTS, st.integers(), max_size=2),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every member of a JSON value, however deep: what holds it, and under which name or index."""
    names: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    return [(value, name) for name in names] + [place for name in names for place in places(value[name])]


@settings(max_examples=120)
@given(st.integers(0, 200), FOREIGN)
def test_a_value_of_another_kind_is_refused(number: int, value: Any) -> None:
    document = json.loads(BODY)
    holders = places(document)
    holder, name = holders[number % len(holders)]
    holder[name] = value

    read_or_refuse(json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        BODY + b"\n",
        b" " + BODY,
        BODY.replace(b'"format":1', b'"format":2'),
        BODY.replace(b'"format":1', b'"format":1,"format":1'),
        BODY.replace(b'"version":7', b'"version":6,"version":7'),
        BODY.replace(b'"version":7', b'"version":"7"'),
        BODY.replace(b'"version":7', b'"version":7.0'),
        BODY.replace(b'"version":7', b'"unknown":0,"version":7'),
        BODY.replace(b',"version":7', b""),
        BODY.replace(b'"iss":"https://contoso.example"', b'"iss":null'),
        BODY.replace(b"86400.0", b"86400"),
        BODY.replace(b"86400.0", b"NaN"),
        BODY.replace(b"86400.0", b"Infinity"),
        BODY.replace(b"86400.0", b"1e400"),
        BODY.replace(b"86400.0", b"1e300"),
        BODY.replace(b"86400.0", b"1.0"),
        BODY.replace(b"86400.0", b"9" * 5000),
        BODY.replace(b'"exponent":65537', b'"exponent":3'),
        BODY.replace(b'"exponent":65537', b'"exponent":-65537'),
        BODY.replace(b'"modulus":"', b'"modulus":"-'),
        BODY.replace(b'"modulus":"', b'"modulus":"0'),
        BODY.replace(kid(1).encode(), kid(2).encode()),
        BODY.replace(b"2026-03-01T12:00:00.000000Z", b"2026-03-01T12:00:00.000000+00:00"),
        BODY.replace(b"2026-03-01T12:00:00.000000Z", b"2026-03-01T12:00:00Z"),
        BODY.replace(b"2026-03-01T12:00:00.000000Z", b"2026-03-01T12:00:00.000000"),
        BODY.replace(b"2026-03-01T12:00:00.000000Z", b"2026-03-01T13:00:00.000000+01:00"),
        BODY.replace(b"2026-03-01T12:00:00.000000Z", b"0001-01-01T00:00:00.000000+01:00"),
        BODY.replace(b"2026-03-01T12:00:00.000000Z", b"2026-W09-7"),
        BODY.decode().encode("utf-16"),
        b"[" * 100_000,
        b'{"format":1,"change":' * 50_000,
    ],
    ids=lambda body: f"{body[:20]!r}... of {len(body)}",
)
def test_what_was_not_written_by_this_format_is_refused(body: bytes) -> None:
    assert body != BODY
    with pytest.raises(ValueError):  # noqa: PT011 - which one depends on the bytes
        decode_ring(body)


def test_another_format_is_named() -> None:
    with pytest.raises(ValueError, match="a ring of format 2; this version of keyturn reads format 1"):
        decode_ring(BODY.replace(b'"format":1', b'"format":2'))


def test_a_key_under_another_kid_is_named() -> None:
    with pytest.raises(ValueError, match=f"key '{kid(2)}' does not carry its own thumbprint"):
        decode_ring(BODY.replace(kid(1).encode(), kid(2).encode()))
