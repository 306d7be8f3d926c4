"""`keyturn keys list|timeline|rotate|revoke|import`: the operators' service over its Unix socket."""

import sys
from pathlib import Path

import click

from keyturn.v1 import keys_pb2
from keyturn_server.cli.operator import (
    call,
    change,
    dry_run_option,
    force_option,
    issuer_option,
    key_service,
    output_option,
    print_change,
)
from keyturn_server.cli.output import as_json, print_json
from keyturn_server.cli.rings import print_ring, print_timeline, timeline_json
from keyturn_server.cli.settings import load
from keyturn_server.crypto.rsa_keys import read_private_key
from keyturn_server.domain.errors import ConfigurationError
from keyturn_server.grpc.translate import policy_message


@click.group
def keys() -> None:
    """Show, rotate, revoke and import keys: on the service's host, as the user of its Unix socket."""


@keys.command("list")
@issuer_option
@output_option
@click.pass_context
def list_keys(context: click.Context, issuer: str, output: str) -> None:
    """Show an issuer's keys in the order in which they sign."""
    ring = _ring(context, issuer)
    if output == "json":
        print_json(as_json(ring))
    else:
        print_ring(ring)


@keys.command
@issuer_option
@output_option
@click.pass_context
def timeline(context: click.Context, issuer: str, output: str) -> None:
    """Show an issuer's keys over time: a row a key, its states as bars."""
    ring = _ring(context, issuer)
    if output == "json":
        print_json(timeline_json(ring))
    else:
        print_timeline(ring)


@keys.command
@issuer_option
@dry_run_option
@force_option
@click.option("--reason", default="", help="Why, for the record; needed with --force.")
@output_option
@click.pass_context
def rotate(context: click.Context, issuer: str, dry_run: bool, force: bool, reason: str, output: str) -> None:
    """Let the standby sign from now on."""
    with key_service(load(context)) as service:
        request = keys_pb2.RotateKeyRequest(issuer=issuer, force=force, reason=reason)
        change(service.RotateKey, request, dry_run=dry_run, output=output)


@keys.command
@click.argument("key_id", metavar="KID")
@issuer_option
@dry_run_option
@force_option
@click.option("--reason", required=True, help="Why, for the record.")
@output_option
@click.pass_context
def revoke(
    context: click.Context, key_id: str, issuer: str, dry_run: bool, force: bool, reason: str, output: str
) -> None:
    """Withdraw a key at once: it leaves the documents, and its tokens fail."""
    with key_service(load(context)) as service:
        request = keys_pb2.RevokeKeyRequest(issuer=issuer, key_id=key_id, force=force, reason=reason)
        change(service.RevokeKey, request, dry_run=dry_run, output=output)


@keys.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--issuer", required=True, help="A configured issuer that is not in the store yet.")
@click.option(
    "--passphrase-file", type=click.Path(path_type=Path, dir_okay=False), help="Its first line decrypts the key."
)
@dry_run_option
@click.option("--reason", default="", help="Why, for the record.")
@output_option
@click.pass_context
def import_key(
    context: click.Context,
    file: Path,
    issuer: str,
    passphrase_file: Path | None,
    dry_run: bool,
    reason: str,
    output: str,
) -> None:
    """Make an issuer whose first signer is the RSA key in FILE (PEM; - is standard input), with a standby."""
    configuration = load(context)
    if issuer not in configuration.policies():
        raise ConfigurationError(f"issuers: there is no issuer {issuer} in the configuration: add it first")
    passphrase = None if passphrase_file is None else (_read(passphrase_file).splitlines() or [b""])[0]
    request = keys_pb2.ImportKeyRequest(
        issuer=issuer,
        iss=configuration.iss_claims()[issuer],
        policy=policy_message(configuration.policies()[issuer]),
        private_key=read_private_key(_read(file), passphrase),
        validate_only=dry_run,
        reason=reason,
    )
    with key_service(configuration) as service:
        print_change(call(service.ImportKey, request), dry_run=dry_run, output=output)


def _ring(context: click.Context, issuer: str) -> keys_pb2.KeyRing:
    with key_service(load(context)) as service:
        answer: keys_pb2.ListKeysResponse = call(service.ListKeys, keys_pb2.ListKeysRequest(issuer=issuer))
    return answer.ring


def _read(path: Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.FileError(str(path), hint=str(error.strerror)) from error
