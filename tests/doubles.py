"""What stands in for the machine in tests: a clock, private keys, a seal, and a connection that can be lost.

Each implements a seam of `keyturn_server.ports` and keeps its promises. They wait for nothing but what a test tells
them to, so they can be run under virtual time.
"""

import hashlib
import hmac
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from keyturn_server.crypto.rsa_keys import RsaTokenSigner, check_importable
from keyturn_server.domain.errors import RowRefusedError, UnavailableError
from keyturn_server.domain.public_key import PublicKey
from keyturn_server.ports import SealedRing, Stamp, Store, TokenSigner, WrappedKey
from tests.rings import NOW

T = TypeVar("T")


@dataclass
class ManualClock:
    """A clock that stands still until a test moves it. Its two times are independent: set one to step it alone."""

    time: datetime = NOW
    uptime: float = 1000.0
    """Seconds, as `elapsed` tells them."""

    def now(self) -> datetime:
        return self.time

    def elapsed(self) -> float:
        return self.uptime

    def advance(self, by: timedelta) -> None:
        """Lets time pass: both times move."""
        self.time += by
        self.uptime += by.total_seconds()


@dataclass(frozen=True)
class HmacSeal:
    """Signs rings with a shared secret. Seals of different secrets do not recognise each other."""

    secret: bytes = b"a secret of these tests"

    def seal(self, body: bytes) -> bytes:
        return hmac.digest(self.secret, body, hashlib.sha256)

    def check(self, body: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(self.seal(body), signature)


class _Pool:
    """Real RSA keys of 2048 bits, numbered, made once for the process.

    Generating a key is what takes time, so each key is made of two of a few primes: 28 keys cost 4 generations. Keys
    that share primes protect nothing.
    """

    def __init__(self) -> None:
        self._primes: list[int] = []
        self._keys: list[rsa.RSAPrivateKey] = []
        self._lock = threading.Lock()

    def __getitem__(self, number: int) -> rsa.RSAPrivateKey:
        with self._lock:
            while number >= len(self._keys):
                self._grow()
            return self._keys[number]

    def _grow(self) -> None:
        numbers = rsa.generate_private_key(65537, 2048).private_numbers()
        for prime in (numbers.p, numbers.q):
            self._keys += [_private_key(prime, other) for other in self._primes]
            self._primes.append(prime)


def _private_key(p: int, q: int) -> rsa.RSAPrivateKey:
    d = rsa.rsa_recover_private_exponent(65537, p, q)
    numbers = rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=rsa.rsa_crt_dmp1(d, p),
        dmq1=rsa.rsa_crt_dmq1(d, q),
        iqmp=rsa.rsa_crt_iqmp(p, q),
        public_numbers=rsa.RSAPublicNumbers(65537, p * q),
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


_POOL = _Pool()


def private_key(number: int) -> bytes:
    """A key of the pool, as an operator would import it: PKCS #8 in DER."""
    return _POOL[number].private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


class PooledKeys:
    """Private keys out of a pool, always in the same order; what is wrapped is only a reference to one of them.

    Replicas of one deployment share one of these, as they share a key encryption key. All keys have 2048 bits;
    `generated` tells who asked for how many.
    """

    KEK_ID = "pool"

    def __init__(self) -> None:
        self.generated: list[tuple[str, int]] = []
        """The issuer and the size of each key, in the order in which they were made."""
        self.unwrapped: list[str] = []
        """The kid of each key that was unwrapped, refused ones included."""
        self._wrapped: dict[PublicKey, rsa.RSAPrivateKey] = {}
        self._lock = threading.Lock()

    def generate(self, issuer: str, key_size: int) -> tuple[PublicKey, WrappedKey]:
        with self._lock:
            number = len(self.generated)
            self.generated.append((issuer, key_size))
        return self._wrap(issuer, _POOL[number])

    def wrap(self, issuer: str, private_key: bytes) -> tuple[PublicKey, WrappedKey]:
        # The library's own check of a key takes longer than most tests.
        key = load_der_private_key(private_key, password=None, unsafe_skip_rsa_key_validation=True)
        return self._wrap(issuer, check_importable(key))

    def unwrap(self, key: WrappedKey, public_key: PublicKey) -> TokenSigner:
        self.unwrapped.append(key.kid)
        found = self._wrapped.get(public_key)
        if found is None or key.kid != public_key.thumbprint() or key.wrapped != _reference(key.issuer, key.kid):
            raise RowRefusedError(f"private_keys ({key.issuer}, {key.kid})", "it was not wrapped for this place")
        return RsaTokenSigner(found, key.kid)

    def _wrap(self, issuer: str, key: rsa.RSAPrivateKey) -> tuple[PublicKey, WrappedKey]:
        numbers = key.public_key().public_numbers()
        public_key = PublicKey(numbers.n, numbers.e)
        self._wrapped[public_key] = key
        kid = public_key.thumbprint()
        return public_key, WrappedKey(issuer, kid, self.KEK_ID, _reference(issuer, kid))


def _reference(issuer: str, kid: str) -> bytes:
    return f"the key {kid} of the pool, for {issuer}".encode()


Operation = Literal["read_stamp", "write_stamp", "newest_versions", "newest_rings", "append", "wrapped_keys"]


@dataclass
class _Failure:
    operation: Operation
    issuer: str | None
    after: bool
    times: int


@dataclass
class FailingStore:
    """Any store, behind a connection that is lost when a test says so. It notes what it was asked."""

    store: Store
    reachable: bool = True
    """False: every operation fails, and nothing is done."""
    asked: list[tuple[Operation, tuple[str, ...]]] = field(default_factory=list)
    """Each operation, and the issuers that it was about."""
    before_answer: dict[Operation, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    """What happens between the moment at which an operation is done and the arrival of its answer."""
    _failures: list[_Failure] = field(default_factory=list)

    def fail(self, operation: Operation, *, issuer: str | None = None, after: bool = False, times: int = 1) -> None:
        """Lets the next `times` of this operation (of this issuer, of any) fail: before they are done, or after."""
        self._failures.append(_Failure(operation, issuer, after, times))

    async def read_stamp(self) -> Stamp | None:
        return await self._through("read_stamp", (), self.store.read_stamp)

    async def write_stamp(self, stamp: Stamp) -> None:
        await self._through("write_stamp", (), lambda: self.store.write_stamp(stamp))

    async def newest_versions(self) -> Mapping[str, int]:
        return await self._through("newest_versions", (), self.store.newest_versions)

    async def newest_rings(self, issuers: Collection[str]) -> Sequence[SealedRing]:
        return await self._through("newest_rings", tuple(issuers), lambda: self.store.newest_rings(issuers))

    async def append(self, ring: SealedRing, *, add: Sequence[WrappedKey] = (), remove: Collection[str] = ()) -> None:
        await self._through("append", (ring.issuer,), lambda: self.store.append(ring, add=add, remove=remove))

    async def wrapped_keys(self, issuer: str) -> Sequence[WrappedKey]:
        return await self._through("wrapped_keys", (issuer,), lambda: self.store.wrapped_keys(issuer))

    async def close(self) -> None:
        await self.store.close()

    async def _through(self, operation: Operation, issuers: tuple[str, ...], do: Callable[[], Awaitable[T]]) -> T:
        self.asked.append((operation, issuers))
        failure = self._next_failure(operation, issuers)
        if not self.reachable or (failure and not failure.after):
            raise _connection_lost()
        answer = await do()
        if operation in self.before_answer:
            await self.before_answer[operation]()
        if failure:
            raise _connection_lost()
        return answer

    def _next_failure(self, operation: Operation, issuers: tuple[str, ...]) -> _Failure | None:
        for failure in self._failures:
            if failure.times and failure.operation == operation and failure.issuer in {None, *issuers}:
                failure.times -= 1
                return failure
        return None


def _connection_lost() -> UnavailableError:
    return UnavailableError("the connection to the store was lost", reason="STORE_UNAVAILABLE")
