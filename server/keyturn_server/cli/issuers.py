"""`keyturn issuers list|apply|retire`: issuers and their policies, in force and as configured."""

import click

from keyturn.v1 import keys_pb2
from keyturn_server.cli.operator import call, change, dry_run_option, key_service, output_option
from keyturn_server.cli.output import as_json, duration_text, print_json, print_table, time_text
from keyturn_server.cli.settings import load
from keyturn_server.domain.errors import ConfigurationError
from keyturn_server.grpc.translate import policy_message


@click.group
def issuers() -> None:
    """Show issuers, put their configured policies in force, retire them."""


@issuers.command("list")
@output_option
@click.pass_context
def list_issuers(context: click.Context, output: str) -> None:
    """Show the issuers of the store with the policies in force."""
    with key_service(load(context)) as service:
        answer: keys_pb2.ListIssuersResponse = call(service.ListIssuers, keys_pb2.ListIssuersRequest())
    if output == "json":
        print_json(as_json(answer))
        return
    print_table(
        ["issuer", "iss", "ring", "period", "window", "lifetime", "cache", "max-age", "lease", "clock", "retired"],
        [
            [
                issuer.id,
                issuer.iss,
                str(issuer.ring_version),
                duration_text(issuer.policy.rotation_period),
                duration_text(issuer.policy.propagation_window),
                duration_text(issuer.policy.max_token_lifetime),
                duration_text(issuer.policy.verifier_cache),
                duration_text(issuer.policy.document_max_age),
                duration_text(issuer.policy.signing_lease),
                duration_text(issuer.policy.clock_tolerance),
                time_text(issuer.retire_time),
            ]
            for issuer in answer.issuers
        ],
    )


@issuers.command
@click.option("--issuer", multiple=True, help="Only this one; may be repeated. Otherwise all that are configured.")
@dry_run_option
@click.option("--reason", default="", help="Why, for the record.")
@output_option
@click.pass_context
def apply(context: click.Context, issuer: tuple[str, ...], dry_run: bool, reason: str, output: str) -> None:
    """Make the configured issuers that do not exist yet, and put the configured policies in force.

    The service signs for a new issuer after its next start, when it has read the configuration.
    """
    configuration = load(context)
    policies, iss_claims = configuration.policies(), configuration.iss_claims()
    if unknown := [name for name in issuer if name not in policies]:
        raise ConfigurationError(f"issuers: there is no issuer {unknown[0]} in the configuration")
    with key_service(configuration) as service:
        for name in issuer or policies:
            request = keys_pb2.ApplyIssuerRequest(
                issuer=name, iss=iss_claims[name], policy=policy_message(policies[name]), reason=reason
            )
            change(service.ApplyIssuer, request, dry_run=dry_run, output=output)


@issuers.command
@click.argument("issuer")
@dry_run_option
@click.option("--reason", required=True, help="Why, for the record.")
@output_option
@click.pass_context
def retire(context: click.Context, issuer: str, dry_run: bool, reason: str, output: str) -> None:
    """Let ISSUER sign no more, for good. Its documents stay until its last token is dead.

    It must have left the configuration.
    """
    configuration = load(context)
    if issuer in configuration.policies():
        raise ConfigurationError(f"issuers[{issuer}]: remove it from the configuration first, then retire it")
    with key_service(configuration) as service:
        request = keys_pb2.RetireIssuerRequest(issuer=issuer, reason=reason)
        change(service.RetireIssuer, request, dry_run=dry_run, output=output)
