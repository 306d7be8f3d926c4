import base64
import json
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto.jwk import JWKSet

from keyturn_server.domain.documents import Documents, expiry, render
from keyturn_server.domain.ring import Ring, published, published_until, signer
from tests.rings import (
    DAY,
    HOUR,
    NOW,
    POLICY,
    SECOND,
    TAKEOVER,
    TICK,
    key,
    kid,
    new_ring,
    public_key,
    ring_of,
    settled,
)
from tests.unit.domain.histories import TIGHT, History, histories, moment

# A ring at its first rotation: every kind of key that is published.
RING = settled(settled(new_ring(), NOW), TAKEOVER)

WINDOW = POLICY.propagation_window
COVERAGE = POLICY.coverage(HOUR)
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")


def jwks(documents: Documents) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = json.loads(documents.jwks.body)["keys"]
    return keys


def key_array(documents: Documents) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(documents.key_array.body)
    return entries


def pem(documents: Documents) -> str:
    assert documents.pem is not None
    return documents.pem.body.decode()


def seconds(time: datetime) -> int:
    return round((time - EPOCH).total_seconds())


def test_the_jwks_holds_the_public_members_of_each_published_key_and_no_others() -> None:
    assert jwks(render(RING, TAKEOVER)) == [
        {"alg": "RS256", "kid": kid(number), "use": "sig", **public_key(number).members()} for number in range(3)
    ]


def test_jwcrypto_reads_the_jwks_and_finds_public_keys_alone() -> None:
    read = JWKSet.from_json(render(RING, TAKEOVER).jwks.body)["keys"]

    assert {each.thumbprint() for each in read} == {kid(0), kid(1), kid(2)}
    assert not any(each.has_private for each in read)


def test_the_array_holds_kid_whole_pem_and_expiry_of_each_published_key() -> None:
    entries = key_array(render(RING, TAKEOVER))

    assert [entry.keys() for entry in entries] == [{"expiry", "kid", "publicKey"}] * 3
    assert [entry["kid"] for entry in entries] == [kid(0), kid(1), kid(2)]
    assert [base64.b64decode(entry["publicKey"], validate=True).decode() for entry in entries] == [
        public_key(number).pem() for number in range(3)
    ]
    assert [entry["expiry"] for entry in entries] == [expiry(RING, each, TAKEOVER) for each in RING.keys]


def test_the_pem_is_that_of_the_signer_alone() -> None:
    assert pem(render(RING, TAKEOVER - TICK)) == public_key(0).pem()
    assert pem(render(RING, TAKEOVER)) == public_key(1).pem()


def test_every_document_says_what_it_is() -> None:
    documents = render(RING, TAKEOVER)

    assert documents.jwks.content_type == "application/json"
    assert documents.key_array.content_type == "application/json"
    assert documents.pem is not None
    assert documents.pem.content_type == "text/plain; charset=us-ascii"
    assert documents.ring_version == RING.version


def test_json_has_one_form_only() -> None:
    documents = render(RING, TAKEOVER)

    for body in (documents.jwks.body, documents.key_array.body):
        assert json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode("ascii") == body


def test_an_entity_tag_is_strong_and_differs_where_the_bytes_differ() -> None:
    now = render(RING, TAKEOVER)
    before = render(RING, TAKEOVER - TICK)

    assert now.jwks.etag.startswith('"')
    assert now.jwks.etag.endswith('"')
    assert before.jwks == now.jwks
    assert before.pem is not None
    assert now.pem is not None
    assert len({now.jwks.etag, now.key_array.etag, now.pem.etag, before.pem.etag}) == 4


def test_a_change_that_publishes_the_same_keys_renders_the_same_bytes() -> None:
    changed = replace(RING, version=RING.version + 1)

    assert render(changed, TAKEOVER).key_array == render(RING, TAKEOVER).key_array


def test_a_key_is_listed_until_its_last_token_is_dead() -> None:
    gone = TAKEOVER + COVERAGE

    assert [each["kid"] for each in jwks(render(RING, gone - TICK))] == [kid(0), kid(1), kid(2)]
    assert [each["kid"] for each in jwks(render(RING, gone))] == [kid(1), kid(2)]


def test_a_revoked_key_is_listed_no_more() -> None:
    ring = ring_of(key(0, activates_at=NOW, revoked_at=NOW + DAY), key(1, activates_at=NOW))

    documents = render(ring, NOW + DAY)

    assert [each["kid"] for each in jwks(documents)] == [kid(1)]
    assert [each["kid"] for each in key_array(documents)] == [kid(1)]


def test_without_a_signer_the_other_keys_are_still_listed() -> None:
    documents = render(ring_of(key(0)), NOW)

    assert [each["kid"] for each in jwks(documents)] == [kid(0)]
    assert documents.pem is None


# The array's expiry


@pytest.mark.parametrize("now", [NOW, TAKEOVER, TAKEOVER + HOUR])
def test_a_key_whose_successor_is_dated_expires_a_window_after_its_withdrawal(now: datetime) -> None:
    assert expiry(RING, RING.keys[0], now) == seconds(TAKEOVER + COVERAGE + WINDOW)


def test_a_signer_without_a_dated_successor_expires_as_if_relieved_on_schedule() -> None:
    ring = new_ring()

    assert expiry(ring, ring.keys[0], NOW) == seconds(TAKEOVER + COVERAGE + WINDOW)


def test_a_dated_standby_expires_as_if_relieved_a_period_after_its_takeover() -> None:
    assert expiry(RING, RING.keys[2], TAKEOVER) == seconds(TAKEOVER + 60 * DAY + COVERAGE + WINDOW)


def test_an_overdue_signer_expires_as_if_relieved_at_the_next_multiple_of_the_window() -> None:
    ring = new_ring()
    late = datetime.fromisoformat("2026-06-01T15:00:00Z")

    assert expiry(ring, ring.keys[0], late) == seconds(
        datetime.fromisoformat("2026-06-02T00:00:00Z") + COVERAGE + WINDOW
    )


def test_expiry_is_rounded_up_to_a_whole_second() -> None:
    ring = ring_of(key(0, activates_at=NOW), key(1, activates_at=NOW + DAY + TICK))

    assert expiry(ring, ring.keys[0], NOW) == seconds(NOW + DAY + COVERAGE + WINDOW) + 1


@given(histories(force=True), st.integers(-2, 200))
def test_an_expiry_never_passes_while_its_key_may_sign_or_is_published(history: History, later: int) -> None:
    now = moment(history.end, later)
    current = signer(history.ring, now)
    assert current is not None

    assert expiry(history.ring, current, now) >= seconds(now + TIGHT.max_token_lifetime + TIGHT.propagation_window)
    for each in published(history.ring, now):
        assert expiry(history.ring, each, now) > seconds(published_until(history.ring, each) or now)


# When documents change


@pytest.mark.parametrize(
    ("ring", "now", "until"),
    [
        (RING, TAKEOVER - SECOND, TAKEOVER),
        (RING, TAKEOVER, TAKEOVER + COVERAGE),
        (settled(new_ring(), NOW), NOW, datetime.fromisoformat("2026-03-02T00:00:00Z")),
        (ring_of(key(0, activates_at=NOW)), NOW, datetime.fromisoformat("2026-03-02T00:00:00Z")),
        (replace(RING, retired_at=TAKEOVER + HOUR), TAKEOVER, TAKEOVER + HOUR),
    ],
    ids=["takeover", "withdrawal", "multiple of the window", "overdue signer", "retirement"],
)
def test_documents_are_valid_until_the_next_boundary_of_the_ring(ring: Ring, now: datetime, until: datetime) -> None:
    assert render(ring, now).valid_until == until


@given(histories(force=True), st.integers(-2, 60), st.fractions(0, 1, max_denominator=1000))
def test_documents_stay_the_same_until_their_boundary(history: History, later: int, part: Fraction) -> None:
    now = moment(history.end, later)
    documents = render(history.ring, now)
    assert documents.valid_until is not None
    last = documents.valid_until - TICK

    assert render(history.ring, last) == documents
    assert render(history.ring, now + (last - now) * float(part)) == documents


@given(histories(force=True), st.integers(-2, 60))
def test_jwks_and_array_list_the_same_keys_and_the_signer_among_them(history: History, later: int) -> None:
    documents = render(history.ring, moment(history.end, later))
    kids = [each["kid"] for each in jwks(documents)]

    assert kids == [each["kid"] for each in key_array(documents)]
    assert pem(documents) in [base64.b64decode(each["publicKey"]).decode() for each in key_array(documents)]
    assert len(kids) == len(set(kids))
    assert all(each.keys() == {"alg", "e", "kid", "kty", "n", "use"} for each in jwks(documents))
