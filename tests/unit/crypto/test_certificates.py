import ipaddress
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from keyturn_server.crypto.certificates import Authority, CertificateAndKey, new_authority

# The handshakes below look at the machine's clock, so these certificates have to be valid now.
NOW = datetime.now(UTC).replace(microsecond=0)
FRONTEND = "spiffe://contoso.example/frontend"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority("keyturn development", now=NOW, days=30)


@pytest.fixture(scope="module")
def server(authority: Authority) -> CertificateAndKey:
    return authority.issue(now=NOW, days=7, dns=["localhost"], ips=["127.0.0.1", "::1"], server=True)


@pytest.fixture(scope="module")
def client(authority: Authority) -> CertificateAndKey:
    return authority.issue(now=NOW, days=7, uris=[FRONTEND], client=True)


class Peers:
    """A client and a server that demand each other's certificate and check it as strictly as OpenSSL can."""

    def __init__(self, folder: Path, trusted: Authority) -> None:
        self._folder = folder
        self._trusted = trusted

    def shake_hands(
        self, client: CertificateAndKey, server: CertificateAndKey, name: str = "localhost"
    ) -> ssl.SSLObject:
        """The server's end, once both ends are done. Raises what either of them raises."""
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        client_end = self._context(ssl.PROTOCOL_TLS_CLIENT, client).wrap_bio(down, up, server_hostname=name)
        server_end = self._context(ssl.PROTOCOL_TLS_SERVER, server).wrap_bio(up, down, server_side=True)
        waiting = [client_end, server_end]
        while waiting:
            waiting = [end for end in waiting if not self._advance(end)]
        return server_end

    def _context(self, protocol: int, own: CertificateAndKey) -> ssl.SSLContext:
        path = self._folder / "certificate"
        path.write_bytes(own.certificate + own.private_key)
        context = ssl.SSLContext(protocol)
        context.load_cert_chain(path)
        context.load_verify_locations(cadata=self._trusted.certificate.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    @staticmethod
    def _advance(end: ssl.SSLObject) -> bool:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True


@pytest.fixture
def peers(tmp_path: Path, authority: Authority) -> Peers:
    return Peers(tmp_path, authority)


def parsed(issued: CertificateAndKey | Authority) -> x509.Certificate:
    return x509.load_pem_x509_certificate(issued.certificate)


def common_names(name: x509.Name) -> list[str | bytes]:
    return [attribute.value for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME)]


def verify(authority: Authority, server: CertificateAndKey, time: datetime) -> None:
    """Verifies the chain as of a time, with other code than OpenSSL's."""
    policy = PolicyBuilder().store(Store([parsed(authority)])).time(time)
    policy.build_server_verifier(x509.DNSName("localhost")).verify(parsed(server), [])


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_both_ends_of_tls_accept_each_other(
    peers: Peers, server: CertificateAndKey, client: CertificateAndKey, name: str
) -> None:
    presented = peers.shake_hands(client, server, name).getpeercert()

    assert presented is not None
    assert presented["subjectAltName"] == (("URI", FRONTEND),)


def test_one_certificate_may_serve_both_ends(peers: Peers, authority: Authority) -> None:
    both = authority.issue(now=NOW, days=7, dns=["localhost"], server=True, client=True)

    assert peers.shake_hands(both, both).version() == "TLSv1.3"


def test_a_server_under_another_name_is_refused(
    peers: Peers, server: CertificateAndKey, client: CertificateAndKey
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        peers.shake_hands(client, server, "example.com")


def test_a_client_of_an_authority_of_the_same_name_is_refused(peers: Peers, server: CertificateAndKey) -> None:
    foreign = new_authority("keyturn development", now=NOW, days=30)

    with pytest.raises(ssl.SSLCertVerificationError):
        peers.shake_hands(foreign.issue(now=NOW, days=7, uris=[FRONTEND], client=True), server)


def test_a_server_certificate_is_no_client_certificate(peers: Peers, server: CertificateAndKey) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        peers.shake_hands(server, server)


def test_a_client_certificate_is_no_server_certificate(
    peers: Peers, authority: Authority, client: CertificateAndKey
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        peers.shake_hands(client, authority.issue(now=NOW, days=7, dns=["localhost"], client=True))


def test_a_certificate_is_valid_from_5_minutes_ago_so_that_a_clock_may_be_behind(
    authority: Authority, server: CertificateAndKey
) -> None:
    verify(authority, server, NOW - timedelta(minutes=5))
    with pytest.raises(VerificationError):
        verify(authority, server, NOW - timedelta(minutes=5, seconds=1))


def test_a_certificate_is_valid_for_its_days(authority: Authority, server: CertificateAndKey) -> None:
    verify(authority, server, NOW + timedelta(days=7))
    with pytest.raises(VerificationError):
        verify(authority, server, NOW + timedelta(days=7, seconds=1))


def test_a_certificate_does_not_outlive_its_authority(authority: Authority) -> None:
    issued = authority.issue(now=NOW, days=365, dns=["localhost"], server=True)

    assert parsed(issued).not_valid_after_utc == NOW + timedelta(days=30)


def test_the_authority_may_only_sign_certificates_and_their_revocations(authority: Authority) -> None:
    extensions = parsed(authority).extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)

    assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(ca=True, path_length=0))
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)


def test_a_certificate_may_only_sign_handshakes(server: CertificateAndKey) -> None:
    extensions = parsed(server).extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage)

    assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(ca=False, path_length=None))
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (False, False, True)
    assert list(purposes.value) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_every_certificate_points_at_the_key_of_its_authority(authority: Authority, server: CertificateAndKey) -> None:
    own = parsed(authority).extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value

    for certificate in (parsed(authority), parsed(server)):
        pointer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert pointer.key_identifier == own.digest
        assert certificate.issuer == parsed(authority).subject


def test_all_names_stand_among_the_alternative_names_and_the_first_is_the_common_name(authority: Authority) -> None:
    issued = parsed(
        authority.issue(now=NOW, days=1, dns=["a.test", "b.test"], ips=["::1"], uris=[FRONTEND], client=True)
    )
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert common_names(issued.subject) == ["a.test"]
    assert names.get_values_for_type(x509.DNSName) == ["a.test", "b.test"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("::1")]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [FRONTEND]


def test_a_name_that_is_too_long_for_a_common_name_is_whole_among_the_alternative_names(authority: Authority) -> None:
    long = "a" * 60 + ".example.com"
    issued = parsed(authority.issue(now=NOW, days=1, dns=[long], server=True))

    assert common_names(issued.subject) == [long[:64]]
    assert issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value == (
        x509.SubjectAlternativeName([x509.DNSName(long)])
    )


def test_serial_numbers_are_random(authority: Authority) -> None:
    serials = {parsed(authority.issue(now=NOW, days=1, dns=["localhost"], server=True)).serial_number for _ in range(3)}

    assert len(serials) == 3
    assert min(serials).bit_length() > 100


def test_the_private_key_is_a_p_256_key_and_that_of_the_certificate(server: CertificateAndKey) -> None:
    private_key = load_pem_private_key(server.private_key, password=None)

    assert isinstance(private_key, ec.EllipticCurvePrivateKey)
    assert private_key.curve.name == "secp256r1"
    assert private_key.public_key() == parsed(server).public_key()


@pytest.mark.parametrize(
    ("names", "purposes"),
    [({}, {"server": True}), ({"dns": ["localhost"]}, {}), ({"ips": ["localhost"]}, {"server": True})],
    ids=["no name", "no purpose", "a name of another kind"],
)
def test_a_certificate_for_nothing_is_refused(
    authority: Authority, names: dict[str, list[str]], purposes: dict[str, bool]
) -> None:
    with pytest.raises(ValueError, match=re.compile("needs a name|IPv4 or IPv6")):
        authority.issue(
            now=NOW,
            days=1,
            dns=names.get("dns", []),
            ips=names.get("ips", []),
            server=purposes.get("server", False),
        )


def test_nothing_that_shows_a_certificate_shows_its_private_key(
    authority: Authority, server: CertificateAndKey
) -> None:
    assert repr(server) == f"CertificateAndKey(certificate={server.certificate!r})"
    assert "PRIVATE" not in f"{authority!r} {vars(authority)}"
