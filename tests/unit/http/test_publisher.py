import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request

from keyturn_server.domain.documents import render
from keyturn_server.http.publisher import Publisher
from tests.replicas import Replica, World, new_world
from tests.rings import MINUTE, NOW, POLICY, SECOND, SKEW, TICK

TAKEOVER = NOW - SKEW + POLICY.rotation_period
"""When the standby of an issuer that is new at `NOW` takes over."""

NAMES = ["publickey", ".well-known/jwks.json", "publickey.pem"]

Client = TestClient[Request, Application]


@asynccontextmanager
async def publishing(replica: Replica, *, default_issuer: str | None = None) -> AsyncIterator[Client]:
    publisher = Publisher(replica.publishing, default_issuer=default_issuer)
    async with TestClient(TestServer(publisher.application())) as client:
        yield client


async def without_signer() -> Replica:
    """A replica of an issuer whose first key is published and does not sign yet."""
    world = await new_world()
    ring = await world.stored()
    later = dataclasses.replace(ring.keys[0], activates_at=NOW + TICK)
    world.database.rings.clear()
    await world.append(dataclasses.replace(ring, keys=(later, ring.keys[1])))
    replica = Replica(world)
    await replica.rings.refresh()
    return replica


# While nothing can be trusted


@pytest.mark.parametrize("name", NAMES)
async def test_before_the_store_was_read_every_document_is_unavailable_for_a_moment(name: str) -> None:
    replica = Replica(await new_world())

    async with publishing(replica) as client:
        for path in (f"/contoso/{name}", f"/nobody/{name}"):
            answer = await client.get(path)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert answer.headers["Cache-Control"] == "no-store"
            assert "ETag" not in answer.headers
            assert await answer.text() == "the store has not been read yet\n"


@pytest.mark.parametrize("name", NAMES)
async def test_when_the_lease_is_over_no_document_is_given_until_the_store_is_back(name: str) -> None:
    replica = await (await new_world()).replica()
    path = f"/contoso/{name}"

    async with publishing(replica) as client:
        etag = (await client.get(path)).headers["ETag"]
        replica.clock.advance(POLICY.signing_lease + SECOND)

        answer = await client.get(path)
        assert (answer.status, answer.headers["Retry-After"], answer.headers["Cache-Control"]) == (503, "5", "no-store")
        assert "signing lease" in await answer.text()
        assert (await client.get(path, headers={"If-None-Match": etag})).status == 503

        await replica.rings.refresh()
        assert (await client.get(path)).status == 200


async def test_an_issuer_whose_ring_was_refused_is_not_taken_for_an_unknown_one() -> None:
    world = await new_world()
    (row,) = world.database.rings["contoso"]
    world.database.rings["contoso"] = [dataclasses.replace(row, signature=b"forged")]
    replica = await world.replica()

    async with publishing(replica) as client:
        assert (await client.get("/contoso/publickey")).status == 503
        assert (await client.get("/nobody/publickey")).status == 404


async def test_trouble_with_one_issuer_leaves_the_documents_of_others_alone() -> None:
    world = await new_world("contoso", "fabrikam")
    (row,) = world.database.rings["contoso"]
    world.database.rings["contoso"] = [dataclasses.replace(row, signature=b"forged")]
    replica = await world.replica()

    async with publishing(replica) as client:
        assert (await client.get("/fabrikam/publickey")).status == 200


async def test_the_unprefixed_documents_are_the_default_issuers_and_none_without_one() -> None:
    replica = await (await new_world("contoso", "fabrikam")).replica()

    async with publishing(replica, default_issuer="fabrikam") as client:
        unprefixed, prefixed = await client.get("/publickey"), await client.get("/fabrikam/publickey")
        assert await unprefixed.read() == await prefixed.read()
    async with publishing(replica) as client:
        assert (await client.get("/publickey")).status == 404


async def test_the_pem_is_unavailable_while_no_key_may_sign_and_the_other_documents_are_not() -> None:
    replica = await without_signer()

    async with publishing(replica) as client:
        answer = await client.get("/contoso/publickey.pem")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert (await client.get("/contoso/publickey")).status == 200
        assert (await client.get("/contoso/.well-known/jwks.json")).status == 200

        replica.clock.advance(TICK)
        assert (await client.get("/contoso/publickey.pem")).status == 200


async def test_caches_may_hold_a_document_for_as_long_as_the_policy_in_force_says() -> None:
    world = World()
    await world.add_issuer("contoso", policy=dataclasses.replace(POLICY, document_max_age=MINUTE))
    await world.add_issuer("fabrikam")
    replica = await world.replica()

    async with publishing(replica) as client:
        for issuer, seconds in {"contoso": 60, "fabrikam": 300}.items():
            answer = await client.get(f"/{issuer}/publickey")
            assert answer.headers["Cache-Control"] == f"public, max-age={seconds}"


# When documents change


@pytest.mark.parametrize("now", [TAKEOVER - TICK, TAKEOVER, TAKEOVER + POLICY.coverage(POLICY.max_token_lifetime)])
async def test_the_documents_follow_the_clock_over_the_boundaries_of_the_ring(now: datetime) -> None:
    replica = await (await new_world()).replica()
    ring = replica.rings.current("contoso")

    async with publishing(replica) as client:
        for name in NAMES:
            await client.get(f"/contoso/{name}")
        replica.clock.time = now
        expected = render(ring, now)
        assert expected.pem

        for name, document in zip(NAMES, (expected.key_array, expected.jwks, expected.pem), strict=True):
            answer = await client.get(f"/contoso/{name}")
            assert await answer.read() == document.body
            assert (answer.headers["ETag"], answer.headers["Content-Type"]) == (document.etag, document.content_type)


async def test_who_has_an_older_document_gets_the_new_one_after_a_boundary() -> None:
    replica = await (await new_world()).replica()
    path = "/contoso/publickey.pem"

    async with publishing(replica) as client:
        held = {"If-None-Match": (await client.get(path)).headers["ETag"]}
        replica.clock.time = TAKEOVER - TICK
        assert (await client.get(path, headers=held)).status == 304

        replica.clock.time = TAKEOVER
        answer = await client.get(path, headers=held)
        assert answer.status == 200
        assert await answer.text() == replica.rings.current("contoso").keys[1].public_key.pem()


async def test_a_change_of_the_ring_is_told_with_its_version() -> None:
    world = await new_world()
    replica = await world.replica()
    ring = await world.stored()

    async with publishing(replica) as client:
        assert (await client.get("/contoso/publickey")).headers["Keyturn-Ring-Version"] == "2"
        await world.append(dataclasses.replace(ring, version=3))
        await replica.rings.refresh()
        assert (await client.get("/contoso/publickey")).headers["Keyturn-Ring-Version"] == "3"
