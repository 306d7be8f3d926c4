import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from keyturn_server.crypto.kek import Kek
from keyturn_server.crypto.rsa_keys import RsaPrivateKeys
from tests.unit.crypto.keys import KEK_BYTES, GeneratedKey


@pytest.fixture(scope="session")
def kek() -> Kek:
    return Kek(KEK_BYTES)


@pytest.fixture(scope="session")
def contoso_key(kek: Kek) -> GeneratedKey:
    # Generating RSA keys is slow: once is enough.
    private_keys = RsaPrivateKeys(kek)
    public_key, wrapped = private_keys.generate("contoso", 2048)
    return GeneratedKey(public_key, wrapped, private_keys.unwrap(wrapped, public_key))


@pytest.fixture(scope="session")
def plain_key() -> rsa.RSAPrivateKey:
    """A key that was never wrapped, so that tests may use its private half as they like."""
    return rsa.generate_private_key(65537, 2048)
