import base64
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

from keyturn_server.crypto.kek import Kek, Purpose, associated_data
from keyturn_server.crypto.rsa_keys import RsaPrivateKeys
from keyturn_server.domain.errors import RowRefusedError
from keyturn_server.domain.public_key import PublicKey
from keyturn_server.ports import PrivateKeys, TokenSigner, WrappedKey
from tests.unit.crypto.keys import KEK_BYTES, GeneratedKey, flipped

PAYLOAD = b'{ "sub":"\\u00e4" ,"exp":1}'


def pkcs8(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def unwrapped(kek: Kek, key: WrappedKey) -> rsa.RSAPrivateKey:
    """The private key, without any code of the module under test."""
    plaintext = kek.unwrap(key.wrapped, associated_data(Purpose.PRIVATE_KEY, key.issuer, key.kid, key.kek_id))
    private_key = load_der_private_key(plaintext, password=None)
    assert isinstance(private_key, rsa.RSAPrivateKey)
    return private_key


def rewrapped(kek: Kek, key: WrappedKey, plaintext: bytes) -> WrappedKey:
    """The row with other contents, which the KEK wrapped for its place."""
    place = associated_data(Purpose.PRIVATE_KEY, key.issuer, key.kid, key.kek_id)
    return replace(key, wrapped=kek.wrap(plaintext, place))


def refusal(kek: Kek, key: WrappedKey, public_key: PublicKey) -> str:
    """Why the row is refused, once it is sure that the row is named."""
    with pytest.raises(RowRefusedError) as caught:
        RsaPrivateKeys(kek).unwrap(key, public_key)
    assert caught.value.row == f"private_keys ({key.issuer}, {key.kid})"
    return str(caught.value)


def segment(token: str, index: int) -> bytes:
    text = token.split(".")[index]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_a_token_verifies_with_an_independent_library(contoso_key: GeneratedKey) -> None:
    verified = JWS()
    verified.deserialize(
        contoso_key.signer.sign(PAYLOAD), JWK.from_pem(contoso_key.public_key.pem().encode()), alg="RS256"
    )

    assert verified.payload == PAYLOAD


def test_the_header_has_exactly_alg_kid_and_typ(contoso_key: GeneratedKey) -> None:
    header = segment(contoso_key.signer.sign(PAYLOAD), 0)

    assert header == f'{{"alg":"RS256","kid":"{contoso_key.kid}","typ":"JWT"}}'.encode()


@pytest.mark.parametrize("payload", [PAYLOAD, b"{}", b"", b"\x00\xff not even JSON"])
def test_the_bytes_of_a_payload_are_signed_as_they_are(contoso_key: GeneratedKey, payload: bytes) -> None:
    assert segment(contoso_key.signer.sign(payload), 1) == payload


def test_the_key_has_the_size_and_the_exponent_that_were_asked_for(kek: Kek, contoso_key: GeneratedKey) -> None:
    numbers = unwrapped(kek, contoso_key.wrapped).private_numbers().public_numbers

    assert numbers.n.bit_length() == 2048
    assert PublicKey(numbers.n, 65537) == contoso_key.public_key


def test_the_row_names_issuer_kid_and_kek(kek: Kek, contoso_key: GeneratedKey) -> None:
    row = contoso_key.wrapped

    assert (row.issuer, row.kid, row.kek_id) == ("contoso", contoso_key.public_key.thumbprint(), kek.id)


def test_a_key_that_is_too_small_for_rs256_is_not_made(kek: Kek) -> None:
    with pytest.raises(ValueError, match="at least 2048 bits, not 1024"):
        RsaPrivateKeys(kek).generate("contoso", 1024)


def test_the_kid_is_the_thumbprint_that_an_independent_library_computes(contoso_key: GeneratedKey) -> None:
    jwk = JWK.from_pem(contoso_key.public_key.pem().encode())

    assert contoso_key.kid == jwk.thumbprint()


def test_the_members_of_the_jwk_are_those_of_an_independent_library(contoso_key: GeneratedKey) -> None:
    exported = json.loads(JWK.from_pem(contoso_key.public_key.pem().encode()).export_public())

    assert contoso_key.public_key.members() == {name: exported[name] for name in ("e", "kty", "n")}


def test_the_pem_is_that_of_an_independent_library(kek: Kek, contoso_key: GeneratedKey) -> None:
    public_key = unwrapped(kek, contoso_key.wrapped).public_key()

    pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    assert contoso_key.public_key.pem().encode() == pem


def test_the_adapters_have_the_shape_of_their_ports(kek: Kek, contoso_key: GeneratedKey) -> None:
    private_keys: PrivateKeys = RsaPrivateKeys(kek)
    signer: TokenSigner = private_keys.unwrap(contoso_key.wrapped, contoso_key.public_key)

    assert signer.sign(PAYLOAD) == contoso_key.signer.sign(PAYLOAD)


def test_a_row_that_was_moved_is_refused(kek: Kek, contoso_key: GeneratedKey) -> None:
    row = contoso_key.wrapped

    for moved in (replace(row, issuer="fabrikam"), replace(row, kid="another")):
        assert "it does not decrypt" in refusal(kek, moved, contoso_key.public_key)


def test_a_row_under_another_kek_is_refused_and_both_are_named(kek: Kek, contoso_key: GeneratedKey) -> None:
    other = Kek(bytes(32))

    why = refusal(other, contoso_key.wrapped, contoso_key.public_key)

    assert f"key encryption key {kek.id}, and kek.file holds {other.id}" in why


def test_a_row_that_claims_another_kek_is_refused(contoso_key: GeneratedKey) -> None:
    other = Kek(bytes(32))

    why = refusal(other, replace(contoso_key.wrapped, kek_id=other.id), contoso_key.public_key)

    assert "it does not decrypt" in why


def test_a_change_of_any_byte_is_refused(kek: Kek, contoso_key: GeneratedKey) -> None:
    row = contoso_key.wrapped
    last = len(row.wrapped) - 1
    for position in [*range(16), *range(16, last, 41), *range(last - 16, last + 1)]:
        changed = replace(row, wrapped=flipped(row.wrapped, position))
        assert "it does not decrypt" in refusal(kek, changed, contoso_key.public_key)


@pytest.mark.parametrize("wrapped", [b"", b"PLANTED"])
def test_a_row_that_was_never_wrapped_is_refused(kek: Kek, contoso_key: GeneratedKey, wrapped: bytes) -> None:
    why = refusal(kek, replace(contoso_key.wrapped, wrapped=wrapped), contoso_key.public_key)

    assert "it does not decrypt" in why
    assert "PLANTED" not in why


@pytest.mark.parametrize(
    "plaintext",
    [b"", b"PLANTED", b"0\x82" + bytes(600), pkcs8(ec.generate_private_key(ec.SECP256R1()))],
    ids=["empty", "text", "broken DER", "elliptic curve"],
)
def test_wrapped_bytes_that_are_no_rsa_key_are_refused(kek: Kek, contoso_key: GeneratedKey, plaintext: bytes) -> None:
    why = refusal(kek, rewrapped(kek, contoso_key.wrapped, plaintext), contoso_key.public_key)

    assert "no RSA private key" in why
    assert "PLANTED" not in why


def test_the_private_half_of_another_key_is_refused(
    kek: Kek, contoso_key: GeneratedKey, plain_key: rsa.RSAPrivateKey
) -> None:
    why = refusal(kek, rewrapped(kek, contoso_key.wrapped, pkcs8(plain_key)), contoso_key.public_key)

    assert "not the private half" in why


def test_a_private_key_that_does_not_work_is_refused(kek: Kek, contoso_key: GeneratedKey) -> None:
    numbers = unwrapped(kek, contoso_key.wrapped).private_numbers()
    broken = rsa.RSAPrivateNumbers(
        p=numbers.p,
        q=numbers.q,
        d=numbers.d + 2,
        dmp1=numbers.dmp1 + 2,
        dmq1=numbers.dmq1,
        iqmp=numbers.iqmp,
        public_numbers=numbers.public_numbers,
    ).private_key(unsafe_skip_rsa_key_validation=True)

    why = refusal(kek, rewrapped(kek, contoso_key.wrapped, pkcs8(broken)), contoso_key.public_key)

    assert "a test signature with it does not verify" in why


def test_nothing_that_shows_a_private_key_shows_its_secret(kek: Kek, contoso_key: GeneratedKey) -> None:
    private_key = unwrapped(kek, contoso_key.wrapped)
    der = pkcs8(private_key)
    private_keys = RsaPrivateKeys(kek)
    messages = [
        refusal(kek, replace(contoso_key.wrapped, issuer="fabrikam"), contoso_key.public_key),
        refusal(kek, contoso_key.wrapped, PublicKey(3 * 5, 3)),
        refusal(kek, rewrapped(kek, contoso_key.wrapped, der[:-20]), contoso_key.public_key),
    ]

    shown = " ".join([*messages, *(f"{x!r} {x}" for x in (private_keys, contoso_key.signer, contoso_key.wrapped))])

    secrets = [KEK_BYTES, der[600:632], der[-32:], contoso_key.wrapped.wrapped[100:132]]
    for secret in secrets:
        for form in (repr(secret)[2:-1], secret.hex(), base64.b64encode(secret).decode().rstrip("=")):
            assert form not in shown
    assert str(private_key.private_numbers().d) not in shown
    assert repr(contoso_key.signer) == f"RsaTokenSigner(kid={contoso_key.kid!r})"


def test_what_rests_in_a_row_holds_no_readable_part_of_the_key(kek: Kek, contoso_key: GeneratedKey) -> None:
    numbers = unwrapped(kek, contoso_key.wrapped).private_numbers()

    for number in (numbers.p, numbers.q, numbers.d, numbers.public_numbers.n):
        assert number.to_bytes(256, "big")[-64:] not in contoso_key.wrapped.wrapped
