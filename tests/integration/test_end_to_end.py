"""From an empty folder to a token that independent verifiers accept, over restart, rotation and revocation."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from jwcrypto.common import JWException

from keyturn import ContextValue, SignedToken
from tests.integration.deployment import TINY_POLICY, Deployment
from tests.integration.verifiers import array_keys, jwks_keys, pem_keys, verify_with_jwcrypto, verify_with_pyjwt

SUBJECT = "87b4d06c-abc2-e811-a9b0-000d3a10e09e"
CONTEXT = {"msdyn_cartvalue": "10000", "msdyn_isvip": "false"}


def sign(deployment: Deployment) -> SignedToken:
    with deployment.client() as client:
        return client.sign(subject=SUBJECT, context=CONTEXT)


def test_a_token_verifies_from_each_of_the_three_documents_with_independent_libraries(served: Deployment) -> None:
    signed = sign(served)
    jwks = served.document("contoso/.well-known/jwks.json")
    array = served.document("contoso/publickey")
    claims = verify_with_pyjwt(signed.token, jwks)
    assert claims == verify_with_jwcrypto(signed.token, jwks_keys(jwks))
    assert claims == verify_with_jwcrypto(signed.token, array_keys(array))
    assert claims == verify_with_jwcrypto(signed.token, pem_keys(served.document("contoso/publickey.pem")))
    entry = next(entry for entry in json.loads(array) if entry["kid"] == signed.key_id)
    assert entry["expiry"] >= claims["exp"]


def test_the_token_says_what_was_asked_and_nothing_more(served: Deployment) -> None:
    before = datetime.now(UTC)
    signed = sign(served)
    assert jwt.get_unverified_header(signed.token) == {"alg": "RS256", "typ": "JWT", "kid": signed.key_id}
    claims = jwt.decode(signed.token, options={"verify_signature": False})
    assert json.loads(claims.pop("lwicontexts")) == CONTEXT
    issued_at = int(signed.issued_at.timestamp())
    assert claims == {
        "iss": "contosohelp.com",
        "sub": SUBJECT,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": int(signed.expires_at.timestamp()),
        "jti": signed.token_id,
    }
    lifetime = signed.expires_at - before
    assert timedelta(minutes=15, seconds=-1) <= lifetime <= timedelta(minutes=15, seconds=10)


def test_context_of_any_script_travels_as_ascii(served: Deployment) -> None:
    context: dict[str, ContextValue] = {"msdyn_isvip": 'ja, „sehr" – 客 \U0001f600', "msdyn_cartvalue": 12.5}
    with served.client() as client:
        signed = client.sign(subject="Zoë", context=context)
    payload = jwt.api_jws.PyJWS().decode_complete(signed.token, options={"verify_signature": False})["payload"]
    assert payload.isascii()
    assert json.loads(json.loads(payload)["lwicontexts"]) == context


async def test_the_asynchronous_client_signs_too(served: Deployment) -> None:
    async with served.async_client() as client:
        signed = await client.sign(subject=SUBJECT, context=CONTEXT, lifetime=timedelta(minutes=1))
    assert verify_with_pyjwt(signed.token, served.document("contoso/.well-known/jwks.json"))["sub"] == SUBJECT


def test_tokens_and_keys_outlive_a_restart(deployment: Deployment) -> None:
    deployment.start()
    signed, kids = sign(deployment), deployment.jwks_kids()
    assert deployment.stop() == 0
    deployment.start()
    assert deployment.jwks_kids() == kids
    verify_with_pyjwt(signed.token, deployment.document("contoso/.well-known/jwks.json"))
    assert sign(deployment).key_id == signed.key_id


def test_a_rotation_before_its_time_is_refused_with_the_earliest_safe_time(served: Deployment) -> None:
    before = served.keys("list")["keys"][0]
    refused = served.keyturn("keys", "rotate")
    assert refused.returncode == 1
    assert "is not known to every verifier before 20" in refused.stderr
    assert served.keys("list")["keys"][0] == before


def test_a_dry_run_changes_nothing(served: Deployment) -> None:
    before = served.keys("list")
    plan = served.keys("rotate", "--dry-run", "--force", "--reason", "looking")
    assert not plan["done"]
    assert plan["plan"]["ring_version"] == before["version"]
    assert [key["state"] for key in plan["ring"]["keys"]] == ["KEY_STATE_DEACTIVATED", "KEY_STATE_ACTIVE"]
    assert served.keys("list")["version"] == before["version"]


def test_a_forced_rotation_signs_with_the_standby_and_keeps_the_old_key_published(deployment: Deployment) -> None:
    deployment.start()
    old = sign(deployment)
    first, second = deployment.jwks_kids()
    assert old.key_id == first
    rotated = deployment.keys("rotate", "--force", "--reason", "trying it out")
    assert rotated["done"]
    new = sign(deployment)
    assert new.key_id == second
    jwks = deployment.document("contoso/.well-known/jwks.json")
    verify_with_pyjwt(new.token, jwks)
    verify_with_pyjwt(old.token, jwks)
    verify_with_jwcrypto(new.token, pem_keys(deployment.document("contoso/publickey.pem")))


def test_a_revoked_signer_leaves_the_documents_and_the_standby_takes_over(deployment: Deployment) -> None:
    deployment.start()
    old = sign(deployment)
    refused = deployment.keyturn("keys", "revoke", old.key_id, "--reason", "leaked")
    assert refused.returncode == 1
    assert "force" in refused.stderr
    deployment.keys("revoke", old.key_id, "--reason", "leaked", "--force")
    assert old.key_id not in deployment.jwks_kids()
    assert old.key_id.encode() not in deployment.document("contoso/publickey")
    new = sign(deployment)
    jwks = deployment.document("contoso/.well-known/jwks.json")
    verify_with_pyjwt(new.token, jwks)
    with pytest.raises((KeyError, JWException)):
        verify_with_pyjwt(old.token, jwks)
    states = {key["key_id"]: key["state"] for key in deployment.keys("list")["keys"]}
    assert states[old.key_id] == "KEY_STATE_COMPROMISED"
    assert states[new.key_id] == "KEY_STATE_ACTIVE"


def test_keys_rotate_by_themselves_when_their_period_is_over(tmp_path: Path) -> None:
    tiny = Deployment(tmp_path / "tiny", **TINY_POLICY)
    tiny.start()
    first = sign(tiny)
    seen = {first.key_id}
    with tiny.client() as client:
        while len(seen) < 2:
            signed = client.sign(subject=SUBJECT)
            verify_with_pyjwt(signed.token, tiny.document("contoso/.well-known/jwks.json"))
            seen.add(signed.key_id)
    assert first.key_id in tiny.jwks_kids()
    assert tiny.stop() == 0
