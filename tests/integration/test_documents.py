"""The documents over HTTP, as verifiers and caches meet them."""

import json

import pytest

from tests.integration.deployment import Deployment

NAMES = ["publickey", ".well-known/jwks.json", "publickey.pem"]


@pytest.mark.parametrize("name", NAMES)
def test_a_document_may_be_cached_and_read_from_any_page(served: Deployment, name: str) -> None:
    answer = served.get(served.url(f"contoso/{name}"))
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert int(answer.headers["Keyturn-Ring-Version"]) >= 1
    assert b"PRIVATE" not in answer.body


@pytest.mark.parametrize("name", NAMES)
def test_who_has_the_document_already_gets_304_without_it(served: Deployment, name: str) -> None:
    etag = served.get(served.url(f"contoso/{name}")).headers["ETag"]
    for held in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = served.get(served.url(f"contoso/{name}"), headers={"If-None-Match": held})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["ETag"] == etag
    assert served.get(served.url(f"contoso/{name}"), headers={"If-None-Match": '"other"'}).status == 200


@pytest.mark.parametrize("name", NAMES)
def test_head_tells_the_same_without_the_document(served: Deployment, name: str) -> None:
    whole, head = served.get(served.url(f"contoso/{name}")), served.get(served.url(f"contoso/{name}"), method="HEAD")
    assert (head.status, head.body) == (200, b"")
    for header in ("ETag", "Content-Length", "Content-Type", "Cache-Control"):
        assert head.headers[header] == whole.headers[header]


@pytest.mark.parametrize("name", NAMES)
def test_the_default_issuers_documents_are_at_the_unprefixed_paths(served: Deployment, name: str) -> None:
    assert served.document(name) == served.document(f"contoso/{name}")


@pytest.mark.parametrize("path", ["nobody/publickey", "nobody/.well-known/jwks.json", "", "contoso", "contoso/other"])
def test_what_does_not_exist_is_404_and_makes_nothing(served: Deployment, path: str) -> None:
    version = served.keys("list")["version"]
    assert served.get(served.url(path)).status == 404
    assert served.keys("list")["version"] == version


def test_a_document_cannot_be_written(served: Deployment) -> None:
    assert served.get(served.url("contoso/publickey"), method="POST").status == 405


def test_the_three_documents_hold_the_same_keys_and_no_private_member(served: Deployment) -> None:
    jwks = json.loads(served.document("contoso/.well-known/jwks.json"))["keys"]
    array = json.loads(served.document("contoso/publickey"))
    assert [key["kid"] for key in jwks] == [entry["kid"] for entry in array]
    assert all(set(key) == {"alg", "e", "kid", "kty", "n", "use"} for key in jwks)
    assert all(set(entry) == {"expiry", "kid", "publicKey"} for entry in array)


def test_health_is_told_on_the_operations_listener_only(served: Deployment) -> None:
    assert served.get(f"http://{served.operations}/livez").body == b"alive\n"
    assert served.get(f"http://{served.operations}/readyz").body == b"ready\n"
    assert served.get(served.url("livez")).status == 404
