"""A certificate authority for development: what `keyturn init` gives a first deployment to speak TLS with.

X.509 version 3 certificates (RFC 5280) with P-256 keys. A production deployment brings certificates of its own.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_BACKDATED = timedelta(minutes=5)
"""Certificates are valid a little earlier than they are made: a peer's clock may be behind."""

_LONGEST_COMMON_NAME = 64


@dataclass(frozen=True, slots=True)
class CertificateAndKey:
    """A certificate and its private key (PKCS#8, not encrypted), both PEM."""

    certificate: bytes
    private_key: bytes = field(repr=False)


class Authority:
    """A self-signed authority that issues certificates of one level. Made by `new_authority`."""

    def __init__(self, certificate: x509.Certificate, private_key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._private_key = private_key

    @property
    def certificate(self) -> bytes:
        """What its peers trust: the authority's own certificate, PEM."""
        return self._certificate.public_bytes(Encoding.PEM)

    @property
    def private_key(self) -> bytes:
        """What issues further certificates (PKCS#8, not encrypted), PEM: a secret of whoever runs the deployment."""
        return self._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def issue(
        self,
        *,
        now: datetime,
        days: int,
        dns: Sequence[str] = (),
        ips: Sequence[str] = (),
        uris: Sequence[str] = (),
        server: bool = False,
        client: bool = False,
    ) -> CertificateAndKey:
        """A certificate for these names and purposes, valid for `days`, though never longer than its authority.

        The common name is the first name, and no peer should look at it. Raises ValueError without a name or a
        purpose, and for a name that is not of its kind.
        """
        names: list[x509.GeneralName] = [
            *(x509.DNSName(name) for name in dns),
            *(x509.IPAddress(ipaddress.ip_address(name)) for name in ips),
            *(x509.UniformResourceIdentifier(name) for name in uris),
        ]
        purposes = [
            *([ExtendedKeyUsageOID.SERVER_AUTH] if server else []),
            *([ExtendedKeyUsageOID.CLIENT_AUTH] if client else []),
        ]
        if not names or not purposes:
            raise ValueError("a certificate needs a name, and server or client for a purpose")
        private_key = ec.generate_private_key(ec.SECP256R1())
        identifier = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            _builder(
                subject=_name([*dns, *ips, *uris][0]),
                issuer=self._certificate.subject,
                public_key=private_key.public_key(),
                now=now,
                until=min(now + timedelta(days=days), self._certificate.not_valid_after_utc),
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
                critical=False,
            )
            .sign(self._private_key, SHA256())
        )
        return CertificateAndKey(
            certificate.public_bytes(Encoding.PEM),
            private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )


def new_authority(common_name: str, *, now: datetime, days: int) -> Authority:
    """A new authority that is valid for `days`."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    certificate = (
        _builder(
            subject=name,
            issuer=name,
            public_key=private_key.public_key(),
            now=now,
            until=now + timedelta(days=days),
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(private_key.public_key()), critical=False)
        .sign(private_key, SHA256())
    )
    return Authority(certificate, private_key)


def _builder(
    *, subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    # RFC 5280, appendix A.1 bounds it; longer names stand whole among the alternative names.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_LONGEST_COMMON_NAME])])


def _key_usage(*, digital_signature: bool = False, signs_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
