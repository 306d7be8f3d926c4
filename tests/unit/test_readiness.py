import dataclasses

from tests.replicas import Replica, World, new_world
from tests.rings import HOUR, POLICY, SECOND

OVER = POLICY.signing_lease + SECOND


async def test_a_replica_that_has_read_its_store_is_ready() -> None:
    replica = await (await new_world()).replica()

    assert replica.readiness.reasons() == []


async def test_a_replica_that_has_not_read_its_store_is_not() -> None:
    replica = Replica(await new_world())
    assert replica.readiness.reasons() == ["the store has not been read yet"]

    replica.store.reachable = False
    await replica.maintenance.step()
    assert replica.readiness.reasons() == ["the store has not been read yet"]


async def test_a_replica_is_ready_until_its_last_lease_is_over_and_again_when_the_store_is_back() -> None:
    replica = await (await new_world()).replica()
    replica.store.reachable = False

    replica.clock.advance(POLICY.signing_lease)
    assert replica.readiness.reasons() == []

    replica.clock.advance(SECOND)
    (reason,) = replica.readiness.reasons()
    assert "longer than its signing lease" in reason

    replica.store.reachable = True
    await replica.maintenance.step()
    assert replica.readiness.reasons() == []


async def test_trouble_with_one_issuer_takes_no_replica_out_of_service() -> None:
    world = World()
    await world.add_issuer("contoso", policy=dataclasses.replace(POLICY, signing_lease=HOUR))
    await world.add_issuer("fabrikam")
    replica = await world.replica()

    replica.clock.advance(HOUR + SECOND)
    assert replica.readiness.reasons() == []

    replica.clock.advance(OVER)
    contoso, fabrikam = replica.readiness.reasons()
    assert "contoso" in contoso
    assert "fabrikam" in fabrikam


async def test_a_store_without_any_issuer_makes_nobody_ready() -> None:
    replica = await World().replica()

    assert replica.readiness.reasons() == ["the store has no issuer that can be trusted: see the log"]


async def test_a_store_of_which_no_ring_can_be_trusted_makes_nobody_ready() -> None:
    world = await new_world()
    (row,) = world.database.rings["contoso"]
    world.database.rings["contoso"] = [dataclasses.replace(row, signature=b"forged")]

    replica = await world.replica()

    assert replica.readiness.reasons() == ["the store has no issuer that can be trusted: see the log"]


async def test_a_replica_that_drains_is_not_ready_whatever_else_holds() -> None:
    replica = await (await new_world()).replica()

    replica.readiness.drain()
    await replica.maintenance.step()

    assert replica.readiness.reasons() == ["the service is draining and will stop"]
