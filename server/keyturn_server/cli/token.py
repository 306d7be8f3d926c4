"""`keyturn token sign|verify|decode`."""

import base64
import binascii
import json
import sys
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import durationpy

from keyturn import TLS, Client
from keyturn_server.cli.output import print_json
from keyturn_server.cli.settings import load
from keyturn_server.crypto.verification import verify_token
from keyturn_server.domain.errors import ConfigurationError, KeyturnError
from keyturn_server.process import SystemClock

FETCH_TIMEOUT = 10.0
MAX_DOCUMENT_BYTES = 1 << 20


class _Duration(click.ParamType[timedelta]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        try:
            return durationpy.from_str(value)
        except durationpy.DurationError:
            self.fail(f"{value!r} is not a duration such as 15m or 90s", param, ctx)


@click.group
def token() -> None:
    """Sign, verify and decode tokens. A TOKEN of - is read from standard input."""


@token.command
@click.option("--subject", required=True, help="Who the customer is: the claim sub.")
@click.option(
    "--context", "variables", multiple=True, metavar="NAME=VALUE", help="A context variable; may be repeated."
)
@click.option("--issuer", default="", help="The issuer; needed where the caller may sign for several.")
@click.option("--lifetime", type=_Duration(), help="How long it is valid, such as 15m; otherwise the issuer's default.")
@click.pass_context
def sign(
    context: click.Context, subject: str, variables: tuple[str, ...], issuer: str, lifetime: timedelta | None
) -> None:
    """Sign a token with the certificate of [client], and print it alone."""
    settings = load(context).client
    if settings is None:
        raise ConfigurationError("client: this section is needed to sign: target, ca, certificate and private_key")
    tls = TLS(ca=settings.ca, certificate=settings.certificate, private_key=settings.private_key)
    with Client(settings.target, tls=tls, server_name=settings.server_name or None) as client:
        signed = client.sign(subject=subject, context=_context(variables), issuer=issuer, lifetime=lifetime)
    print(signed.token)


@token.command
@click.argument("text", metavar="TOKEN")
@click.option("--keys", required=True, metavar="URL", help="Any of the three public documents: a URL or a file.")
@click.option("--iss", help="Also demand this issuer.")
@click.option("--audience", help="Also demand this audience.")
def verify(text: str, keys: str, iss: str | None, audience: str | None) -> None:
    """Verify a token as of now, and print its claims. Exits 1 when it is not valid."""
    claims = verify_token(_read(text), fetch(keys), now=SystemClock().now(), iss=iss, audience=audience)
    print_json(claims)


@token.command
@click.argument("text", metavar="TOKEN")
def decode(text: str) -> None:
    """Show what a token says, without verifying anything."""
    print_json(decoded(_read(text)))


def decoded(text: str) -> dict[str, Any]:
    """A token's header and claims, and the context variables in them: read, not verified."""
    parts = text.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header, payload, signature
        raise KeyturnError("a token has three parts with dots between them")
    header, claims = (_object(_decode_part(part)) for part in parts[:2])
    shown = {"header": header, "claims": claims}
    if isinstance(claims.get("lwicontexts"), str):
        shown["context"] = _object(claims["lwicontexts"])
    return shown


def fetch(keys: str) -> bytes:
    """A document from a URL or a file; a few seconds and a megabyte at most."""
    try:
        if not keys.startswith(("http://", "https://")):
            return Path(keys).read_bytes()
        with urllib.request.urlopen(keys, timeout=FETCH_TIMEOUT) as response:  # noqa: S310 - the scheme was checked
            document: bytes = response.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise KeyturnError(f"cannot read the keys at {keys}: {error}") from error
    if len(document) > MAX_DOCUMENT_BYTES:
        raise KeyturnError(f"the document at {keys} has more than {MAX_DOCUMENT_BYTES} bytes")
    return document


def _context(variables: tuple[str, ...]) -> dict[str, str]:
    context: dict[str, str] = {}
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not equals:
            raise click.UsageError(f"--context {variable!r} is not NAME=VALUE")
        if name in context:
            raise click.UsageError(f"--context names {name!r} twice")
        context[name] = value
    return context


def _read(text: str) -> str:
    return sys.stdin.read().strip() if text == "-" else text


def _decode_part(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error as error:
        raise KeyturnError("a part of the token is not base64url") from error


def _object(text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise KeyturnError("a part of the token is not JSON") from error
    if not isinstance(value, dict):
        raise KeyturnError("a part of the token is not a JSON object")
    return value
