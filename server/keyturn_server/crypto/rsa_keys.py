"""RSA signing keys: made, wrapped under the KEK, proven when they are unwrapped, and used to sign tokens (RS256)."""

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)
from jwt import PyJWS

from keyturn_server.crypto.kek import Kek, Purpose, UnwrapError, associated_data
from keyturn_server.domain.errors import FieldViolation, InvalidRequestError, RowRefusedError
from keyturn_server.domain.public_key import PublicKey
from keyturn_server.ports import TokenSigner, WrappedKey

_ALGORITHM = "RS256"
_EXPONENT = 65537
_LEAST_KEY_SIZE = 2048
_TEST_MESSAGE = b"keyturn test signature 1"
"""It holds no dot, so its signature is the signature of no token (RFC 7515, section 5.1)."""

_JWS = PyJWS(algorithms=[_ALGORITHM])


class RsaTokenSigner:
    """A decrypted private key that signs tokens. It may be used by several threads at once."""

    def __init__(self, private_key: rsa.RSAPrivateKey, kid: str) -> None:
        # PyJWT takes a key object as it is; PEM text it would parse and check again for every token.
        self._private_key = private_key
        self._kid = kid

    def __repr__(self) -> str:
        return f"RsaTokenSigner(kid={self._kid!r})"

    def sign(self, payload: bytes) -> str:
        """The token of a payload whose bytes are signed as they are.

        The header has exactly the members alg (RS256), kid and typ (JWT).
        """
        return _JWS.encode(payload, self._private_key, algorithm=_ALGORITHM, headers={"kid": self._kid})


class RsaPrivateKeys:
    """Private keys that rest as PKCS#8 under one KEK, each bound to its issuer and kid."""

    def __init__(self, kek: Kek) -> None:
        self._kek = kek

    def generate(self, issuer: str, key_size: int) -> tuple[PublicKey, WrappedKey]:
        """A new key of `key_size` bits with exponent 65537. Its kid is its thumbprint.

        Raises ValueError for less than 2048 bits (RFC 7518, section 3.3).
        """
        if key_size < _LEAST_KEY_SIZE:
            raise ValueError(f"an RSA key that signs tokens has at least {_LEAST_KEY_SIZE} bits, not {key_size}")
        return self._wrap(issuer, rsa.generate_private_key(_EXPONENT, key_size))

    def wrap(self, issuer: str, private_key: bytes) -> tuple[PublicKey, WrappedKey]:
        """An existing RSA key (PKCS #8, DER), checked in full and wrapped for this issuer.

        Raises `InvalidRequestError` for one that is too small, has another exponent than 65537, or is no such key.
        """
        try:
            key = load_der_private_key(private_key, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise _not_usable("is not an unencrypted PKCS #8 private key in DER") from None
        return self._wrap(issuer, check_importable(key))

    def _wrap(self, issuer: str, private_key: rsa.RSAPrivateKey) -> tuple[PublicKey, WrappedKey]:
        public_key = _public_key(private_key)
        kid = public_key.thumbprint()
        plaintext = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        wrapped = self._kek.wrap(plaintext, associated_data(Purpose.PRIVATE_KEY, issuer, kid, self._kek.id))
        return public_key, WrappedKey(issuer, kid, self._kek.id, wrapped)

    def unwrap(self, key: WrappedKey, public_key: PublicKey) -> TokenSigner:
        """The signer of a wrapped key, proven by a signature that `public_key` verifies.

        Raises `RowRefusedError` for bytes that this KEK did not wrap for this issuer and kid, and for a private key
        that is not the other half of `public_key`.
        """
        row = f"private_keys ({key.issuer}, {key.kid})"
        if key.kek_id != self._kek.id:
            raise RowRefusedError(
                row, f"it is under key encryption key {key.kek_id}, and kek.file holds {self._kek.id}"
            )
        place = associated_data(Purpose.PRIVATE_KEY, key.issuer, key.kid, key.kek_id)
        try:
            private_key = _load(self._kek.unwrap(key.wrapped, place))
        except UnwrapError:
            raise RowRefusedError(row, "it does not decrypt: it was changed, or belongs to another row") from None
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise RowRefusedError(row, f"what it decrypts to is no RSA private key ({type(error).__name__})") from None
        if _public_key(private_key) != public_key:
            raise RowRefusedError(row, "it is not the private half of the ring's public key")
        if not _signs(private_key, public_key):
            raise RowRefusedError(row, "a test signature with it does not verify")
        return RsaTokenSigner(private_key, key.kid)


def read_private_key(pem: bytes, passphrase: bytes | None) -> bytes:
    """The RSA private key in a PEM text, as PKCS #8 in DER: what `RsaPrivateKeys.wrap` takes.

    Raises `InvalidRequestError` with the reason for a public key, a wrong or missing passphrase, one that is too small
    or has another exponent, and for anything else.
    """
    if b"PRIVATE KEY" not in pem:
        raise _not_usable("is the public half: the private one is needed" if b"-----BEGIN" in pem else "is no PEM text")
    try:
        key = load_pem_private_key(pem, passphrase)
    except TypeError:
        raise _not_usable(
            "is encrypted: a passphrase is needed" if passphrase is None else "is not encrypted"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        why = "cannot be read" if passphrase is None else "cannot be read: is the passphrase the right one?"
        raise _not_usable(why) from None
    return check_importable(key).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def check_importable(key: object) -> rsa.RSAPrivateKey:
    """The key, if it is one that may sign tokens. Raises `InvalidRequestError` with the reason."""
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _not_usable("is not an RSA key: Omnichannel reads RS256 only")
    if key.key_size < _LEAST_KEY_SIZE:
        raise _not_usable(f"has {key.key_size} bits: {_LEAST_KEY_SIZE} or more are needed (RFC 7518, section 3.3)")
    exponent = key.public_key().public_numbers().e
    if exponent != _EXPONENT:
        raise _not_usable(f"has the public exponent {exponent}: only {_EXPONENT} is taken")
    return key


def _not_usable(why: str) -> InvalidRequestError:
    return InvalidRequestError([FieldViolation("private_key", why)])


def _load(plaintext: bytes) -> rsa.RSAPrivateKey:
    # The library's own check costs 50 ms at 2048 bits, minutes for thousands of issuers. These bytes are as keyturn
    # wrapped them, which the KEK has just proven, and the test signature that follows proves the key that they hold.
    private_key = load_der_private_key(plaintext, password=None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(private_key, rsa.RSAPrivateKey):
        raise TypeError("not an RSA key")
    return private_key


def _public_key(private_key: rsa.RSAPrivateKey) -> PublicKey:
    numbers = private_key.public_key().public_numbers()
    return PublicKey(numbers.n, numbers.e)


def _signs(private_key: rsa.RSAPrivateKey, public_key: PublicKey) -> bool:
    verifier = rsa.RSAPublicNumbers(public_key.exponent, public_key.modulus).public_key()
    try:
        verifier.verify(private_key.sign(_TEST_MESSAGE, PKCS1v15(), SHA256()), _TEST_MESSAGE, PKCS1v15(), SHA256())
    except (InvalidSignature, InternalError, ValueError):
        return False
    return True
