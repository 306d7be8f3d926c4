"""Keys turn over every few seconds while tokens are signed steadily, and verifiers hold documents as long as they may.

`KEYTURN_LOAD_SECONDS` says for how long.
"""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

from keyturn import KeyturnError, SignedToken
from tests.integration.deployment import TINY_POLICY, Deployment

SECONDS = int(os.environ.get("KEYTURN_LOAD_SECONDS", "15"))
TOKENS_PER_SECOND = 20
TOKEN_LIFETIME = timedelta(seconds=5)
VERIFIERS = 8
VERIFIER_CACHE = 2.0
SLOWEST_ROTATION = 7.5
"""The period of 6 seconds, and how late a busy machine may be: the next key is dated by when it was published."""


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Deployment]:
    """A running service with tiny periods. Its tokens live no longer than its policy allows, and no less."""
    lifetime = f'"{TOKEN_LIFETIME.seconds}s"'
    made = Deployment(tmp_path / "tiny", **{**TINY_POLICY, "max_token_lifetime": lifetime})
    made.start()
    yield made
    assert made.stop() == 0


@dataclass
class Count:
    """What happened to all tokens and all verifiers."""

    signers: list[str] = field(default_factory=list)
    """The kid of each key that signed, when it took over."""
    signatures: int = 0
    documents: int = 0
    verifications: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass
class Tokens:
    """The tokens that have not expired."""

    live: list[SignedToken] = field(default_factory=list)

    def add(self, token: SignedToken) -> None:
        now = datetime.now(UTC)
        self.live = [each for each in self.live if now < each.expires_at]
        self.live.append(token)


class Verifier:
    """Fetches the JWKS and goes by it for as long as a verifier may. Each document meets every token that is valid at
    any time until then: those that it finds, and those that are signed meanwhile.
    """

    def __init__(self, deployment: Deployment, count: Count) -> None:
        self._deployment = deployment
        self._count = count
        self._keys: jwt.PyJWKSet | None = None

    async def run(self, wait: float, tokens: Tokens) -> None:
        await asyncio.sleep(wait)
        while True:
            document = await asyncio.to_thread(self._deployment.document, "contoso/.well-known/jwks.json")
            until = time.monotonic() + VERIFIER_CACHE
            self._keys = jwt.PyJWKSet.from_json(document.decode())
            self._count.documents += 1
            for token in tokens.live:
                self.meet(token)
            await asyncio.sleep(until - time.monotonic())
            self._keys = None

    def meet(self, token: SignedToken) -> None:
        """Verifies a token with the document in use, if there is one and the token has not expired."""
        if self._keys is None:
            return
        try:
            key = self._keys[jwt.get_unverified_header(token.token)["kid"]]
            jwt.decode(token.token, key, algorithms=["RS256"], issuer="contosohelp.com")
        except (KeyError, jwt.PyJWTError) as error:
            if datetime.now(UTC) < token.expires_at:
                self._count.failures.append(f"verification of {token.token_id} by {token.key_id}: {error!r}")
        else:
            self._count.verifications += 1


async def sign_steadily(deployment: Deployment, count: Count, tokens: Tokens, verifiers: Sequence[Verifier]) -> None:
    async with deployment.async_client() as client:
        start = time.monotonic()
        for number in range(SECONDS * TOKENS_PER_SECOND):
            await asyncio.sleep(start + number / TOKENS_PER_SECOND - time.monotonic())
            try:
                token = await client.sign(subject="a customer", lifetime=TOKEN_LIFETIME)
            except KeyturnError as error:
                count.failures.append(f"signature {number}: {error!r}")
                continue
            count.signatures += 1
            if count.signers[-1:] != [token.key_id]:
                count.signers.append(token.key_id)
            tokens.add(token)
            for verifier in verifiers:
                verifier.meet(token)


async def test_every_token_is_signed_and_verifies_against_every_document_in_use_while_keys_rotate(
    tiny: Deployment,
) -> None:
    count, tokens = Count(), Tokens()
    verifiers = [Verifier(tiny, count) for _ in range(VERIFIERS)]
    async with asyncio.TaskGroup() as group:
        running = [
            group.create_task(verifier.run(VERIFIER_CACHE * number / VERIFIERS, tokens))
            for number, verifier in enumerate(verifiers)
        ]
        await sign_steadily(tiny, count, tokens, verifiers)
        # The verifiers go on until the last token has expired.
        await asyncio.sleep(TOKEN_LIFETIME.total_seconds())
        for task in running:
            task.cancel()
    rotations = len(count.signers) - 1
    print(  # noqa: T201 - what `make soak` is read for
        f"{SECONDS} s: {count.signatures} signatures, {rotations} rotations, {count.documents} documents, "
        f"{count.verifications} verifications, {len(count.failures)} failures"
    )
    assert not count.failures
    assert count.signatures == SECONDS * TOKENS_PER_SECOND
    assert len(set(count.signers)) == len(count.signers), "a key that was relieved never signs again"
    assert rotations >= int(SECONDS / SLOWEST_ROTATION)
    assert count.verifications >= count.signatures * VERIFIERS
