"""A planted private key and KEK: looked for wherever they must not be."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyturn.v1 import keys_pb2, keys_pb2_grpc
from keyturn_server.app import unlock
from keyturn_server.config import load_configuration
from keyturn_server.crypto.kek import Purpose, associated_data
from keyturn_server.domain.key_plans import plan_revocation
from keyturn_server.domain.public_key import PublicKey, base64url
from keyturn_server.domain.ring import Change, signer
from keyturn_server.ledger import Ledger
from keyturn_server.ports import WrappedKey
from keyturn_server.storage.sql import SqlStore
from tests.integration.deployment import Deployment


def needles(key: rsa.RSAPrivateKey) -> Iterator[bytes]:
    """The secret numbers and encodings of a private key, in every form in which they might leak; 24 bytes of each."""
    numbers = key.private_numbers()
    for number in (numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp):
        raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
        yield from (raw[8:32], f"{number:x}".encode()[8:32], str(number).encode()[8:32], base64url(raw).encode()[8:32])
    for encoding in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        pem = key.private_bytes(Encoding.PEM, encoding, NoEncryption()).splitlines()
        # Beyond the public modulus, which both encodings begin with.
        yield from (line[:24] for line in pem[10:-2])


def kek_needles(path: Path) -> Iterator[bytes]:
    text = path.read_bytes().split()[-1]
    raw = base64.b64decode(text)
    yield from (text[:24], base64.urlsafe_b64encode(raw)[:24], raw[:24], raw.hex().encode()[:24])


def found(needles: list[bytes], *haystacks: bytes) -> list[bytes]:
    return [needle for needle in needles if any(needle in haystack for haystack in haystacks)]


async def plant(deployment: Deployment) -> rsa.RSAPrivateKey:
    """Makes a key that the test knows the signer of the deployment's issuer."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = PublicKey(key.public_key().public_numbers().n, 65537)
    configuration = load_configuration(deployment.config, {})
    store = SqlStore.open(configuration.storage.url)
    try:
        kek, seal = await unlock(configuration, store)
        ledger = Ledger(store, seal)
        ring = (await ledger.read(["contoso"])).rings["contoso"]
        current = signer(ring, datetime.now(UTC))
        assert current is not None
        change = Change(made_at=datetime.now(UTC), actor="test", action="planted", reason="a test")
        for kid in (ring.keys[1].kid, current.kid):
            plan = plan_revocation(ring, kid, change, force=True, fresh=public)
            wrapped = kek.wrap(
                key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
                associated_data(Purpose.PRIVATE_KEY, "contoso", public.thumbprint(), kek.id),
            )
            add = [WrappedKey("contoso", public.thumbprint(), kek.id, wrapped)] if kid == current.kid else []
            await ledger.append(plan.ring, add=add, remove=[kid])
            ring = plan.ring
    finally:
        await store.close()
    return key


async def test_no_secret_is_in_the_store_the_log_a_document_an_error_or_the_process(deployment: Deployment) -> None:
    key = await plant(deployment)
    secrets = [*needles(key), *kek_needles(deployment.folder / "kek")]
    kid = PublicKey(key.public_key().public_numbers().n, 65537).thumbprint()
    deployment.start()
    with deployment.client() as client:
        assert client.sign(subject="a").key_id == kid
    assert deployment.process is not None
    process = Path(f"/proc/{deployment.process.pid}")
    seen = [
        *(deployment.document(f"contoso/{name}") for name in ("publickey", ".well-known/jwks.json", "publickey.pem")),
        deployment.keyturn("keys", "list", "--output", "json").stdout.encode(),
        deployment.keyturn("keys", "revoke", kid, "--reason", "leaked").stderr.encode(),
        deployment.keyturn("token", "sign", "--subject", "").stderr.encode(),
        (process / "cmdline").read_bytes(),
        (process / "environ").read_bytes(),
        answer_for_a_bad_row(deployment, kid),
    ]
    assert deployment.stop() == 0
    files = [path.read_bytes() for path in deployment.folder.rglob("*") if path.is_file() and path.name != "kek"]
    assert found([b'"kid":"' + kid.encode()], *seen, *files), "the haystacks hold what they should"
    assert not found(secrets, *seen, *files)


def answer_for_a_bad_row(deployment: Deployment, kid: str) -> bytes:
    """What an operator is told of an issuer that does not exist, raw, with all its details."""
    with grpc.insecure_channel(f"unix:{deployment.folder / 'admin' / 'keyturn.sock'}") as channel:
        with pytest.raises(grpc.RpcError) as refused:
            keys_pb2_grpc.KeyServiceStub(channel).ListKeys(keys_pb2.ListKeysRequest(issuer=kid), timeout=10)
        return f"{refused.value.details()} {refused.value.trailing_metadata()}".encode()


async def test_the_needles_are_found_where_a_key_really_is(deployment: Deployment) -> None:
    key = await plant(deployment)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    numbers = key.private_numbers()
    assert found([*needles(key)], pem)
    assert found([*needles(key)], repr(numbers.d).encode())
    assert found([*kek_needles(deployment.folder / "kek")], (deployment.folder / "kek").read_bytes())
