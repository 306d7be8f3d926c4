"""Whom a client certificate names."""

from functools import lru_cache

from cryptography import x509

CERTIFICATES_REMEMBERED = 1024


@lru_cache(CERTIFICATES_REMEMBERED)
def peer_names(pem: bytes) -> tuple[str, ...]:
    """The URI and DNS subject alternative names of a certificate that TLS has verified; other kinds of names do not
    count.

    gRPC's own list mixes them with e-mail and IP addresses. Parsed once for each certificate, not once a call.
    """
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return (*uris, *names.get_values_for_type(x509.DNSName))
