import asyncio
import dataclasses
import threading
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from keyturn_server.domain.callers import Caller
from keyturn_server.domain.claims import TokenRequest
from keyturn_server.domain.errors import UnavailableError
from keyturn_server.domain.public_key import PublicKey
from keyturn_server.domain.ring import Ring
from keyturn_server.ports import TokenSigner, WrappedKey
from keyturn_server.rotation import MOST_JITTER, RINGS_PER_PASS
from tests.doubles import PooledKeys
from tests.replicas import Replica, World, new_world, standby_of
from tests.rings import DAY, HOUR, NOW, POLICY, SECOND, SKEW, TICK

TAKEOVER = NOW - SKEW + POLICY.rotation_period
"""When the standby of an issuer that is new at `NOW` takes over."""

TIGHT = dataclasses.replace(POLICY, rotation_period=POLICY.propagation_window + 50 * SECOND)
"""A standby can be late by less than a minute."""

CALLER = Caller(identity="spiffe://contoso.example/website", issuers=frozenset({"contoso"}))


async def one_pass(replica: Replica) -> bool:
    await replica.rings.refresh()
    return await replica.rotation.run_pass()


async def at_takeover(world: World) -> Replica:
    """A replica that has just seen the standby of every issuer take over, and has done nothing about it."""
    replica = await world.replica()
    replica.clock.advance(TAKEOVER - NOW)
    await replica.rings.refresh()
    return replica


def kids(ring: Ring) -> list[str]:
    return [key.kid for key in ring.keys]


async def test_a_new_issuers_standby_is_dated_once_it_has_been_read_back() -> None:
    world = await new_world()
    replica = Replica(world)
    assert standby_of(await world.stored(), replica.clock).activates_at is None

    assert await one_pass(replica)

    standby = standby_of(await world.stored(), replica.clock)
    assert (standby.published_at, standby.activates_at) == (NOW, TAKEOVER)


async def test_the_pass_after_a_takeover_makes_a_standby_and_the_next_one_dates_it() -> None:
    world = await new_world()
    replica = await at_takeover(world)

    assert await one_pass(replica)
    made = standby_of(await world.stored(), replica.clock)
    assert (made.published_at, made.activates_at) == (None, None)

    assert await one_pass(replica)
    dated = standby_of(await world.stored(), replica.clock)
    assert dated == dataclasses.replace(made, published_at=TAKEOVER, activates_at=TAKEOVER + POLICY.rotation_period)

    assert not await one_pass(replica)
    assert len((await world.stored()).keys) == 3


async def test_a_new_standbys_private_key_is_stored_with_it() -> None:
    world = await new_world()
    replica = await at_takeover(world)

    await one_pass(replica)

    ring = await world.stored()
    assert world.private_keys() == set(kids(ring))


async def test_a_relieved_keys_private_half_is_destroyed_in_the_store_and_let_go_of() -> None:
    world = await new_world()
    replica = await at_takeover(world)
    old = (await world.stored()).keys[0]
    await replica.maintenance.step()
    assert old.kid in world.private_keys()

    replica.clock.advance(SKEW)
    assert await one_pass(replica)
    await replica.rings.refresh()

    ring = await world.stored()
    assert ring.keys[0].destroyed_at == TAKEOVER + SKEW
    assert world.private_keys() == set(kids(ring)[1:])
    assert not replica.holds("contoso", old.kid)


async def test_a_pass_that_finds_nothing_due_changes_nothing() -> None:
    world = await new_world()
    replica = await world.replica()
    ring = await world.stored()
    replica.store.asked.clear()

    replica.clock.advance(TAKEOVER - NOW - SECOND)

    assert not await replica.rotation.run_pass()
    assert replica.store.asked == []
    assert await world.stored() == ring


async def test_a_key_is_made_only_where_a_standby_is_due_and_in_the_size_of_the_policy() -> None:
    world = World()
    await world.add_issuer("contoso", policy=dataclasses.replace(POLICY, key_size=3072))
    before = list(world.keys.generated)

    replica = await at_takeover(world)
    assert world.keys.generated == before
    await replica.maintenance.step()
    replica.clock.advance(DAY)
    await replica.maintenance.step()

    assert world.keys.generated == [*before, ("contoso", 3072)]
    assert [key.destroyed_at is not None for key in (await world.stored()).keys] == [True, False, False]


async def test_a_change_is_recorded_as_made_on_schedule() -> None:
    world = await new_world()
    replica = await at_takeover(world)

    await one_pass(replica)

    change = (await world.stored()).change
    assert (change.actor, change.made_at) == ("keyturn", TAKEOVER)
    assert change.action == f"made standby {kids(await world.stored())[-1]}"


# Many issuers


async def test_a_pass_leaves_what_is_too_much_for_it_to_the_next_one() -> None:
    world = World()
    for number in range(RINGS_PER_PASS + 2):
        await world.add_issuer(f"issuer-{number}")
    replica = Replica(world)

    def turned() -> int:
        return sum(len(versions) == 2 for versions in world.database.rings.values())

    assert await one_pass(replica)
    assert turned() == RINGS_PER_PASS
    assert await one_pass(replica)
    assert turned() == RINGS_PER_PASS + 2
    assert not await one_pass(replica)


async def test_the_longest_overdue_ring_comes_first() -> None:
    world = World()
    for number in range(RINGS_PER_PASS + 1):
        world.clock.time = NOW - number * HOUR
        await world.add_issuer(f"issuer-{number}")
    world.clock.time = NOW
    replica = await world.replica()
    replica.clock.advance(TAKEOVER - NOW)

    assert await one_pass(replica)

    turned = [issuer for issuer, versions in world.database.rings.items() if len(versions) == 3]
    assert turned == [f"issuer-{number}" for number in range(1, RINGS_PER_PASS + 1)]


# Jitter


async def test_a_replica_waits_a_little_before_it_acts_so_that_not_all_make_the_same_key() -> None:
    world = await new_world()
    first, second = Replica(world, random=lambda: 0.25), Replica(world, random=lambda: 0.75)
    for replica in (first, second):
        await replica.maintenance.step()
    made = len(world.keys.generated)

    world.clock.time = TAKEOVER + MOST_JITTER / 4 - TICK
    await asyncio.gather(first.maintenance.step(), second.maintenance.step())
    assert len(world.keys.generated) == made

    world.clock.time += TICK
    await asyncio.gather(first.maintenance.step(), second.maintenance.step())
    await second.maintenance.step()
    assert len(world.keys.generated) == made + 1
    assert len((await world.stored()).keys) == 3


async def test_a_replica_waits_no_longer_than_a_tenth_of_the_time_that_a_standby_can_be_late() -> None:
    world = World()
    await world.add_issuer("contoso", policy=TIGHT)
    replica = Replica(world, random=lambda: 1.0)
    await replica.maintenance.step()
    spare = TIGHT.rotation_period - TIGHT.propagation_window
    takeover = standby_of(await world.stored(), replica.clock).activates_at
    assert takeover is not None

    for late, keys in ((spare / 10 - TICK, 2), (spare / 10, 3)):
        world.clock.time = takeover + late
        await replica.maintenance.step()
        assert len((await world.stored()).keys) == keys


async def test_what_is_due_when_a_replica_starts_is_done_at_once() -> None:
    world = await new_world()
    await world.replica()
    world.clock.advance(TAKEOVER - NOW)

    await Replica(world, random=lambda: 1.0).maintenance.step()

    assert len((await world.stored()).keys) == 3


# Several replicas


@pytest.mark.parametrize("replicas", [2, 5])
async def test_replicas_that_rotate_at_the_same_moment_make_exactly_one_new_key(replicas: int) -> None:
    world = await new_world()
    racing = [await at_takeover(world)]
    racing += [Replica(world) for _ in range(replicas - 1)]
    for replica in racing:
        await replica.rings.refresh()
    version = (await world.stored()).version

    outcomes = await asyncio.gather(*(replica.rotation.run_pass() for replica in racing))

    ring = await world.stored()
    assert outcomes == [True] * replicas
    assert (ring.version, len(ring.keys)) == (version + 1, 3)
    assert world.private_keys() == set(kids(ring))


async def test_replicas_that_step_at_the_same_moment_end_up_with_the_same_ring() -> None:
    world = await new_world("contoso", "fabrikam")
    racing = [await at_takeover(world), Replica(world), Replica(world)]

    await asyncio.gather(*(replica.maintenance.step() for replica in racing))
    for replica in racing:
        await replica.maintenance.step()

    for issuer in ("contoso", "fabrikam"):
        ring = await world.stored(issuer)
        assert len(ring.keys) == 3
        assert [replica.rings.current(issuer) for replica in racing] == [ring] * 3
        assert all(replica.holds(issuer, kids(ring)[-1]) for replica in racing)


async def test_a_pass_that_comes_second_is_not_a_failure() -> None:
    world = await new_world()
    replica = await at_takeover(world)
    await Replica(world).maintenance.step()

    with capture_logs() as logs:
        assert await replica.rotation.run_pass()

    assert [log["log_level"] for log in logs] == ["debug"]


# What fails


class TroubledKeys(PooledKeys):
    """Cannot make keys for contoso, once there is a trouble."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Exception | None = None

    def generate(self, issuer: str, key_size: int) -> tuple[PublicKey, WrappedKey]:
        if self.trouble and issuer == "contoso":
            raise self.trouble
        return super().generate(issuer, key_size)


async def test_an_issuer_that_fails_is_named_and_does_not_stop_the_others() -> None:
    world = await new_world("contoso", "fabrikam")
    replica = await at_takeover(world)
    replica.store.fail("append", issuer="contoso")

    with capture_logs() as logs:
        assert await replica.rotation.run_pass()

    assert len((await world.stored("contoso")).keys) == 2
    assert len((await world.stored("fabrikam")).keys) == 3
    assert [(log["log_level"], log["issuer"]) for log in logs] == [("error", "contoso")]


@pytest.mark.parametrize(
    "trouble", [UnavailableError("the module is busy", reason="BUSY"), RuntimeError("a bug")], ids=["foreseen", "a bug"]
)
async def test_an_issuer_whose_key_cannot_be_made_does_not_stop_the_others(trouble: Exception) -> None:
    keys = TroubledKeys()
    world = World(keys=keys)
    for issuer in ("contoso", "fabrikam", "northwind"):
        await world.add_issuer(issuer)
    replica = await at_takeover(world)
    keys.trouble = trouble

    with capture_logs() as logs:
        await replica.maintenance.step()
    assert [len((await world.stored(issuer)).keys) for issuer in ("contoso", "fabrikam", "northwind")] == [2, 3, 3]
    failures = [log for log in logs if log["log_level"] != "info"]
    assert {(log["log_level"], log["issuer"]) for log in failures} == {("error", "contoso")}
    assert all(("exc_info" in log) == isinstance(trouble, RuntimeError) for log in failures)

    keys.trouble = None
    await replica.maintenance.step()
    assert len((await world.stored("contoso")).keys) == 3


async def test_a_pass_of_which_nothing_succeeded_asks_for_no_other_at_once() -> None:
    replica = await at_takeover(await new_world())
    replica.store.fail("append")

    assert not await replica.rotation.run_pass()


async def test_a_connection_that_is_lost_before_the_commit_leaves_the_state_before() -> None:
    world = await new_world()
    replica = await at_takeover(world)
    ring, private_keys = await world.stored(), world.private_keys()
    replica.store.fail("append")

    await replica.maintenance.step()
    assert (await world.stored(), world.private_keys()) == (ring, private_keys)

    await replica.maintenance.step()
    ring = await world.stored()
    assert len(ring.keys) == 3
    assert world.private_keys() == set(kids(ring))


async def test_a_connection_that_is_lost_after_the_commit_heals_with_the_one_key_that_was_made() -> None:
    world = await new_world()
    replica = await at_takeover(world)
    made = len(world.keys.generated)
    replica.store.fail("append", after=True)

    await replica.maintenance.step()
    assert len((await world.stored()).keys) == 3

    await replica.maintenance.step()
    ring = await world.stored()
    assert replica.rings.current("contoso") == ring
    assert len(world.keys.generated) == made + 1
    assert (len(ring.keys), world.private_keys()) == (3, set(kids(ring)))
    assert standby_of(ring, replica.clock).published_at == TAKEOVER


async def test_issuers_that_always_fail_do_not_keep_the_others_waiting() -> None:
    world = World()
    for number in range(RINGS_PER_PASS + 1):
        await world.add_issuer(f"issuer-{number}")
    replica = await at_takeover(world)
    *failing, last = world.database.rings
    for issuer in failing:
        replica.store.fail("append", issuer=issuer, times=1000)

    for _ in range(2):
        replica.clock.advance(SECOND)
        await replica.maintenance.step()

    assert len((await world.stored(last)).keys) == 3


def roll_back(world: World) -> None:
    world.database.rings["contoso"].pop()


def remove(world: World) -> None:
    del world.database.rings["contoso"]


def tamper(world: World) -> None:
    forged = dataclasses.replace(world.database.rings["contoso"][-1], signature=b"forged")
    world.database.rings["contoso"].append(dataclasses.replace(forged, version=forged.version + 1))


@pytest.mark.parametrize("damage", [roll_back, remove, tamper])
async def test_a_ring_that_the_store_does_not_confirm_is_not_turned_and_no_key_is_made_for_it(
    damage: Callable[[World], None],
) -> None:
    world = await new_world("contoso", "fabrikam")
    replica = await at_takeover(world)
    made = len(world.keys.generated)
    damage(world)
    rows = list(world.database.rings.get("contoso", ()))

    for _ in range(2):
        await replica.maintenance.step()

    assert [issuer for issuer, _ in world.keys.generated[made:]] == ["fabrikam"]
    assert world.database.rings.get("contoso", []) == rows


# The event loop


async def test_keys_are_made_and_unwrapped_off_the_event_loop() -> None:
    class WatchedKeys(PooledKeys):
        def __init__(self) -> None:
            super().__init__()
            self.threads: list[tuple[str, int]] = []

        def generate(self, issuer: str, key_size: int) -> tuple[PublicKey, WrappedKey]:
            self.threads.append(("generate", threading.get_ident()))
            return super().generate(issuer, key_size)

        def unwrap(self, key: WrappedKey, public_key: PublicKey) -> TokenSigner:
            self.threads.append(("unwrap", threading.get_ident()))
            return super().unwrap(key, public_key)

    keys = WatchedKeys()
    world = World(keys=keys)
    await world.add_issuer()
    keys.threads.clear()

    replica = await at_takeover(world)
    await replica.maintenance.step()

    assert {what for what, _ in keys.threads} == {"generate", "unwrap"}
    assert threading.get_ident() not in {thread for _, thread in keys.threads}


async def test_tokens_are_signed_while_a_key_is_being_made() -> None:
    class SlowKeys(PooledKeys):
        def __init__(self) -> None:
            super().__init__()
            self.begun = asyncio.Event()
            self.may_finish = threading.Event()
            self.may_finish.set()
            self.loop = asyncio.get_running_loop()

        def generate(self, issuer: str, key_size: int) -> tuple[PublicKey, WrappedKey]:
            self.loop.call_soon_threadsafe(self.begun.set)
            assert self.may_finish.wait(timeout=10)
            return super().generate(issuer, key_size)

    keys = SlowKeys()
    world = World(keys=keys)
    await world.add_issuer()
    replica = await at_takeover(world)
    keys.begun.clear()
    keys.may_finish.clear()

    turning = asyncio.create_task(replica.maintenance.step())
    await asyncio.wait_for(keys.begun.wait(), timeout=10)
    signed = replica.signing.sign(CALLER, TokenRequest(subject="x"))
    keys.may_finish.set()
    await turning

    assert signed.key_id == kids(await world.stored())[1]
