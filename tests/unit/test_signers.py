import dataclasses

import jwt
import pytest
from structlog.testing import capture_logs

from keyturn_server.domain.errors import UnavailableError
from keyturn_server.domain.ring import Key
from keyturn_server.ports import WrappedKey
from tests.replicas import Replica, new_world
from tests.rings import NOW


def changed(key: Key, **facts: object) -> Key:
    return dataclasses.replace(key, **facts)  # type: ignore[arg-type]


async def test_a_loaded_key_signs_what_its_public_half_verifies() -> None:
    world = await new_world()
    ring = await world.stored()
    replica = Replica(world)

    await replica.signers.load(ring)

    for key in ring.keys:
        token = replica.signers.find("contoso", key.kid).sign(b'{"sub":"x"}')
        jwk = jwt.PyJWK({**key.public_key.members(), "alg": "RS256"})
        assert jwt.decode(token, jwk) == {"sub": "x"}
        assert jwt.get_unverified_header(token)["kid"] == key.kid


async def test_only_keys_that_are_not_here_yet_are_read_and_unwrapped() -> None:
    world = await new_world()
    ring = await world.stored()
    replica = Replica(world)
    await replica.signers.load(ring)
    public_key, wrapped = world.keys.generate("contoso", 2048)
    world.database.keys["contoso", wrapped.kid] = wrapped
    fresh = changed(ring.keys[1], public_key=public_key, kid=wrapped.kid)

    await replica.signers.load(ring)
    assert replica.store.asked == [("wrapped_keys", ("contoso",))]

    await replica.signers.load(dataclasses.replace(ring, keys=(*ring.keys, fresh)))
    assert world.keys.unwrapped == [*(key.kid for key in ring.keys), fresh.kid]


@pytest.mark.parametrize("facts", [{"revoked_at": NOW}, {"destroyed_at": NOW}])
async def test_a_key_that_is_revoked_or_destroyed_is_let_go_of_and_not_loaded_again(facts: dict[str, object]) -> None:
    world = await new_world()
    ring = await world.stored()
    replica = Replica(world)
    await replica.signers.load(ring)
    signer, standby = ring.keys
    without = dataclasses.replace(ring, keys=(changed(signer, **facts), standby))

    replica.signers.retain(without)
    await replica.signers.load(without)

    assert not replica.holds("contoso", signer.kid)
    assert replica.holds("contoso", standby.kid)


async def test_letting_go_of_one_issuers_keys_leaves_those_of_others() -> None:
    world = await new_world("contoso", "fabrikam")
    contoso, fabrikam = await world.stored("contoso"), await world.stored("fabrikam")
    replica = Replica(world)
    await replica.signers.load(contoso)
    await replica.signers.load(fabrikam)

    replica.signers.retain(dataclasses.replace(contoso, keys=()))

    assert replica.holds("fabrikam", fabrikam.keys[0].kid)


async def test_a_key_is_found_under_its_own_issuer_only() -> None:
    world = await new_world("contoso", "fabrikam")
    contoso = await world.stored("contoso")
    replica = Replica(world)
    await replica.signers.load(contoso)
    await replica.signers.load(await world.stored("fabrikam"))

    assert not replica.holds("fabrikam", contoso.keys[0].kid)


@pytest.mark.parametrize("damage", ["lost", "changed", "of another issuer", "of another key"])
async def test_a_private_key_that_cannot_be_used_suffers_alone_and_is_named_once(damage: str) -> None:
    world = await new_world("contoso", "fabrikam")
    ring = await world.stored()
    bad, good = (key.kid for key in ring.keys)
    row = world.database.keys.pop(("contoso", bad))
    others = {
        "changed": dataclasses.replace(row, wrapped=row.wrapped + b"!"),
        "of another issuer": next(key for (issuer, _), key in world.database.keys.items() if issuer == "fabrikam"),
        "of another key": world.database.keys["contoso", good],
    }
    if damage in others:
        world.database.keys["contoso", bad] = WrappedKey("contoso", bad, row.kek_id, others[damage].wrapped)
    replica = Replica(world)

    with capture_logs() as logs:
        await replica.signers.load(ring)
        await replica.signers.load(ring)

    assert replica.holds("contoso", good)
    with pytest.raises(UnavailableError, match=bad) as unusable:
        replica.signers.find("contoso", bad)
    assert unusable.value.reason == "KEY_UNUSABLE"
    assert [(log["log_level"], log["kid"], log["row"]) for log in logs] == [
        ("error", bad, f"private_keys (contoso, {bad})")
    ]


async def test_a_private_key_that_is_put_back_is_usable_from_the_next_load_on() -> None:
    world = await new_world()
    ring = await world.stored()
    kid = ring.keys[0].kid
    row = world.database.keys.pop(("contoso", kid))
    replica = Replica(world)
    await replica.signers.load(ring)

    world.database.keys["contoso", kid] = row
    await replica.signers.load(ring)

    assert replica.holds("contoso", kid)


async def test_nothing_is_made_in_the_place_of_a_key_that_is_missing() -> None:
    world = await new_world()
    ring = await world.stored()
    world.database.keys.clear()
    made = list(world.keys.generated)

    await Replica(world).signers.load(ring)

    assert world.keys.generated == made
    assert world.database.keys == {}


async def test_a_store_that_does_not_answer_is_told_as_such_and_the_next_load_goes_on() -> None:
    world = await new_world()
    ring = await world.stored()
    replica = Replica(world)
    replica.store.fail("wrapped_keys")

    with pytest.raises(UnavailableError):
        await replica.signers.load(ring)
    await replica.signers.load(ring)

    assert replica.holds("contoso", ring.keys[0].kid)
