import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto.jwk import JWK

from keyturn_server.crypto.verification import VerificationError, verify_token
from keyturn_server.domain.documents import render
from keyturn_server.domain.policy import Policy
from keyturn_server.domain.public_key import PublicKey, base64url
from keyturn_server.domain.ring import Change, Key, Ring
from tests.unit.crypto.keys import GeneratedKey

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
SECOND = timedelta(seconds=1)
CLAIMS = {"iss": "contosohelp.com", "sub": "PLANTED", "iat": SECONDS - 60, "nbf": SECONDS - 60, "exp": SECONDS + 3600}


@dataclass(frozen=True)
class Issuer:
    """A ring of a signer and a standby, its documents, and any token that the signer's key may sign."""

    private_key: rsa.RSAPrivateKey
    kid: str
    jwks: bytes
    key_array: bytes
    pem: bytes

    @property
    def documents(self) -> tuple[bytes, bytes, bytes]:
        return self.jwks, self.key_array, self.pem

    def token(self, payload: bytes, header: bytes = b"", **members: object) -> str:
        """A token whose signature is good. A member of the header that is None is left out."""
        usual = {"alg": "RS256", "kid": self.kid, "typ": "JWT", **members}
        return assembled(header or encoded(usual), payload, self.sign)

    def sign(self, signing_input: bytes) -> bytes:
        return self.private_key.sign(signing_input, padding.PKCS1v15(), hashes.SHA256())


@pytest.fixture(scope="module")
def issuer(plain_key: rsa.RSAPrivateKey, contoso_key: GeneratedKey) -> Issuer:
    numbers = plain_key.public_key().public_numbers()
    signer = PublicKey(numbers.n, numbers.e)
    hour = timedelta(hours=1)
    ring = Ring(
        issuer="contoso",
        iss="contosohelp.com",
        version=1,
        policy=Policy(
            rotation_period=timedelta(days=30),
            propagation_window=24 * hour,
            max_token_lifetime=hour,
            verifier_cache=12 * hour,
            document_max_age=timedelta(minutes=5),
            signing_lease=6 * hour,
            clock_tolerance=timedelta(seconds=60),
        ),
        keys=(
            Key(public_key=signer, kid=signer.thumbprint(), created_at=NOW, max_lifetime=hour, activates_at=NOW),
            Key(public_key=contoso_key.public_key, kid=contoso_key.kid, created_at=NOW, max_lifetime=hour),
        ),
        change=Change(made_at=NOW, actor="test", action="create"),
    )
    rendered = render(ring, NOW)
    assert rendered.pem is not None
    return Issuer(plain_key, signer.thumbprint(), rendered.jwks.body, rendered.key_array.body, rendered.pem.body)


def encoded(members: dict[str, object]) -> bytes:
    return json.dumps({name: value for name, value in members.items() if value is not None}).encode()


def claims(**changes: object) -> bytes:
    """A good payload with some claims changed, and those that are None left out."""
    return encoded({**CLAIMS, **changes})


def assembled(header: bytes, payload: bytes, sign: Callable[[bytes], bytes]) -> str:
    signing_input = f"{base64url(header)}.{base64url(payload)}"
    return f"{signing_input}.{base64url(sign(signing_input.encode()))}"


def assert_refused(check: str, token: str, document: bytes, *, now: datetime = NOW, **options: Any) -> str:
    """That one check refuses the token; returns the message, once it is sure that it holds nothing of the token."""
    with pytest.raises(VerificationError) as caught:
        verify_token(token, document, now=now, **options)
    assert caught.value.check == check
    assert caught.value.metadata == {"check": check}
    message = str(caught.value)
    assert "PLANTED" not in message
    assert not any(segment in message for segment in token.split(".") if len(segment) > 2)
    return message


@pytest.mark.parametrize("index", range(3), ids=["jwks", "key array", "pem"])
def test_a_token_verifies_against_each_public_document(issuer: Issuer, index: int) -> None:
    assert verify_token(issuer.token(claims()), issuer.documents[index], now=NOW) == CLAIMS


def test_a_token_of_the_service_verifies_against_the_documents_that_list_its_key(
    issuer: Issuer, contoso_key: GeneratedKey
) -> None:
    token = contoso_key.signer.sign(claims())

    assert verify_token(token, issuer.jwks, now=NOW) == verify_token(token, issuer.key_array, now=NOW) == CLAIMS
    assert_refused("signature", token, issuer.pem)


def test_a_document_of_an_independent_library_is_read_as_well(issuer: Issuer) -> None:
    jwk = JWK.from_pem(issuer.pem).export_public(as_dict=True)
    document = json.dumps({"keys": [{**jwk, "kid": issuer.kid}]}).encode()

    assert verify_token(issuer.token(claims()), document, now=NOW) == CLAIMS


@pytest.mark.parametrize("position", [0, 40, 120, 200, 300, -1])
def test_a_change_of_any_character_is_refused(issuer: Issuer, position: int) -> None:
    token = issuer.token(claims())
    characters = list(token)
    characters[position] = "B" if characters[position] == "A" else "A"

    with pytest.raises(VerificationError):
        verify_token("".join(characters), issuer.jwks, now=NOW)


def test_the_signature_of_another_key_under_a_published_kid_is_refused(
    issuer: Issuer, contoso_key: GeneratedKey
) -> None:
    token = issuer.token(claims(), kid=contoso_key.kid)

    for document in (issuer.jwks, issuer.key_array):
        assert_refused("signature", token, document)


@pytest.mark.parametrize("token", ["", "PLANTED", "a.b", "a.b.c.d", "a.b.c", "..", "é.é.é", "eyJ9.eyJ9.=", "\ud800.."])
def test_what_has_not_the_form_of_a_token_is_refused(issuer: Issuer, token: str) -> None:
    with pytest.raises(VerificationError, match=r"^(form|header): "):
        verify_token(token, issuer.jwks, now=NOW)


@pytest.mark.parametrize("mark", ["=", " ", "\n", "+", "!"])
@pytest.mark.parametrize("part", range(3))
def test_base64url_has_one_form(issuer: Issuer, part: int, mark: str) -> None:
    parts = issuer.token(claims()).split(".")
    parts[part] += mark

    assert_refused("form", ".".join(parts), issuer.jwks)


def test_the_unused_bits_of_base64url_are_zero(issuer: Issuer) -> None:
    token = issuer.token(claims())  # 256 bytes of signature leave four unused bits.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    assert_refused("form", token[:-1] + alphabet[alphabet.index(token[-1]) + 1], issuer.jwks)


def test_the_algorithm_is_not_the_tokens_choice(issuer: Issuer) -> None:
    def none(_: bytes) -> bytes:
        return b""

    def hs256(message: bytes) -> bytes:
        return hmac.digest(issuer.pem, message, hashlib.sha256)

    def rs512(message: bytes) -> bytes:
        return issuer.private_key.sign(message, padding.PKCS1v15(), hashes.SHA512())

    def ps256(message: bytes) -> bytes:
        return issuer.private_key.sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())

    for alg, sign in [("none", none), ("HS256", hs256), ("RS512", rs512), ("PS256", ps256)]:
        for document in issuer.documents:
            header = encoded({"alg": alg, "kid": issuer.kid, "typ": "JWT"})
            assert_refused("alg", assembled(header, claims(), sign), document)
            pretender = encoded({"alg": "RS256", "kid": issuer.kid, "typ": "JWT"})
            assert_refused("signature", assembled(pretender, claims(), sign), document)


@pytest.mark.parametrize(
    ("check", "members"),
    [
        ("alg", {"alg": None}),
        ("alg", {"alg": "rs256"}),
        ("alg", {"alg": ["RS256"]}),
        ("typ", {"typ": None}),
        ("typ", {"typ": "at+jwt"}),
        ("typ", {"typ": "jwt"}),
        ("kid", {"kid": None}),
        ("kid", {"kid": 7}),
        ("kid", {"kid": ""}),
        ("crit", {"crit": ["exp"], "exp": 1}),
        ("crit", {"crit": []}),
        ("crit", {"b64": False}),
    ],
)
def test_the_header_is_that_of_an_rs256_token(issuer: Issuer, check: str, members: dict[str, Any]) -> None:
    assert_refused(check, issuer.token(claims(), **members), issuer.jwks)


def test_a_pem_needs_no_kid(issuer: Issuer) -> None:
    assert verify_token(issuer.token(claims(), kid=None), issuer.pem, now=NOW) == CLAIMS


def test_an_unknown_kid_is_named_and_cut_short(issuer: Issuer) -> None:
    for document in (issuer.jwks, issuer.key_array):
        message = assert_refused("kid", issuer.token(claims(), kid="stranger\n" + "x" * 1000), document)
        assert message == f"kid: the document has no key 'stranger\\n{'x' * 55}' among its 2"


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"null", b"PLANTED", b"\xff", b"\xef\xbb\xbf{}", b'{"exp":NaN}', b'{"a":-Infinity}', b"[" * 100_000],
)
def test_a_payload_that_is_no_json_object_is_refused(issuer: Issuer, payload: bytes) -> None:
    assert_refused("payload", issuer.token(payload), issuer.jwks)


@pytest.mark.parametrize("header", [b"[]", b"PLANTED", b"\xff", b"[" * 100_000])
def test_a_header_that_is_no_json_object_is_refused(issuer: Issuer, header: bytes) -> None:
    assert_refused("header", issuer.token(claims(), header), issuer.jwks)


@pytest.mark.parametrize("member", ['"sub":"PLANTED"', '"exp":1', '"x":{"y":1,"y":1}', '"\\u0073ub":1'])
def test_duplicate_members_of_a_payload_are_refused(issuer: Issuer, member: str) -> None:
    payload = claims()[:-1] + f",{member}}}".encode()

    message = assert_refused("payload", issuer.token(payload), issuer.jwks)

    assert "two members of one name" in message


def test_duplicate_members_of_a_header_are_refused(issuer: Issuer) -> None:
    header = f'{{"alg":"none","alg":"RS256","kid":"{issuer.kid}","typ":"JWT"}}'.encode()

    assert "two members of one name" in assert_refused("header", issuer.token(claims(), header), issuer.jwks)


def test_a_token_is_valid_from_nbf_until_just_before_exp(issuer: Issuer) -> None:
    token = issuer.token(claims(nbf=SECONDS, exp=SECONDS + 10))

    assert assert_refused("nbf", token, issuer.pem, now=NOW - SECOND).endswith("for another 1 seconds")
    assert verify_token(token, issuer.pem, now=NOW)
    assert verify_token(token, issuer.pem, now=NOW + 9.9 * SECOND)
    assert_refused("exp", token, issuer.pem, now=NOW + 10 * SECOND)
    assert assert_refused("exp", token, issuer.pem, now=NOW + 75 * SECOND).endswith("65 seconds ago")


def test_leeway_stretches_both_ends(issuer: Issuer) -> None:
    token = issuer.token(claims(nbf=SECONDS, exp=SECONDS + 10))
    leeway = 5 * SECOND

    assert_refused("nbf", token, issuer.pem, now=NOW - 6 * SECOND, leeway=leeway)
    assert verify_token(token, issuer.pem, now=NOW - 5 * SECOND, leeway=leeway)
    assert verify_token(token, issuer.pem, now=NOW + 14 * SECOND, leeway=leeway)
    assert assert_refused("exp", token, issuer.pem, now=NOW + 15 * SECOND, leeway=leeway).endswith("5 seconds ago")


@pytest.mark.parametrize("value", ["1794000000", True, [], {}, "PLANTED", 10**400, -(10**400), 1e300])
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_times_are_numbers(issuer: Issuer, name: str, value: object) -> None:
    assert_refused(name, issuer.token(claims(**{name: value})), issuer.pem)


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("text", ["null", "1e400", "-1e400"])
def test_times_are_finite_numbers_and_not_null(issuer: Issuer, name: str, text: str) -> None:
    payload = claims(**{name: None})[:-1] + f',"{name}":{text}}}'.encode()

    assert_refused(name, issuer.token(payload), issuer.pem)


def test_exp_is_needed_and_nbf_and_iat_are_not(issuer: Issuer) -> None:
    assert_refused("exp", issuer.token(claims(exp=None)), issuer.pem)
    assert verify_token(issuer.token(claims(nbf=None, iat=None)), issuer.pem, now=NOW)


@pytest.mark.parametrize("value", [None, "contosohelp.com/", "PLANTED", ["contosohelp.com"]])
def test_another_iss_is_refused_where_one_is_expected(issuer: Issuer, value: object) -> None:
    token = issuer.token(claims(iss=value))

    assert verify_token(token, issuer.pem, now=NOW)
    assert_refused("iss", token, issuer.pem, iss="contosohelp.com")


def test_the_iss_that_is_expected_passes(issuer: Issuer) -> None:
    assert verify_token(issuer.token(claims()), issuer.pem, now=NOW, iss="contosohelp.com") == CLAIMS


@pytest.mark.parametrize("value", ["chat", ["chat"], ["other", "chat"]])
def test_an_audience_is_one_name_or_one_of_several(issuer: Issuer, value: object) -> None:
    assert verify_token(issuer.token(claims(aud=value)), issuer.pem, now=NOW, audience="chat")["aud"] == value


@pytest.mark.parametrize("value", [None, "chats", "PLANTED", ["other"], [], {"chat": 1}, 7])
def test_another_audience_is_refused_where_one_is_expected(issuer: Issuer, value: object) -> None:
    assert_refused("aud", issuer.token(claims(aud=value)), issuer.pem, audience="chat")


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b'{"keys":{}}',
        b"null",
        b"<html>",
        b"\xff",
        b"[" * 100_000,
        b'{"keys":[],"keys":[]}',
        b"-----BEGIN PUBLIC KEY-----",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_public_document_is_refused(issuer: Issuer, document: bytes) -> None:
    assert_refused("document", issuer.token(claims()), document)


@pytest.mark.parametrize("document", [b"[]", b'{"keys":[]}', b'[1,null,"PLANTED"]', b'{"keys":[[]]}'])
def test_a_document_without_the_key_is_no_proof(issuer: Issuer, document: bytes) -> None:
    assert_refused("kid", issuer.token(claims()), document)


@pytest.mark.parametrize(
    "changes",
    [
        {"kty": "EC"},
        {"kty": None},
        {"use": "enc"},
        {"alg": "PS256"},
        {"n": None},
        {"n": 7},
        {"n": ""},
        {"n": "é"},
        {"n": base64url(bytes([0xFF]) * 128)},
        {"e": "AQ"},
        {"d": "AQAB"},
        {"p": "AQAB"},
    ],
    ids=str,
)
def test_a_jwk_that_is_no_rs256_public_key_is_refused(issuer: Issuer, changes: dict[str, object]) -> None:
    good = next(key for key in json.loads(issuer.jwks)["keys"] if key["kid"] == issuer.kid)
    bad = {name: value for name, value in {**good, **changes}.items() if value is not None}

    assert_refused("document", issuer.token(claims()), json.dumps({"keys": [bad]}).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"publicKey": None},
        {"publicKey": 7},
        {"publicKey": "PLANTED!"},
        {"publicKey": base64.b64encode(b"PLANTED").decode()},
        {"expiry": None},
        {"expiry": str(SECONDS + 1)},
        {"expiry": SECONDS},
    ],
    ids=str,
)
def test_an_array_entry_that_is_no_public_key_or_has_expired_is_refused(
    issuer: Issuer, changes: dict[str, object]
) -> None:
    good = next(key for key in json.loads(issuer.key_array) if key["kid"] == issuer.kid)
    bad = {name: value for name, value in {**good, **changes}.items() if value is not None}

    assert_refused("document", issuer.token(claims()), json.dumps([bad]).encode())


def test_an_array_entry_is_good_until_its_expiry(issuer: Issuer) -> None:
    good = next(key for key in json.loads(issuer.key_array) if key["kid"] == issuer.kid)
    document = json.dumps([{**good, "expiry": SECONDS + 1}]).encode()

    assert verify_token(issuer.token(claims()), document, now=NOW)
    assert verify_token(issuer.token(claims()), document, now=NOW + SECOND, leeway=SECOND)
    assert_refused("document", issuer.token(claims()), document, now=NOW + SECOND)


def test_two_keys_of_one_kid_are_refused(issuer: Issuer) -> None:
    keys = [{**key, "kid": issuer.kid} for key in json.loads(issuer.jwks)["keys"]]

    message = assert_refused("document", issuer.token(claims()), json.dumps({"keys": keys}).encode())

    assert message == "document: it has 2 keys of the token's kid"


def test_a_published_private_key_is_called_what_it_is(issuer: Issuer) -> None:
    private_jwk = JWK.from_pyca(issuer.private_key).export_private(as_dict=True)
    document = json.dumps({"keys": [{**private_jwk, "kid": issuer.kid}]}).encode()

    message = assert_refused("document", issuer.token(claims()), document)

    assert "holds the private half" in message
    assert private_jwk["d"] not in message


def test_a_published_pem_stands_in_strict_base64(issuer: Issuer) -> None:
    good = next(key for key in json.loads(issuer.key_array) if key["kid"] == issuer.kid)
    document = json.dumps([{**good, "publicKey": good["publicKey"] + "\n"}]).encode()

    assert assert_refused("document", issuer.token(claims()), document).endswith("is not base64")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("private", "is not an RSA public key in PEM"),
        ("elliptic curve", "is not an RSA public key in PEM"),
        ("1024 bits", "has less than 2048 bits"),
    ],
)
def test_a_pem_that_is_no_rs256_public_key_is_refused(issuer: Issuer, kind: str, why: str) -> None:
    def public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
        return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    document = {
        "private": lambda: issuer.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "elliptic curve": lambda: public(ec.generate_private_key(ec.SECP256R1())),
        "1024 bits": lambda: public(rsa.generate_private_key(65537, 1024)),
    }[kind]()

    assert assert_refused("document", issuer.token(claims()), document).endswith(why)


@settings(deadline=None)
@given(st.text(alphabet="eyJ9.=A-_ é", max_size=30), st.sampled_from([b"[]", b'{"keys":[]}']))
def test_arbitrary_text_is_refused_and_never_an_error_of_another_kind(token: str, document: bytes) -> None:
    with pytest.raises(VerificationError):
        verify_token(token, document, now=NOW)
