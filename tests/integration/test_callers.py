"""Who is let in, and for what: over real TLS, with certificates of real authorities."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
import trustme

from keyturn import TLS, Client, InvalidRequest, NotAuthenticated, NotPermitted, Unavailable
from keyturn.tls import channel_credentials
from keyturn.v1 import keys_pb2, keys_pb2_grpc, signing_pb2, signing_pb2_grpc
from tests.integration.deployment import Deployment

SECOND_ISSUER = """
[[issuers]]
id = "fabrikam"
iss = "fabrikam.example"

[[callers]]
identity = "shop.fabrikam.example"
issuers = ["fabrikam"]
max_token_lifetime = "1m"
additional_claims = ["tier"]

[[callers]]
identity = "both.example"
issuers = ["contoso", "fabrikam"]
"""


@dataclass
class Frontends:
    """A deployment whose callers' authority a test holds, so that it can make certificates of every kind."""

    deployment: Deployment
    authority: trustme.CA
    folder: Path

    def client(self, *names: str, common_name: str | None = None, authority: trustme.CA | None = None) -> Client:
        return Client(self.deployment.signing, tls=self.tls(*names, common_name=common_name, authority=authority))

    def tls(self, *names: str, common_name: str | None = None, authority: trustme.CA | None = None) -> TLS:
        """A certificate with these subject alternative names: DNS, URI, e-mail or IP, by their look."""
        issued = (authority or self.authority).issue_cert(*names, common_name=common_name)
        certificate, key = self.folder / "caller.pem", self.folder / "caller.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return TLS(ca=self.deployment.folder / "tls" / "ca.pem", certificate=certificate, private_key=key)


@pytest.fixture(scope="module")
def frontends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontends]:
    folder = tmp_path_factory.mktemp("callers")
    deployment = Deployment(folder / "keyturn", addition=SECOND_ISSUER)
    authority = trustme.CA()
    trusted = folder / "callers.pem"
    authority.cert_pem.write_to_path(str(trusted))
    deployment.configure(client_ca=f'"{trusted}"')
    deployment.start()
    yield Frontends(deployment, authority, folder)
    assert deployment.stop() == 0


def test_a_dns_name_identifies_a_caller(frontends: Frontends) -> None:
    with frontends.client("shop.fabrikam.example") as client:
        assert client.sign(subject="a", additional_claims={"tier": "gold"}).token


def test_a_caller_gets_no_more_than_its_own_limits(frontends: Frontends) -> None:
    with frontends.client("shop.fabrikam.example") as client, pytest.raises(InvalidRequest) as refused:
        client.sign(subject="a", lifetime=timedelta(seconds=61), additional_claims={"colour": "red"})
    assert [violation.field for violation in refused.value.violations] == ["lifetime", 'additional_claims["colour"]']


def test_a_caller_of_several_issuers_must_name_one(frontends: Frontends) -> None:
    with frontends.client("both.example") as client:
        assert client.sign(subject="a", issuer="fabrikam").token
        with pytest.raises(InvalidRequest, match="issuer"):
            client.sign(subject="a")


def test_an_unknown_issuer_and_one_of_another_caller_cannot_be_told_apart(frontends: Frontends) -> None:
    answers = []
    with frontends.client("shop.fabrikam.example") as client:
        for issuer in ("contoso", "nowhere"):
            with pytest.raises(NotPermitted) as refused:
                client.sign(subject="a", issuer=issuer)
            answers.append((refused.value.reason, refused.value.message.replace(issuer, "…")))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("names", "common_name", "reason"),
    [
        (("stranger.example",), None, "UNKNOWN_IDENTITY"),
        (("shop.fabrikam.example", "both.example"), None, "SEVERAL_IDENTITIES"),
        (("caller@shop.fabrikam.example",), "shop.fabrikam.example", "NO_IDENTITY"),
        (("10.1.2.3",), "shop.fabrikam.example", "NO_IDENTITY"),
    ],
)
def test_a_certificate_that_does_not_stand_for_one_caller_is_refused(
    frontends: Frontends, names: tuple[str, ...], common_name: str | None, reason: str
) -> None:
    with frontends.client(*names, common_name=common_name) as client, pytest.raises(NotAuthenticated) as refused:
        client.sign(subject="a")
    assert refused.value.reason == reason


def test_a_certificate_of_another_authority_is_refused_in_the_handshake(frontends: Frontends) -> None:
    with frontends.client("shop.fabrikam.example", authority=trustme.CA()) as client, pytest.raises(Unavailable):
        client.sign(subject="a")


def test_nobody_gets_in_without_a_certificate(frontends: Frontends) -> None:
    ca = (frontends.deployment.folder / "tls" / "ca.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials(root_certificates=ca)
    with grpc.secure_channel(frontends.deployment.signing, credentials) as channel:
        stub = signing_pb2_grpc.SigningServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.SignToken(signing_pb2.SignTokenRequest(subject="a"), timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_operators_rpcs_are_not_served_to_callers(frontends: Frontends) -> None:
    deployment = frontends.deployment
    with grpc.secure_channel(deployment.signing, channel_credentials(frontends.tls("both.example"))) as channel:
        stub = keys_pb2_grpc.KeyServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.RotateKey(keys_pb2.RotateKeyRequest(issuer="contoso", force=True, reason="mine"), timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
