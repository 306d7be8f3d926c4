import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from keyturn_server.domain.callers import Caller
from keyturn_server.domain.claims import TokenRequest
from keyturn_server.domain.errors import UnavailableError
from keyturn_server.maintenance import MOST_PASSES, Maintenance
from keyturn_server.rotation import Rotation
from tests.replicas import Replica, new_world, signer_of, standby_of
from tests.rings import DAY, HOUR, NOW, POLICY, SECOND, SKEW

TAKEOVER = NOW - SKEW + POLICY.rotation_period
"""When the standby of an issuer that is new at `NOW` takes over."""

CALLER = Caller(identity="spiffe://contoso.example/website", issuers=frozenset({"contoso"}))


def signs(replica: Replica) -> str:
    return replica.signing.sign(CALLER, TokenRequest(subject="x")).key_id


async def test_a_first_step_makes_a_new_issuer_ready_to_sign_and_to_rotate() -> None:
    world = await new_world()
    replica = Replica(world)

    await replica.maintenance.step()

    ring = await world.stored()
    assert replica.rings.current("contoso") == ring
    assert standby_of(ring, replica.clock).activates_at == TAKEOVER
    assert signs(replica) == ring.keys[0].kid


async def test_one_step_makes_a_standby_and_dates_it() -> None:
    world = await new_world()
    replica = await world.replica()
    replica.clock.advance(TAKEOVER - NOW)

    await replica.maintenance.step()

    standby = standby_of(await world.stored(), replica.clock)
    assert standby.activates_at == TAKEOVER + POLICY.rotation_period
    assert replica.rings.current("contoso") == await world.stored()


async def test_a_step_that_finds_nothing_due_looks_into_the_store_once() -> None:
    replica = await (await new_world()).replica()
    replica.store.asked.clear()

    await replica.maintenance.step()

    assert replica.store.asked == [("newest_versions", ())]


@pytest.mark.parametrize("downtime", [POLICY.rotation_period, 10 * POLICY.rotation_period])
async def test_one_step_catches_up_after_any_downtime(downtime: timedelta) -> None:
    world = await new_world()
    await world.replica()
    made = len(world.keys.generated)
    world.clock.advance(downtime + DAY)
    replica = Replica(world)

    await replica.maintenance.step()

    ring = await world.stored()
    now = world.clock.now()
    assert signer_of(ring, world.clock) == ring.keys[1]
    assert standby_of(ring, world.clock).activates_at == max(
        now + POLICY.propagation_window, TAKEOVER + POLICY.rotation_period
    )
    assert ring.keys[0].destroyed_at == now
    assert len(world.keys.generated) == made + 1
    assert signs(replica) == ring.keys[1].kid


async def test_keys_turn_over_month_after_month() -> None:
    world = await new_world()
    replica = Replica(world)
    signers = []

    while world.clock.now() < NOW + 3 * POLICY.rotation_period:
        await replica.maintenance.step()
        signers.append(signs(replica))
        world.clock.advance(DAY)

    ring = await world.stored()
    order = list(dict.fromkeys(signers))
    assert order == [key.kid for key in ring.keys[:-1]]
    assert len(order) == 3
    assert world.private_keys() == {key.kid for key in ring.keys[-2:]}


async def test_a_step_does_not_go_on_for_ever() -> None:
    class Restless(Rotation):
        passes = 0

        async def run_pass(self) -> bool:
            self.passes += 1
            return True

    world = await new_world()
    replica = Replica(world)
    restless = Restless(replica.ledger, replica.rings, world.keys, world.clock, lambda: 0.0)

    await Maintenance(replica.rings, restless).step()

    assert restless.passes == MOST_PASSES


# A store that fails


async def test_a_store_that_is_unreachable_is_logged_once_and_so_is_its_return() -> None:
    replica = await (await new_world()).replica()

    with capture_logs() as logs:
        for reachable in (True, False, False, False, True, True, False):
            replica.store.reachable = reachable
            await replica.maintenance.step()

    assert [(log["log_level"], log["event"]) for log in logs] == [
        ("warning", "store unreachable, going on from memory"),
        ("info", "store reachable again"),
        ("warning", "store unreachable, going on from memory"),
    ]


async def test_a_replica_signs_and_publishes_on_from_memory_until_its_lease_is_over() -> None:
    world = await new_world()
    replica = await world.replica()
    replica.store.reachable = False

    for _ in range(6):
        replica.clock.advance(HOUR)
        await replica.maintenance.step()
        assert signs(replica)
        replica.publishing.documents("contoso")

    replica.clock.advance(SECOND)
    await replica.maintenance.step()
    with pytest.raises(UnavailableError):
        signs(replica)
    with pytest.raises(UnavailableError):
        replica.publishing.documents("contoso")

    replica.store.reachable = True
    await replica.maintenance.step()
    assert signs(replica)


async def test_a_replica_that_starts_without_its_store_makes_nothing_and_begins_when_it_is_there() -> None:
    world = await new_world()
    made = list(world.keys.generated)
    replica = Replica(world)
    replica.store.reachable = False

    await replica.maintenance.step()
    assert not replica.rings.refreshed

    replica.store.reachable = True
    await replica.maintenance.step()
    assert signs(replica)
    assert world.keys.generated == made


async def test_an_empty_store_stays_empty() -> None:
    world = await new_world()
    world.database.rings.clear()
    world.database.keys.clear()
    replica = Replica(world)

    await replica.maintenance.step()

    assert (world.database.rings, world.database.keys) == ({}, {})


async def test_a_second_reading_that_fails_leaves_the_rest_to_the_next_step() -> None:
    world = await new_world()
    replica = await world.replica()
    replica.clock.advance(TAKEOVER - NOW)
    await replica.rings.refresh()
    replica.store.fail("wrapped_keys")

    await replica.maintenance.step()
    assert standby_of(await world.stored(), replica.clock).published_at is None
    assert signs(replica) == (await world.stored()).keys[1].kid

    await replica.maintenance.step()
    assert standby_of(await world.stored(), replica.clock).published_at == TAKEOVER


# The heartbeat


async def test_the_heartbeat_goes_on_after_a_failure_that_nobody_foresaw() -> None:
    replica = Replica(await new_world())
    steps = 0
    enough = asyncio.Event()

    async def after_step() -> None:
        nonlocal steps
        assert replica.rings.refreshed
        steps += 1
        if steps == 1:
            raise RuntimeError("a bug")
        enough.set()

    with capture_logs() as logs:
        heartbeat = asyncio.create_task(replica.maintenance.run(timedelta(0), after_step))
        await asyncio.wait_for(enough.wait(), timeout=10)
        heartbeat.cancel()
        await asyncio.gather(heartbeat, return_exceptions=True)

    assert heartbeat.cancelled()
    failures = [log for log in logs if log["log_level"] == "error"]
    assert [log["event"] for log in failures] == ["maintenance failed, will be tried again"]
    assert failures[0]["exc_info"]
