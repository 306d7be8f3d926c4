import dataclasses

import pytest

from keyturn_server.domain.documents import render
from keyturn_server.domain.errors import NotFoundError, UnavailableError
from tests.replicas import Replica, new_world
from tests.rings import DAY, NOW, POLICY, SECOND, SKEW, TICK

TAKEOVER = NOW - SKEW + POLICY.rotation_period


async def test_the_documents_are_those_of_the_ring_now() -> None:
    replica = await (await new_world()).replica()

    assert replica.publishing.documents("contoso") == render(replica.rings.current("contoso"), NOW)


async def test_bytes_are_rendered_once_until_the_rings_next_boundary() -> None:
    replica = await (await new_world()).replica()
    first = replica.publishing.documents("contoso")
    assert first.valid_until is not None

    replica.clock.time = first.valid_until - TICK
    assert replica.publishing.documents("contoso") is first

    replica.clock.time = first.valid_until
    again = replica.publishing.documents("contoso")
    assert again is not first
    assert again == render(replica.rings.current("contoso"), replica.clock.now())


async def test_documents_follow_the_clock_over_every_boundary_without_a_change_of_the_ring() -> None:
    replica = await (await new_world()).replica()
    ring = replica.rings.current("contoso")
    boundaries = 0

    while replica.clock.now() < TAKEOVER + DAY:
        documents = replica.publishing.documents("contoso")
        assert documents == render(ring, replica.clock.now())
        assert documents.valid_until is not None
        replica.clock.time = documents.valid_until
        boundaries += 1

    assert boundaries > 2
    assert ring.keys[1].public_key.pem().encode() in render(ring, TAKEOVER).pem.body  # type: ignore[union-attr]


async def test_a_change_of_the_ring_is_in_the_documents_as_soon_as_it_is_in_force() -> None:
    world = await new_world()
    replica = await world.replica()
    ring = await world.stored()
    before = replica.publishing.documents("contoso")
    revoked = dataclasses.replace(ring.keys[1], revoked_at=NOW)
    await world.append(dataclasses.replace(ring, version=ring.version + 1, keys=(ring.keys[0], revoked)))

    assert replica.publishing.documents("contoso") is before
    await replica.rings.refresh()

    after = replica.publishing.documents("contoso")
    assert after.ring_version == before.ring_version + 1
    assert revoked.kid.encode() in before.jwks.body
    assert revoked.kid.encode() not in after.jwks.body


async def test_a_clock_that_is_set_back_does_not_leave_documents_of_the_future() -> None:
    replica = await (await new_world()).replica()
    ring = replica.rings.current("contoso")
    replica.clock.time = TAKEOVER
    replica.publishing.documents("contoso")

    replica.clock.time = NOW

    assert replica.publishing.documents("contoso") == render(ring, NOW)


async def test_every_issuer_has_documents_of_its_own() -> None:
    replica = await (await new_world("contoso", "fabrikam")).replica()

    contoso, fabrikam = (replica.publishing.documents(issuer) for issuer in ("contoso", "fabrikam"))

    assert contoso.jwks != fabrikam.jwks
    assert replica.publishing.documents("contoso") is contoso


async def test_an_unknown_issuer_has_none_and_gets_none() -> None:
    world = await new_world()
    replica = await world.replica()

    with pytest.raises(NotFoundError):
        replica.publishing.documents("nobody")

    assert set(world.database.rings) == {"contoso"}


async def test_documents_that_may_be_too_old_are_not_given() -> None:
    world = await new_world()
    replica = Replica(world)
    with pytest.raises(UnavailableError):
        replica.publishing.documents("contoso")

    await replica.rings.refresh()
    replica.publishing.documents("contoso")
    replica.clock.advance(POLICY.signing_lease + SECOND)
    with pytest.raises(UnavailableError):
        replica.publishing.documents("contoso")


async def test_publishing_does_not_ask_the_store() -> None:
    replica = await (await new_world()).replica()
    replica.store.asked.clear()

    replica.publishing.documents("contoso")

    assert replica.store.asked == []
