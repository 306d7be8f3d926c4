import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc import StatusCode

from keyturn import (
    TLS,
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    KeyturnError,
    NotPermitted,
    Unavailable,
)
from keyturn.v1 import signing_pb2
from tests.unit.client.signing_service import AnyClient, Authority, AwaitedClient, SigningService, status

NewClient = Callable[..., AnyClient]


@pytest.fixture(params=[Client, AwaitedClient], ids=["Client", "AsyncClient"])
def new_client(request: pytest.FixtureRequest) -> NewClient:
    """Each test that asks for it runs with both clients."""
    client: NewClient = request.param
    return client


def test_a_signed_token_comes_back_for_what_was_asked(new_client: NewClient, service: SigningService, tls: TLS) -> None:
    service.response = signing_pb2.SignTokenResponse(
        token="a.b.c",
        key_id="kid",
        token_id="jti",
        issue_time=Timestamp(seconds=1_800_000_000),
        expire_time=Timestamp(seconds=1_800_000_900),
    )

    with new_client(service.target, tls=tls) as client:
        signed = client.sign(
            subject="87b4",
            context={"msdyn_cartvalue": "10000", "visits": 3},
            issuer="contoso",
            lifetime=timedelta(minutes=15),
            additional_claims={"tier": "gold"},
        )

    assert (signed.token, signed.key_id, signed.token_id) == ("a.b.c", "kid", "jti")
    assert signed.issued_at == datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
    assert signed.expires_at == datetime(2027, 1, 15, 8, 15, tzinfo=UTC)
    [asked] = service.requests
    assert (asked.subject, asked.issuer, asked.lifetime.seconds) == ("87b4", "contoso", 900)
    assert asked.context["msdyn_cartvalue"].string_value == "10000"
    assert asked.context["visits"].integer_value == 3
    assert dict(asked.additional_claims) == {"tier": "gold"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"subject": 87}, "subject"),
        ({"issuer": None}, "issuer"),
        ({"context": {"cart": None}}, 'context["cart"]'),
        ({"context": {"cart": 2**53}}, 'context["cart"]'),
        ({"lifetime": 900}, "lifetime"),
        ({"additional_claims": {"a": [object()]}}, 'additional_claims["a"][0]'),
        ({"timeout": 0}, "timeout"),
        ({"timeout": None}, "timeout"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_sent(
    arguments: dict[str, Any],
    named: str,
    new_client: NewClient,
    service: SigningService,
    tls: TLS,
) -> None:
    with new_client(service.target, tls=tls) as client, pytest.raises((TypeError, ValueError)) as raised:
        client.sign(**({"subject": "87b4"} | arguments))

    assert str(raised.value).startswith(named)
    assert service.requests == []


def test_a_refusal_by_the_service_keeps_grpcs_error_as_its_cause(
    new_client: NewClient, service: SigningService, tls: TLS
) -> None:
    info = error_details_pb2.ErrorInfo(reason="ISSUER_NOT_ALLOWED", domain="keyturn")
    service.refusal = status(StatusCode.PERMISSION_DENIED, "issuer not allowed", info)

    with new_client(service.target, tls=tls) as client, pytest.raises(NotPermitted) as raised:
        client.sign(subject="87b4")

    assert str(raised.value) == "issuer not allowed"
    assert raised.value.reason == "ISSUER_NOT_ALLOWED"
    assert isinstance(raised.value.__cause__, grpc.RpcError)


def test_a_service_that_cannot_sign_now_says_when_to_come_back(
    new_client: NewClient, service: SigningService, tls: TLS
) -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=3))
    service.refusal = status(StatusCode.UNAVAILABLE, "no usable key", retry)

    with new_client(service.target, tls=tls) as client, pytest.raises(Unavailable) as raised:
        client.sign(subject="87b4")

    assert str(raised.value) == "no usable key"
    assert raised.value.retry_after == timedelta(seconds=3)


def test_a_refusal_that_names_every_context_variable_arrives_whole(
    new_client: NewClient, service: SigningService, tls: TLS
) -> None:
    bad = error_details_pb2.BadRequest()
    for number in range(100):
        bad.field_violations.add(field=f'context["{number:0100}"]', description="is not a declared variable " * 3)
    service.refusal = status(StatusCode.INVALID_ARGUMENT, "the request breaks 100 rules", bad)

    with new_client(service.target, tls=tls) as client, pytest.raises(InvalidRequest) as raised:
        client.sign(subject="87b4")

    assert len(raised.value.violations) == 100


def test_an_answer_larger_than_any_token_is_not_taken(new_client: NewClient, service: SigningService, tls: TLS) -> None:
    service.response = signing_pb2.SignTokenResponse(token="a" * 65_536)

    with new_client(service.target, tls=tls) as client, pytest.raises(Unavailable, match="larger than max"):
        client.sign(subject="87b4")


def test_a_call_ends_when_its_timeout_has_passed(new_client: NewClient, service: SigningService, tls: TLS) -> None:
    service.may_answer.clear()

    with new_client(service.target, tls=tls) as client, pytest.raises(DeadlineExceeded):
        client.sign(subject="87b4", timeout=0.1)


@pytest.mark.parametrize(("arguments", "seconds"), [({}, 5), ({"timeout": 20}, 20)])
def test_the_timeout_is_the_deadline_that_the_service_sees(
    arguments: dict[str, float], seconds: float, new_client: NewClient, service: SigningService, tls: TLS
) -> None:
    with new_client(service.target, tls=tls) as client:
        client.sign(subject="87b4", **arguments)

    [remaining] = service.time_remaining
    assert remaining == pytest.approx(seconds, rel=0.4)


def test_a_client_keeps_working_after_a_failed_call(new_client: NewClient, service: SigningService, tls: TLS) -> None:
    with new_client(service.target, tls=tls) as client:
        service.refusal = status(StatusCode.INTERNAL, "incident 4711")
        with pytest.raises(KeyturnError, match=r"^incident 4711$"):
            client.sign(subject="87b4")
        service.refusal = None
        assert client.sign(subject="87b4").token == "a.b.c"


def test_a_closed_client_says_so_and_sends_nothing(new_client: NewClient, service: SigningService, tls: TLS) -> None:
    with new_client(service.target, tls=tls) as client:
        client.close()
        client.close()
        with pytest.raises(RuntimeError, match=r"^this client is closed$"):
            client.sign(subject="87b4")

    assert service.requests == []


def test_leaving_the_context_closes_the_client(service: SigningService, tls: TLS) -> None:
    with Client(service.target, tls=tls) as client:
        client.sign(subject="87b4")

    with pytest.raises(RuntimeError, match="closed"):
        client.sign(subject="87b4")


async def test_leaving_the_async_context_closes_the_client(service: SigningService, tls: TLS) -> None:
    async with AsyncClient(service.target, tls=tls) as client:
        await client.sign(subject="87b4")

    with pytest.raises(RuntimeError, match="closed"):
        await client.sign(subject="87b4")


def test_closing_ends_the_calls_of_other_threads(service: SigningService, tls: TLS) -> None:
    service.may_answer.clear()
    client = Client(service.target, tls=tls)
    ended: list[BaseException] = []

    def call() -> None:
        try:
            client.sign(subject="87b4")
        except KeyturnError as error:
            ended.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert service.arrived.acquire(timeout=5)
    client.close()
    caller.join()

    [error] = ended
    assert isinstance(error, KeyturnError)
    assert error.code is StatusCode.CANCELLED


async def test_closing_ends_the_calls_of_other_tasks_without_cancelling_them(service: SigningService, tls: TLS) -> None:
    service.may_answer.clear()
    client = AsyncClient(service.target, tls=tls)
    call = asyncio.create_task(client.sign(subject="87b4"))
    assert await asyncio.to_thread(service.arrived.acquire, timeout=5)
    await client.close()

    with pytest.raises(KeyturnError, match="closed during the call") as raised:
        await call

    assert raised.value.code is StatusCode.CANCELLED


@pytest.mark.parametrize("closed_too", [False, True])
async def test_a_task_that_is_cancelled_during_a_call_stays_cancelled(
    closed_too: bool, service: SigningService, tls: TLS
) -> None:
    service.may_answer.clear()
    async with AsyncClient(service.target, tls=tls) as client:
        call = asyncio.create_task(client.sign(subject="87b4"))
        assert await asyncio.to_thread(service.arrived.acquire, timeout=5)
        call.cancel()
        if closed_too:
            await client.close()
        with pytest.raises(asyncio.CancelledError):
            await call


def test_threads_share_a_client_and_wait_side_by_side(service: SigningService, tls: TLS) -> None:
    service.may_answer.clear()
    with Client(service.target, tls=tls) as client, ThreadPoolExecutor(max_workers=2) as threads:
        calls = [threads.submit(client.sign, subject=subject) for subject in ("a", "b")]
        both_arrived = all(service.arrived.acquire(timeout=4) for _ in calls)
        service.may_answer.set()

    assert both_arrived
    assert [call.result().token for call in calls] == ["a.b.c"] * 2


async def test_tasks_share_an_async_client_and_wait_side_by_side(service: SigningService, tls: TLS) -> None:
    service.may_answer.clear()
    async with AsyncClient(service.target, tls=tls) as client:
        calls = [asyncio.create_task(client.sign(subject=subject)) for subject in ("a", "b")]
        both_arrived = [await asyncio.to_thread(service.arrived.acquire, timeout=4) for _ in calls]
        service.may_answer.set()
        signed = await asyncio.gather(*calls)

    assert both_arrived == [True, True]
    assert [each.token for each in signed] == ["a.b.c"] * 2


def test_an_async_client_is_not_made_without_an_event_loop(tls: TLS) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncClient("127.0.0.1:1", tls=tls)


def test_the_repr_of_a_client_shows_its_target_alone(new_client: NewClient, tls: TLS) -> None:
    with new_client("127.0.0.1:1", tls=tls) as client:
        assert repr(client) in {"Client('127.0.0.1:1')", "AsyncClient('127.0.0.1:1')"}


def test_no_error_and_no_repr_holds_a_secret(new_client: NewClient, tls: TLS) -> None:
    with new_client("127.0.0.1:1", tls=tls) as client, pytest.raises(Unavailable) as raised:
        client.sign(subject="secret subject", context={"cart": "secret value"})

    shown = f"{raised.value!r} {raised.value} {raised.value.__cause__!r} {client!r} {tls!r}"
    key_lines = Path(tls.private_key).read_text().splitlines()
    for secret in ("secret subject", "secret value", *key_lines):
        assert secret not in shown


def test_a_missing_file_stops_the_making_of_a_client(new_client: NewClient, tls: TLS) -> None:
    with pytest.raises(FileNotFoundError, match=r"TLS\.ca cannot be read"):
        new_client("127.0.0.1:1", tls=replace(tls, ca="missing.pem"))


def test_a_ca_that_did_not_sign_the_service_is_told_with_what_to_check(
    new_client: NewClient, service: SigningService, tls: TLS, foreign_authority: Authority
) -> None:
    wrong = replace(tls, ca=foreign_authority.ca)

    with new_client(service.target, tls=wrong) as client, pytest.raises(Unavailable) as raised:
        client.sign(subject="87b4")

    assert str(raised.value).startswith(f"cannot reach {service.target}: check that the target is right")
    assert "CERTIFICATE_VERIFY_FAILED" in str(raised.value)
    assert raised.value.retry_after is None


def test_a_certificate_that_the_service_does_not_accept_is_told_with_what_to_check(
    new_client: NewClient, service: SigningService, tls: TLS, foreign_authority: Authority
) -> None:
    foreign = replace(foreign_authority.issue("frontend.test"), ca=tls.ca)

    with new_client(service.target, tls=foreign) as client, pytest.raises(Unavailable) as raised:
        client.sign(subject="87b4")

    assert "the service accepts TLS.certificate" in str(raised.value)
    assert service.requests == []


def test_a_service_whose_certificate_has_another_name_is_known_by_server_name(
    new_client: NewClient, authority: Authority, tls: TLS
) -> None:
    service = SigningService(authority.issue("keyturn.internal"))
    try:
        with new_client(service.target, tls=tls, server_name="keyturn.internal") as client:
            assert client.sign(subject="87b4").token == "a.b.c"
        with new_client(service.target, tls=tls) as client, pytest.raises(Unavailable, match="Hostname"):
            client.sign(subject="87b4")
    finally:
        service.stop()
