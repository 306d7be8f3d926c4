"""Verifiers that share no code with keyturn: PyJWT and jwcrypto, as a site might use them."""

import base64
import json
from typing import Any

import jwt
from jwcrypto import jwk, jws


def verify_with_pyjwt(token: str, jwks: bytes, iss: str = "contosohelp.com") -> dict[str, Any]:
    keys = jwt.PyJWKSet.from_json(jwks.decode())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, Any] = jwt.decode(
        token, key, algorithms=["RS256"], issuer=iss, options={"require": ["exp", "sub"]}
    )
    return claims


def verify_with_jwcrypto(token: str, keys: jwk.JWKSet) -> dict[str, Any]:
    signed = jws.JWS()
    signed.allowed_algs = ["RS256"]
    signed.deserialize(token)
    kid = json.loads(signed.objects["protected"])["kid"]
    signed.verify(keys.get_key(kid))
    claims: dict[str, Any] = json.loads(signed.payload)
    return claims


def jwks_keys(jwks: bytes) -> jwk.JWKSet:
    return jwk.JWKSet.from_json(jwks.decode())


def array_keys(array: bytes) -> jwk.JWKSet:
    """The keys of an Omnichannel array, as its page describes it: base64 of the PEM text."""
    keys = jwk.JWKSet()
    for entry in json.loads(array):
        key = jwk.JWK.from_pem(base64.b64decode(entry["publicKey"], validate=True))
        assert key.thumbprint() == entry["kid"]
        keys.add(jwk.JWK(**{**json.loads(key.export_public()), "kid": entry["kid"]}))
    return keys


def pem_keys(pem: bytes) -> jwk.JWKSet:
    key = jwk.JWK.from_pem(pem)
    keys = jwk.JWKSet()
    keys.add(jwk.JWK(**{**json.loads(key.export_public()), "kid": key.thumbprint()}))
    return keys
