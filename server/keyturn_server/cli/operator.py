"""What operators' commands share: the way to the service, options, and how a change is planned, made and shown."""

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import click
import grpc

from keyturn.errors import translate
from keyturn.v1 import keys_pb2, keys_pb2_grpc
from keyturn_server.cli.output import as_json, print_json, print_table, time_text
from keyturn_server.cli.rings import print_ring, state_text
from keyturn_server.config import Configuration
from keyturn_server.grpc.metadata import CLAIMED_USER

DEADLINE = 60.0
"""Seconds for one call; making keys takes the longest."""

issuer_option = click.option("--issuer", default="", help="The issuer; needed where there are several.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Show the plan and change nothing.")
force_option = click.option("--force", is_flag=True, help="Accept the failures that the plan shows.")
output_option = click.option(
    "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="For people or programs."
)


class Answer(Protocol):
    """What every change answers."""

    @property
    def plan(self) -> keys_pb2.Plan: ...

    @property
    def ring(self) -> keys_pb2.KeyRing: ...


Request = TypeVar(
    "Request",
    keys_pb2.RotateKeyRequest,
    keys_pb2.RevokeKeyRequest,
    keys_pb2.ApplyIssuerRequest,
    keys_pb2.RetireIssuerRequest,
)


@contextmanager
def key_service(configuration: Configuration) -> Iterator[keys_pb2_grpc.KeyServiceStub]:
    """The operators' service; its refusals come out as the client library's errors."""
    target = f"unix:{configuration.admin.listen}"
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            yield keys_pb2_grpc.KeyServiceStub(channel)
        except grpc.RpcError as error:
            raise translate(error, target) from error


def call(rpc: Callable[..., Any], request: Any) -> Any:
    """One call, with the name of the user who makes it, for the record."""
    return rpc(request, timeout=DEADLINE, metadata=((CLAIMED_USER, getpass.getuser()),))


def change(rpc: Callable[..., Any], request: Request, *, dry_run: bool, output: str) -> None:
    """Plans a change, makes it unless it is a dry run, and shows it. What is made is what was planned, or nothing."""
    request.validate_only = True
    answer = call(rpc, request)
    if not dry_run:
        request.validate_only = False
        request.expected_ring_version = answer.plan.ring_version
        answer = call(rpc, request)
    print_change(answer, dry_run=dry_run, output=output)


def print_change(answer: Answer, *, dry_run: bool, output: str) -> None:
    """A change and what follows from it."""
    plan = answer.plan
    if output == "json":
        message: Any = answer
        print_json({"done": not dry_run, **as_json(message)})
        return
    if not plan.steps:
        print(f"Issuer {answer.ring.issuer} is as configured: nothing to change.")
        return
    print(f"{'Plan' if dry_run else 'Done'}, on version {plan.ring_version} of the ring of {answer.ring.issuer}:")
    print_table(["when", "key", "what"], [[time_text(step.time), step.key_id, step.description] for step in plan.steps])
    if plan.failures:
        print(f"\nUntil {time_text(plan.failures_until)} {plan.failures}.")
        print(f"Without force it can be made from {time_text(plan.earliest_safe_time)} on.")
    if plan.keys:
        print()
        print_table(
            ["key", "before", "after", "its tokens may live until"],
            [
                [key.key_id, state_text(key.state_before), state_text(key.state_after), time_text(key.tokens_until)]
                for key in plan.keys
            ],
        )
    if not dry_run:
        print()
        print_ring(answer.ring)
