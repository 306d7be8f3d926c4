import asyncio
import dataclasses
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from structlog.testing import capture_logs

from keyturn_server.administration import Mutation
from keyturn_server.domain.callers import Caller
from keyturn_server.domain.claims import TokenRequest
from keyturn_server.domain.errors import (
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    RingChangedError,
    RowRefusedError,
    UnavailableError,
)
from keyturn_server.domain.plans import Plan
from keyturn_server.domain.policy import Policy
from tests.doubles import private_key
from tests.replicas import Replica, World, new_world, signer_of, standby_of
from tests.rings import DAY, NOW, POLICY, SKEW

KNOWN = NOW + POLICY.propagation_window
"""When every verifier knows the standby of an issuer that is new at `NOW`."""

TAKEOVER = NOW - SKEW + POLICY.rotation_period
"""When that standby takes over on schedule."""

CALLER = Caller(identity="spiffe://contoso.example/website", issuers=frozenset({"contoso"}))


def mutation(**said: Any) -> Mutation:
    usual: dict[str, Any] = {
        "issuer": "contoso",
        "actor": "claimed:ada",
        "expected_ring_version": 2,
        "validate_only": False,
        "force": False,
        "reason": "",
    }
    return Mutation(**(usual | said))


def planning(**said: Any) -> Mutation:
    return mutation(validate_only=True, **said)


async def known(world: World) -> Replica:
    """A replica when every verifier knows the standby. Its ring is at version 2."""
    replica = await world.replica()
    replica.clock.advance(KNOWN - NOW)
    await replica.rings.refresh()
    return replica


async def without_standby(world: World) -> Replica:
    """A replica whose standby has just taken over, before any pass has made another. Its ring is at version 2."""
    replica = await world.replica()
    replica.clock.advance(TAKEOVER - NOW)
    await replica.rings.refresh()
    return replica


def field_of(error: InvalidRequestError) -> str:
    (violation,) = error.violations
    return violation.field


# What an operator sees


async def test_every_ring_is_shown_as_it_is_in_the_store_in_the_order_of_the_identifiers() -> None:
    world = await new_world("fabrikam", "contoso")
    replica = Replica(world)

    assert await replica.administration.rings() == [await world.stored("contoso"), await world.stored("fabrikam")]
    assert await replica.administration.ring("fabrikam") == await world.stored("fabrikam")


async def test_an_operator_sees_a_change_before_this_replica_goes_by_it() -> None:
    world = await new_world()
    replica = await world.replica()
    ring = await world.stored()
    newer = dataclasses.replace(ring, version=ring.version + 1)
    await world.append(newer)

    assert await replica.administration.ring("contoso") == newer
    assert replica.rings.current("contoso") == ring


async def test_the_only_issuer_need_not_be_named() -> None:
    world = await new_world("contoso")

    assert await Replica(world).administration.ring("") == await world.stored("contoso")


@pytest.mark.parametrize("issuers", [(), ("contoso", "fabrikam")])
async def test_where_there_is_not_exactly_one_issuer_it_must_be_named(issuers: tuple[str, ...]) -> None:
    world = World()
    for issuer in issuers:
        await world.add_issuer(issuer)

    with pytest.raises(InvalidRequestError, match=f"there are {len(issuers)} issuers") as refused:
        await Replica(world).administration.ring("")
    assert field_of(refused.value) == "issuer"


async def test_an_unknown_issuer_is_not_found_and_not_made() -> None:
    world = await new_world()

    with pytest.raises(NotFoundError, match="'nobody'") as missing:
        await Replica(world).administration.ring("nobody")

    assert missing.value.reason == "NO_SUCH_ISSUER"
    assert set(world.database.rings) == {"contoso"}


async def test_looking_makes_nothing() -> None:
    world = await new_world()
    replica = await without_standby(world)
    replica.store.asked.clear()
    ring, made = await world.stored(), list(world.keys.generated)

    await replica.administration.rings()
    await replica.administration.ring("")

    assert (await world.stored(), world.keys.generated) == (ring, made)
    assert {operation for operation, _ in replica.store.asked} == {"newest_versions", "newest_rings"}


async def test_a_ring_that_cannot_be_trusted_is_refused_by_name() -> None:
    world = await new_world()
    (row,) = world.database.rings["contoso"]
    world.database.rings["contoso"] = [dataclasses.replace(row, signature=b"forged")]

    with pytest.raises(RowRefusedError) as refused:
        await Replica(world).administration.ring("contoso")
    assert refused.value.row == "ring_versions (contoso, 1)"


async def test_a_store_that_went_back_is_not_believed_and_nothing_is_built_upon_it() -> None:
    world = await new_world()
    replica = await known(world)
    world.database.rings["contoso"].pop()

    with pytest.raises(RowRefusedError, match="the store went back: version 2 was seen before"):
        await replica.administration.ring("contoso")
    with pytest.raises(RowRefusedError):
        await rotate(replica, expected_ring_version=1)

    assert (await world.stored()).version == 1


async def test_a_ring_that_changes_while_an_operator_looks_at_it_did_not_go_back() -> None:
    world = await new_world()
    replica = await world.replica()
    ring = await world.stored()

    async def change_that_this_replica_follows() -> None:
        replica.store.before_answer.clear()
        await world.append(dataclasses.replace(ring, version=3))
        await replica.rings.refresh()

    replica.store.before_answer["newest_rings"] = change_that_this_replica_follows

    assert await replica.administration.ring("contoso") == ring
    assert replica.rings.current("contoso").version == 3


async def test_an_issuer_that_vanished_is_not_taken_for_one_that_never_was() -> None:
    world = await new_world()
    replica = await known(world)
    made = list(world.keys.generated)
    del world.database.rings["contoso"]

    with pytest.raises(RowRefusedError, match="the store no longer has it"):
        await replica.administration.ring("contoso")
    with pytest.raises(RowRefusedError):
        await apply(replica, POLICY, expected_ring_version=0)

    assert (world.database.rings, world.keys.generated) == ({}, made)


# Rotation


async def rotate(replica: Replica, **said: Any) -> Plan:
    return await replica.administration.rotate(mutation(**said))


async def test_a_rotation_lets_the_standby_sign_from_now_on() -> None:
    world = await new_world()
    replica = await known(world)
    standby = standby_of(await world.stored(), replica.clock)

    await rotate(replica)

    assert signer_of(await world.stored(), replica.clock).kid == standby.kid


async def test_a_change_is_in_force_on_this_replica_before_the_operator_is_answered() -> None:
    world = await new_world()
    replica = await known(world)
    standby = standby_of(await world.stored(), replica.clock)

    plan = await rotate(replica)

    assert replica.rings.current("contoso") == plan.ring == await world.stored()
    assert replica.signing.sign(CALLER, TokenRequest(subject="x")).key_id == standby.kid
    assert replica.publishing.documents("contoso").ring_version == plan.ring.version


async def test_a_change_is_recorded_with_who_made_it_when_and_why() -> None:
    world = await new_world()
    replica = await known(world)

    await rotate(replica, reason="drill", force=True)

    change = (await world.stored()).change
    assert (change.actor, change.made_at, change.reason) == ("claimed:ada", KNOWN, "drill")
    assert change.action == "rotated by force"


async def test_a_change_that_is_made_says_what_its_plan_said() -> None:
    world = await new_world()
    replica = await known(world)

    plan = await replica.administration.rotate(planning())
    deed = await rotate(replica)

    assert plan == deed


@pytest.mark.parametrize("version", [0, 2])
async def test_a_plan_changes_nothing(version: int) -> None:
    world = await new_world()
    replica = await known(world)
    ring, made, private_keys = await world.stored(), list(world.keys.generated), world.private_keys()
    kid = signer_of(ring, replica.clock).kid

    rotation = await replica.administration.rotate(planning(expected_ring_version=version))
    revocation = await replica.administration.revoke(planning(expected_ring_version=version, reason="leaked"), kid)

    assert (rotation.planned_on, revocation.planned_on) == (2, 2)
    assert await world.stored() == replica.rings.current("contoso") == ring
    assert (world.keys.generated, world.private_keys()) == (made, private_keys)


async def test_the_only_issuer_is_changed_when_none_is_named() -> None:
    world = await new_world()
    replica = await known(world)

    await rotate(replica, issuer="")

    assert (await world.stored()).version == 3


async def test_with_several_issuers_none_is_changed_unless_it_is_named() -> None:
    world = await new_world("contoso", "fabrikam")
    replica = await known(world)

    with pytest.raises(InvalidRequestError) as refused:
        await rotate(replica, issuer="")
    assert field_of(refused.value) == "issuer"

    await rotate(replica, issuer="fabrikam")
    assert [(await world.stored(issuer)).version for issuer in ("contoso", "fabrikam")] == [2, 3]


async def test_a_standby_that_not_every_verifier_knows_signs_by_force_only() -> None:
    world = await new_world()
    replica = await world.replica()

    with pytest.raises(RefusedError) as refused:
        await rotate(replica)
    assert refused.value.earliest_safe_time == KNOWN
    assert (await world.stored()).version == 2

    with pytest.raises(InvalidRequestError) as unexplained:
        await rotate(replica, force=True)
    assert field_of(unexplained.value) == "reason"

    plan = await rotate(replica, force=True, reason="drill")
    assert plan.failures_until == KNOWN
    assert signer_of(await world.stored(), replica.clock).forced


# The version that a change was planned on


async def revoke(replica: Replica, kid: str, **said: Any) -> Plan:
    return await replica.administration.revoke(mutation(**({"reason": "leaked"} | said)), kid)


@pytest.mark.parametrize("version", [0, -1])
async def test_a_change_must_say_which_version_it_was_planned_on(version: int) -> None:
    world = await new_world()
    replica = await known(world)
    kid = (await world.stored()).keys[1].kid

    with pytest.raises(InvalidRequestError) as rotation:
        await rotate(replica, expected_ring_version=version)
    with pytest.raises(InvalidRequestError) as revocation:
        await revoke(replica, kid, expected_ring_version=version)

    assert field_of(rotation.value) == field_of(revocation.value) == "expected_ring_version"
    assert (await world.stored()).version == 2


@pytest.mark.parametrize("validate_only", [False, True])
@pytest.mark.parametrize("version", [1, 3])
async def test_a_ring_that_is_no_longer_at_that_version_is_not_changed(version: int, validate_only: bool) -> None:
    world = await new_world()
    replica = await known(world)
    kid = (await world.stored()).keys[1].kid
    said = {"expected_ring_version": version, "validate_only": validate_only}

    with pytest.raises(RingChangedError, match=f"no longer at version {version}"):
        await rotate(replica, **said)
    with pytest.raises(RingChangedError, match=f"no longer at version {version}"):
        await revoke(replica, kid, **said)

    assert (await world.stored()).version == 2


async def test_a_command_that_is_repeated_acts_once() -> None:
    world = await new_world()
    replica = await known(world)
    await rotate(replica)
    ring = await world.stored()

    with pytest.raises(RingChangedError):
        await rotate(replica)

    assert await world.stored() == ring


async def test_a_change_that_comes_first_while_this_one_is_planned_wins() -> None:
    world = await new_world()
    replica = await known(world)
    other = await known(world)

    async def other_change() -> None:
        await rotate(other)

    replica.store.before_answer["newest_rings"] = other_change
    with pytest.raises(RingChangedError):
        await rotate(replica)

    assert (await world.stored()).version == 3


# Revocation


async def test_a_revoked_signers_private_half_is_gone_from_store_and_memory_and_the_standby_signs() -> None:
    world = await new_world()
    replica = await known(world)
    signer, standby = (await world.stored()).keys

    await revoke(replica, signer.kid)

    ring = await world.stored()
    assert (ring.keys[0].revoked_at, ring.keys[0].destroyed_at, ring.keys[0].reason) == (KNOWN, KNOWN, "leaked")
    assert world.private_keys() == {standby.kid}
    assert not replica.holds("contoso", signer.kid)
    assert replica.signing.sign(CALLER, TokenRequest(subject="x")).key_id == standby.kid
    assert signer.kid.encode() not in replica.publishing.documents("contoso").jwks.body
    assert ring.change.action == f"revoked {signer.kid}"


async def test_private_keys_go_in_the_same_append_as_the_version_that_destroys_them() -> None:
    world = await new_world()
    replica = await known(world)
    ring, private_keys = await world.stored(), world.private_keys()
    replica.store.fail("append")

    with pytest.raises(UnavailableError):
        await revoke(replica, ring.keys[0].kid)
    assert (await world.stored(), world.private_keys()) == (ring, private_keys)

    replica.store.asked.clear()
    await revoke(replica, ring.keys[0].kid)
    assert [operation for operation, _ in replica.store.asked].count("append") == 1
    assert world.private_keys() == {ring.keys[1].kid}


async def test_a_revoked_standby_is_replaced_by_the_next_passes() -> None:
    world = await new_world()
    replica = await known(world)
    signer, standby = (await world.stored()).keys

    await revoke(replica, standby.kid)
    assert replica.signing.sign(CALLER, TokenRequest(subject="x")).key_id == signer.kid

    await replica.maintenance.step()
    assert standby_of(await world.stored(), replica.clock).published_at == KNOWN


@pytest.mark.parametrize(
    ("kid", "reason", "field"), [("", "leaked", "key_id"), ("signer", "", "reason"), ("signer", "x" * 501, "reason")]
)
async def test_a_revocation_says_which_key_and_why(kid: str, reason: str, field: str) -> None:
    world = await new_world()
    replica = await known(world)
    signer = (await world.stored()).keys[0]

    with pytest.raises(InvalidRequestError) as refused:
        await revoke(replica, kid and signer.kid, reason=reason)

    assert field_of(refused.value) == field
    assert (await world.stored()).version == 2


async def test_a_key_that_the_ring_does_not_have_cannot_be_revoked() -> None:
    world = await new_world("contoso", "fabrikam")
    replica = await known(world)

    with pytest.raises(NotFoundError):
        await revoke(replica, (await world.stored("fabrikam")).keys[0].kid)


# An emergency: no standby is left


async def test_without_a_standby_the_signer_is_revoked_by_force_only() -> None:
    world = await new_world()
    replica = await without_standby(world)
    ring, made = await world.stored(), list(world.keys.generated)

    with pytest.raises(RefusedError) as refused:
        await revoke(replica, ring.keys[1].kid)

    assert refused.value.reason == "NO_STANDBY"
    assert (await world.stored(), world.keys.generated) == (ring, made)


async def test_by_force_one_new_key_is_made_and_signs_at_once() -> None:
    world = await new_world()
    replica = await without_standby(world)
    signer = (await world.stored()).keys[1]
    made = len(world.keys.generated)

    plan = await revoke(replica, signer.kid, force=True)

    ring = await world.stored()
    fresh = signer_of(ring, replica.clock)
    assert ring == plan.ring == replica.rings.current("contoso")
    assert len(world.keys.generated) == made + 1
    assert fresh == ring.keys[-1]
    assert fresh.forced
    assert world.private_keys() == {ring.keys[0].kid, fresh.kid}
    assert replica.signing.sign(CALLER, TokenRequest(subject="x")).key_id == fresh.kid
    assert fresh.kid.encode() in replica.publishing.documents("contoso").jwks.body
    assert fresh.kid in [step.kid for step in plan.steps]


async def test_the_plan_of_an_emergency_says_that_a_key_is_needed_and_makes_none() -> None:
    world = await new_world()
    replica = await without_standby(world)
    ring, made = await world.stored(), list(world.keys.generated)

    plan = await replica.administration.revoke(planning(force=True, reason="leaked"), ring.keys[1].kid)

    assert plan.new_keys == 1
    assert plan.failures_until == TAKEOVER + POLICY.propagation_window
    assert (await world.stored(), world.keys.generated) == (ring, made)


async def test_a_key_is_made_in_an_emergency_only() -> None:
    world = await new_world()
    replica = await known(world)
    made = list(world.keys.generated)

    await revoke(replica, (await world.stored()).keys[0].kid, force=True)

    assert world.keys.generated == made


async def test_operators_who_race_in_an_emergency_make_one_key_that_signs() -> None:
    world = await new_world()
    racing = [await without_standby(world), Replica(world)]
    signer = (await world.stored()).keys[1]

    outcomes = await asyncio.gather(
        *(revoke(replica, signer.kid, force=True) for replica in racing), return_exceptions=True
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Plan", "RingChangedError"]
    ring = await world.stored()
    assert len(ring.keys) == 3
    assert world.private_keys() == {ring.keys[0].kid, ring.keys[2].kid}


# Issuers and their policies


SHORTER = dataclasses.replace(POLICY, rotation_period=7 * DAY)


async def apply(replica: Replica, policy: Policy, *, iss: str = "https://contoso.example", **said: Any) -> Plan:
    return await replica.administration.apply(mutation(**said), iss, policy)


async def test_an_issuer_that_the_store_does_not_have_is_made_with_two_keys_and_signs_at_once() -> None:
    world = World()
    replica = await world.replica()

    plan = await apply(replica, SHORTER, expected_ring_version=0, reason="new shop")

    ring = await world.stored()
    assert plan.ring == ring == replica.rings.current("contoso")
    assert (ring.version, ring.iss, ring.policy) == (1, "https://contoso.example", SHORTER)
    assert (ring.change.actor, ring.change.action, ring.change.reason) == ("claimed:ada", "made the issuer", "new shop")
    assert world.private_keys() == {key.kid for key in ring.keys}
    assert len(ring.keys) == 2
    assert replica.signing.sign(CALLER, TokenRequest(subject="x")).key_id == ring.keys[0].kid


async def test_the_plan_of_a_new_issuer_makes_nothing() -> None:
    world = World()
    replica = await world.replica()

    plan = await apply(replica, POLICY, expected_ring_version=0, validate_only=True)

    assert (plan.planned_on, plan.new_keys) == (0, 2)
    assert (world.database.rings, world.database.keys, world.keys.generated) == ({}, {}, [])


@pytest.mark.parametrize("validate_only", [False, True])
async def test_an_issuer_that_is_expected_and_not_there_is_not_made(validate_only: bool) -> None:
    world = World()
    replica = await world.replica()

    with pytest.raises(RingChangedError):
        await apply(replica, POLICY, expected_ring_version=3, validate_only=validate_only)

    assert (world.database.rings, world.keys.generated) == ({}, [])


async def test_operators_who_race_to_make_an_issuer_make_one() -> None:
    world = World()
    racing = [await world.replica(), await world.replica()]

    outcomes = await asyncio.gather(
        *(apply(replica, POLICY, expected_ring_version=0) for replica in racing), return_exceptions=True
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Plan", "RingChangedError"]
    assert world.private_keys() == {key.kid for key in (await world.stored()).keys}


async def test_another_policy_is_in_force_at_once_and_makes_no_key() -> None:
    world = await new_world()
    replica = await known(world)
    made = list(world.keys.generated)

    plan = await apply(replica, SHORTER)

    assert plan.ring == await world.stored() == replica.rings.current("contoso")
    assert plan.ring.policy == SHORTER
    assert plan.ring.change.action == "changed the policy"
    assert world.keys.generated == made


@pytest.mark.parametrize("version", [0, 2])
async def test_the_plan_of_another_policy_changes_nothing_and_is_what_the_deed_does(version: int) -> None:
    world = await new_world()
    replica = await known(world)
    ring = await world.stored()

    plan = await apply(replica, SHORTER, expected_ring_version=version, validate_only=True)

    assert await world.stored() == ring
    assert plan == await apply(replica, SHORTER)


async def test_the_policy_that_is_in_force_already_makes_no_version() -> None:
    world = await new_world()
    replica = await known(world)

    plan = await apply(replica, POLICY)

    assert not plan.changes
    assert (await world.stored()).version == 2
    assert "append" not in [operation for operation, _ in replica.store.asked[-2:]]


@pytest.mark.parametrize("version", [0, 1, 3])
async def test_a_policy_is_changed_only_on_the_version_that_the_change_was_planned_on(version: int) -> None:
    world = await new_world()
    replica = await known(world)

    with pytest.raises(RingChangedError):
        await apply(replica, SHORTER, expected_ring_version=version)

    assert (await world.stored()).policy == POLICY


async def test_the_issuer_to_apply_a_policy_to_must_be_named_even_where_there_is_only_one() -> None:
    world = await new_world()
    replica = await known(world)

    with pytest.raises(InvalidRequestError) as refused:
        await apply(replica, SHORTER, issuer="")

    assert field_of(refused.value) == "issuer"
    assert (await world.stored()).version == 2


async def test_a_retired_issuer_signs_no_more_and_its_private_keys_go_with_a_later_pass() -> None:
    world = await new_world()
    replica = await known(world)

    await replica.administration.retire(mutation(reason="shop closed"))

    ring = await world.stored()
    assert ring.retired_at == KNOWN
    assert ring.change.action == "retired the issuer"
    with pytest.raises(UnavailableError):
        replica.signing.sign(CALLER, TokenRequest(subject="x"))
    assert ring.keys[0].kid.encode() in replica.publishing.documents("contoso").jwks.body

    replica.clock.advance(SKEW)
    await replica.maintenance.step()
    assert world.private_keys() == set()
    assert len(world.keys.generated) == 2


async def test_retirement_needs_a_version_and_a_reason() -> None:
    world = await new_world()
    replica = await known(world)

    for said, field in (({"expected_ring_version": 0, "reason": "x"}, "expected_ring_version"), ({}, "reason")):
        with pytest.raises(InvalidRequestError) as refused:
            await replica.administration.retire(mutation(**said))
        assert field_of(refused.value) == field

    assert (await world.stored()).version == 2


# Imported keys


IMPORTED = private_key(20)


async def import_key(replica: Replica, key: bytes = IMPORTED, **said: Any) -> Plan:
    said = {"expected_ring_version": 0} | said
    return await replica.administration.import_key(mutation(**said), "https://contoso.example", POLICY, key)


async def test_an_imported_key_is_the_first_signer_of_a_new_issuer() -> None:
    world = World()
    replica = await world.replica()

    plan = await import_key(replica, reason="moved here")

    ring = await world.stored()
    first, second = ring.keys
    assert plan.ring == ring
    assert ring.change.action == f"made the issuer with the imported key {first.kid}"
    assert world.private_keys() == {first.kid, second.kid}
    assert len(world.keys.generated) == 1
    assert replica.signing.sign(CALLER, TokenRequest(subject="x")).key_id == first.kid


async def test_the_plan_of_an_import_makes_nothing() -> None:
    world = World()
    replica = await world.replica()

    plan = await import_key(replica, validate_only=True)

    assert (plan.planned_on, plan.new_keys) == (0, 1)
    assert (world.database.rings, world.database.keys, world.keys.generated) == ({}, {}, [])


async def test_a_key_is_imported_into_a_new_issuer_only() -> None:
    world = await new_world()
    replica = await known(world)
    ring, private_keys = await world.stored(), world.private_keys()

    with pytest.raises(RefusedError) as refused:
        await import_key(replica)

    assert refused.value.reason == "ISSUER_EXISTS"
    assert (await world.stored(), world.private_keys()) == (ring, private_keys)


async def test_a_key_that_another_issuer_has_or_had_is_not_imported() -> None:
    world = World()
    replica = await world.replica()
    await import_key(replica, issuer="fabrikam")

    with pytest.raises(RefusedError, match="issuer fabrikam has it") as refused:
        await import_key(replica)

    assert refused.value.reason == "KEY_KNOWN"
    assert set(world.database.rings) == {"fabrikam"}


async def test_what_is_no_usable_key_is_refused_and_makes_nothing() -> None:
    world = World()
    replica = await world.replica()
    small = rsa.generate_private_key(65537, 1024).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    with pytest.raises(InvalidRequestError):
        await import_key(replica, small)

    assert (world.database.rings, world.keys.generated) == ({}, [])


# A store that fails


async def test_a_connection_that_is_lost_after_the_commit_is_told_and_the_repeated_command_acts_once() -> None:
    world = await new_world()
    replica = await without_standby(world)
    signer = (await world.stored()).keys[1]
    replica.store.fail("append", after=True)

    with pytest.raises(UnavailableError):
        await revoke(replica, signer.kid, force=True)
    with pytest.raises(RingChangedError):
        await revoke(replica, signer.kid, force=True)

    ring = await replica.administration.ring("contoso")
    assert (ring.version, len(ring.keys)) == (3, 3)
    await replica.rings.refresh()
    assert replica.signing.sign(CALLER, TokenRequest(subject="x")).key_id == ring.keys[-1].kid


async def test_a_change_that_is_made_is_told_as_made_even_where_this_replica_cannot_follow_yet() -> None:
    world = await new_world()
    replica = await known(world)
    replica.store.fail("newest_versions")

    with capture_logs() as logs:
        plan = await rotate(replica)

    assert plan.ring == await world.stored()
    assert [(log["log_level"], log["event"]) for log in logs] == [
        ("warning", "changed, not yet in force on this replica")
    ]
    await replica.rings.refresh()
    assert replica.rings.current("contoso") == plan.ring
