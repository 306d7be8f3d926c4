import asyncio
import dataclasses
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from keyturn_server.domain.errors import NotFoundError, UnavailableError
from keyturn_server.domain.ring import Ring
from keyturn_server.ports import SealedRing
from tests.doubles import Operation
from tests.replicas import Replica, World, new_world
from tests.rings import HOUR, NOW, POLICY, SECOND

LEASE = POLICY.signing_lease
WHOLE_SECOND_AFTER_LEASE = LEASE + SECOND


def next_version(ring: Ring, **facts: object) -> Ring:
    return dataclasses.replace(ring, version=ring.version + 1, **facts)  # type: ignore[arg-type]


async def held(world: World) -> Replica:
    """A replica that has read the store once."""
    replica = Replica(world)
    await replica.rings.refresh()
    return replica


async def changed(world: World) -> Ring:
    """Another version of contoso's ring, made by somebody else."""
    ring = next_version(await world.stored())
    await world.append(ring)
    return ring


async def test_a_refreshed_ring_is_the_one_to_go_by_and_its_keys_can_sign() -> None:
    world = await new_world()

    replica = await held(world)

    ring = replica.rings.current("contoso")
    assert ring == await world.stored()
    assert all(replica.holds("contoso", key.kid) for key in ring.keys)


async def test_before_the_first_look_into_the_store_nothing_is_known() -> None:
    replica = Replica(await new_world())

    assert not replica.rings.refreshed
    with pytest.raises(UnavailableError) as unread:
        replica.rings.current("contoso")
    assert unread.value.reason == "NO_SNAPSHOT"


async def test_an_issuer_that_the_store_does_not_have_is_unknown() -> None:
    replica = await held(await new_world())

    with pytest.raises(NotFoundError, match="nobody"):
        replica.rings.current("nobody")


async def test_each_issuer_has_a_ring_of_its_own() -> None:
    replica = await held(await new_world("contoso", "fabrikam"))

    assert {issuer: ring.issuer for issuer, ring in replica.rings.all().items()} == {
        "contoso": "contoso",
        "fabrikam": "fabrikam",
    }


async def with_new_standby(world: World) -> Ring:
    """A version of contoso's ring with one more key, and that key's private half."""
    ring = await world.stored()
    public_key, wrapped = world.keys.generate("contoso", 2048)
    fresh = dataclasses.replace(ring.keys[-1], public_key=public_key, kid=wrapped.kid)
    after = next_version(ring, keys=(*ring.keys, fresh))
    await world.append(after, add=[wrapped])
    return after


# Reading as little as possible


async def test_the_first_refresh_reads_every_ring_and_a_later_one_only_versions() -> None:
    replica = await held(await new_world("contoso", "fabrikam"))
    first = [operation for operation, _ in replica.store.asked]
    replica.store.asked.clear()

    await replica.rings.refresh()

    assert first == ["newest_versions", "newest_rings", "wrapped_keys", "wrapped_keys"]
    assert replica.store.asked == [("newest_versions", ())]


async def test_a_refresh_reads_only_the_rings_that_have_changed() -> None:
    world = await new_world("contoso", "fabrikam")
    replica = await held(world)
    replica.store.asked.clear()
    ring = await changed(world)

    await replica.rings.refresh()

    assert [about for operation, about in replica.store.asked if operation == "newest_rings"] == [("contoso",)]
    assert replica.rings.current("contoso") == ring


async def test_private_keys_are_read_only_when_a_ring_names_one_that_is_not_here() -> None:
    world = await new_world()
    replica = await held(world)
    replica.store.asked.clear()
    await changed(world)

    await replica.rings.refresh()

    assert "wrapped_keys" not in [operation for operation, _ in replica.store.asked]


async def test_reading_never_makes_anything() -> None:
    world = await new_world()
    made, private_keys = list(world.keys.generated), world.private_keys()
    replica = await held(world)

    await replica.rings.refresh()
    replica.rings.current("contoso")
    with pytest.raises(NotFoundError):
        replica.rings.current("nobody")

    assert (world.keys.generated, world.private_keys()) == (made, private_keys)
    assert await world.stored() == replica.rings.current("contoso")
    assert set(world.database.rings) == {"contoso"}
    assert "append" not in [operation for operation, _ in replica.store.asked]


# The signing lease


async def test_a_ring_is_good_for_its_signing_lease_while_the_store_is_unreachable() -> None:
    replica = await held(await new_world())
    ring = replica.rings.current("contoso")
    replica.store.reachable = False

    replica.clock.advance(LEASE)
    with pytest.raises(UnavailableError):
        await replica.rings.refresh()
    assert replica.rings.current("contoso") == ring

    replica.clock.advance(SECOND)
    with pytest.raises(UnavailableError, match=r"6:00:01 ago, longer than its signing lease \(6:00:00\)") as over:
        replica.rings.current("contoso")
    assert over.value.reason == "SIGNING_LEASE_OVER"


async def test_a_lease_that_is_over_begins_anew_when_the_store_answers_again() -> None:
    replica = await held(await new_world())
    replica.clock.advance(WHOLE_SECOND_AFTER_LEASE)

    await replica.rings.refresh()

    assert replica.goes_by("contoso")


async def test_each_ring_has_the_lease_of_its_own_policy() -> None:
    world = World()
    await world.add_issuer("contoso")
    await world.add_issuer("fabrikam", policy=dataclasses.replace(POLICY, signing_lease=HOUR))
    replica = await held(world)

    replica.clock.advance(HOUR + SECOND)

    assert replica.goes_by("contoso")
    assert not replica.goes_by("fabrikam")


async def test_the_lease_does_not_depend_on_the_time_of_day() -> None:
    replica = await held(await new_world())

    replica.clock.time += 1000 * LEASE
    assert replica.goes_by("contoso")

    replica.clock.uptime += WHOLE_SECOND_AFTER_LEASE.total_seconds()
    assert not replica.goes_by("contoso")


@pytest.mark.parametrize(
    ("known", "operation"),
    [(False, "newest_versions"), (False, "newest_rings"), (False, "wrapped_keys"), (True, "newest_versions")],
)
async def test_the_lease_counts_from_before_the_store_was_asked(known: bool, operation: Operation) -> None:
    replica = Replica(await new_world())
    if known:
        await replica.rings.refresh()

    async def slowly() -> None:
        replica.clock.advance(HOUR)

    replica.store.before_answer[operation] = slowly
    started = replica.clock.elapsed()
    await replica.rings.refresh()

    replica.clock.uptime = started + LEASE.total_seconds()
    assert replica.goes_by("contoso")
    replica.clock.uptime += 1
    assert not replica.goes_by("contoso")


# A store that fails


@pytest.mark.parametrize("operation", ["newest_versions", "newest_rings", "wrapped_keys"])
async def test_a_refresh_that_fails_leaves_everything_as_it_was_and_the_next_one_heals(operation: Operation) -> None:
    world = await new_world()
    replica = await held(world)
    before = replica.rings.current("contoso")
    after = await with_new_standby(world)
    replica.store.fail(operation)

    with pytest.raises(UnavailableError):
        await replica.rings.refresh()
    assert replica.rings.current("contoso") == before

    await replica.rings.refresh()
    assert replica.rings.current("contoso") == after
    assert replica.holds("contoso", after.keys[-1].kid)


@pytest.mark.parametrize("operation", ["newest_versions", "newest_rings", "wrapped_keys"])
async def test_a_first_refresh_that_fails_leaves_nothing_that_could_be_used(operation: Operation) -> None:
    replica = Replica(await new_world())
    replica.store.fail(operation)

    with pytest.raises(UnavailableError):
        await replica.rings.refresh()

    assert not replica.rings.refreshed
    assert replica.rings.all() == {}


async def test_private_keys_are_there_before_the_ring_that_names_them() -> None:
    world = await new_world()
    replica = await held(world)
    before = replica.rings.current("contoso")
    await with_new_standby(world)
    seen: list[Ring] = []

    async def look() -> None:
        seen.append(replica.rings.current("contoso"))

    replica.store.before_answer["wrapped_keys"] = look
    await replica.rings.refresh()

    assert seen == [before]


async def test_private_keys_are_let_go_of_when_the_ring_says_that_they_are_destroyed_or_revoked() -> None:
    world = await new_world()
    replica = await held(world)
    ring = await world.stored()
    gone, kept = ring.keys
    await world.append(next_version(ring, keys=(dataclasses.replace(gone, revoked_at=NOW), kept)))

    await replica.rings.refresh()

    assert not replica.holds("contoso", gone.kid)
    assert replica.holds("contoso", kept.kid)


async def test_one_issuers_bad_private_key_does_not_keep_its_ring_or_another_ones_from_being_used() -> None:
    world = await new_world("contoso", "fabrikam")
    bad = (await world.stored()).keys[0].kid
    del world.database.keys["contoso", bad]

    replica = await held(world)

    assert replica.goes_by("contoso")
    assert not replica.holds("contoso", bad)
    assert replica.holds("fabrikam", replica.rings.current("fabrikam").keys[0].kid)


async def test_a_change_between_the_two_looks_into_the_store_is_taken_as_it_is_read() -> None:
    world = await new_world()
    replica = await held(world)
    await changed(world)

    async def another_change() -> None:
        replica.store.before_answer.clear()
        await changed(world)

    replica.store.before_answer["newest_versions"] = another_change
    await replica.rings.refresh()

    assert replica.rings.current("contoso").version == 3


async def test_refreshes_at_the_same_time_follow_each_other() -> None:
    replica = Replica(await new_world())

    async def let_others_run() -> None:
        await asyncio.sleep(0)

    replica.store.before_answer["newest_versions"] = let_others_run
    replica.store.before_answer["newest_rings"] = let_others_run
    await asyncio.gather(replica.rings.refresh(), replica.rings.refresh())

    assert [operation for operation, _ in replica.store.asked] == [
        "newest_versions",
        "newest_rings",
        "wrapped_keys",
        "newest_versions",
    ]


# A store that cannot be believed


def tamper(world: World) -> None:
    """Somebody who has no integrity key writes a version."""
    versions = world.database.rings["contoso"]
    versions.append(SealedRing("contoso", len(versions) + 1, versions[-1].body, b"forged"))


def roll_back(world: World) -> None:
    world.database.rings["contoso"].pop()


def remove(world: World) -> None:
    del world.database.rings["contoso"]


DAMAGES = pytest.mark.parametrize("damage", [tamper, roll_back, remove])
Damage = Callable[[World], None]


@DAMAGES
async def test_a_ring_that_the_store_no_longer_confirms_is_kept_until_its_lease_is_over(damage: Damage) -> None:
    world = await new_world()
    await changed(world)
    replica = await held(world)
    ring = replica.rings.current("contoso")

    damage(world)
    for _ in range(2):
        replica.clock.advance(LEASE / 2)
        await replica.rings.refresh()
        assert replica.rings.current("contoso") == ring

    replica.clock.advance(SECOND)
    await replica.rings.refresh()
    assert not replica.goes_by("contoso")
    assert replica.rings.all() == {"contoso": ring}


@DAMAGES
async def test_a_refused_ring_is_named_in_the_log_once(damage: Damage) -> None:
    world = await new_world()
    await changed(world)
    replica = await held(world)
    damage(world)

    with capture_logs() as logs:
        await replica.rings.refresh()
        await replica.rings.refresh()

    assert [(log["event"], log["log_level"], log["issuer"]) for log in logs] == [("ring refused", "error", "contoso")]
    assert logs[0]["row"].startswith("ring_versions (contoso, ")


@DAMAGES
async def test_the_other_issuers_do_not_notice_that_a_ring_was_refused(damage: Damage) -> None:
    world = await new_world("contoso", "fabrikam")
    await changed(world)
    replica = await held(world)
    damage(world)

    replica.clock.advance(WHOLE_SECOND_AFTER_LEASE)
    await replica.rings.refresh()

    assert replica.goes_by("fabrikam")


@DAMAGES
async def test_nothing_is_built_upon_a_ring_that_the_store_no_longer_confirms(damage: Damage) -> None:
    world = await new_world("contoso", "fabrikam")
    await changed(world)
    replica = await held(world)
    assert set(replica.rings.confirmed()) == {"contoso", "fabrikam"}

    damage(world)
    await replica.rings.refresh()

    assert set(replica.rings.confirmed()) == {"fabrikam"}


@DAMAGES
@pytest.mark.parametrize("versions", [0, 1], ids=["as it was", "with a new version"])
async def test_a_ring_that_is_put_back_is_good_again(damage: Damage, versions: int) -> None:
    world = await new_world()
    await changed(world)
    replica = await held(world)
    whole = list(world.database.rings["contoso"])
    damage(world)
    replica.clock.advance(WHOLE_SECOND_AFTER_LEASE)
    await replica.rings.refresh()

    world.database.rings["contoso"] = whole
    for _ in range(versions):
        await changed(world)
    await replica.rings.refresh()

    ring = await world.stored()
    assert replica.rings.current("contoso") == ring
    assert replica.rings.confirmed() == {"contoso": ring}


async def test_a_new_issuer_whose_ring_is_refused_is_not_unknown_but_unavailable() -> None:
    world = await new_world()
    tamper(world)

    replica = await held(world)

    assert replica.rings.refreshed
    with pytest.raises(UnavailableError, match="cannot be trusted") as refused:
        replica.rings.current("contoso")
    assert refused.value.reason == "RING_REFUSED"
