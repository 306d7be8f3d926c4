import json

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto.jwk import JWK

from keyturn_server.domain.public_key import PublicKey
from tests.rings import public_key


def _odd_number_of_bits(bits: int) -> st.SearchStrategy[int]:
    return st.integers(2 ** (bits - 1), 2**bits - 1).map(lambda number: number | 1)


MODULI = st.one_of(_odd_number_of_bits(1024), st.integers(2041, 2048).flatmap(_odd_number_of_bits))
PUBLIC_KEYS = st.builds(PublicKey, MODULI, st.sampled_from([3, 257, 65537, 2**31 - 1]))


def test_the_thumbprint_is_that_of_the_example_of_rfc_7638() -> None:
    example = JWK(
        kty="RSA",
        e="AQAB",
        n="0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n"
        "3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdA"
        "ZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-k"
        "EgU8awapJzKnqDKgw",
    )
    loaded = load_pem_public_key(example.export_to_pem())
    assert isinstance(loaded, RSAPublicKey)
    numbers = loaded.public_numbers()

    assert PublicKey(numbers.n, numbers.e).thumbprint() == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@given(PUBLIC_KEYS)
def test_the_pem_is_byte_for_byte_that_of_cryptography(key: PublicKey) -> None:
    expected = (
        RSAPublicNumbers(key.exponent, key.modulus)
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )

    assert key.pem().encode() == expected


@given(PUBLIC_KEYS)
def test_jwcrypto_reads_the_same_key_and_thumbprint_from_the_members(key: PublicKey) -> None:
    read = JWK.from_json(json.dumps(key.members()))

    assert read.thumbprint() == key.thumbprint()
    assert read.export_to_pem() == key.pem().encode()


def test_the_members_are_those_that_rfc_7638_hashes_and_no_more() -> None:
    assert public_key(1).members().keys() == {"e", "kty", "n"}


def test_the_pem_is_in_lines_of_64_characters_and_ends_with_a_line_feed() -> None:
    first, *lines, last, rest = public_key(1).pem().split("\n")

    assert (first, last, rest) == ("-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----", "")
    assert {len(line) for line in lines[:-1]} == {64}
    assert 0 < len(lines[-1]) <= 64
