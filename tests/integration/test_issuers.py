"""Issuers over their life: made from the configuration, imported with a key of their own, changed, retired."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest

from tests.integration.deployment import Deployment
from tests.integration.verifiers import verify_with_pyjwt

SHOP = """
[[issuers]]
id = "shop"
iss = "shop.example"

[[issuers]]
id = "bazaar"
iss = "bazaar.example"
"""


@pytest.fixture
def started(deployment: Deployment) -> Deployment:
    deployment.start()
    return deployment


def configure(deployment: Deployment, text: str) -> None:
    """Adds to the configuration, and lets the sample caller sign for the new issuer."""
    deployment.config.write_text(
        deployment.config.read_text().replace('issuers = ["contoso"]', 'issuers = ["contoso", "shop"]') + text
    )


def restart(deployment: Deployment) -> None:
    assert deployment.stop() == 0
    deployment.start()


def rsa_key(path: Path, bits: int = 2048, exponent: int = 65537) -> Path:
    """A key as a site has it: made by OpenSSL, in PEM."""
    option = [f"rsa_keygen_bits:{bits}", "-pkeyopt", f"rsa_keygen_pubexp:{exponent}"]
    subprocess.run(["openssl", "genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", *option, "-out", path], check=True)
    return path


def test_serve_warns_of_an_issuer_that_is_not_in_the_store_and_apply_makes_it(started: Deployment) -> None:
    configure(started, SHOP)
    restart(started)
    assert "is configured and not in the store" in started.log.read_text()
    assert started.get(started.url("shop/publickey")).status == 404
    plan = started.keyturn("issuers", "apply", "--issuer", "shop", "--dry-run")
    assert "the first signer of a new issuer" in plan.stdout
    assert started.get(started.url("shop/publickey")).status == 404
    applied = started.keyturn("issuers", "apply")
    assert applied.returncode == 0, applied.stderr
    assert "Issuer contoso is as configured" in applied.stdout
    with started.client() as client:
        signed = client.sign(subject="a", issuer="shop")
    verify_with_pyjwt(signed.token, started.document("shop/.well-known/jwks.json"), "shop.example")


def test_a_changed_policy_is_in_force_only_after_apply(started: Deployment) -> None:
    started.configure(propagation_window='"2d"', verifier_cache='"1d"')
    restart(started)
    assert "propagation_window is 1 day, 0:00:00, configured 2 days, 0:00:00" in started.log.read_text()
    before = started.keys("list")
    plan = json.loads(started.keyturn("issuers", "apply", "--dry-run", "--output", "json").stdout)
    changed = [step["description"].split()[0] for step in plan["plan"]["steps"]]
    assert changed == ["propagation_window", "verifier_cache"]
    assert started.keys("list")["version"] == before["version"]
    assert started.keyturn("issuers", "apply").returncode == 0
    issuers = json.loads(started.keyturn("issuers", "list", "--output", "json").stdout)["issuers"]
    assert issuers[0]["policy"]["propagation_window"] == "172800s"
    assert int(started.keys("list")["version"]) == int(before["version"]) + 1


def test_an_issuer_with_another_iss_is_refused(started: Deployment) -> None:
    started.configure(iss='"elsewhere.example"')
    refused = started.keyturn("issuers", "apply")
    assert refused.returncode == 1
    assert "make another issuer" in refused.stderr


def test_a_retired_issuer_signs_no_more_and_its_documents_stay(started: Deployment) -> None:
    with started.client() as client:
        signed = client.sign(subject="a")
    refused = started.keyturn("issuers", "retire", "contoso", "--reason", "closed")
    assert refused.returncode == 78
    assert "remove it from the configuration" in refused.stderr
    started.config.write_text(
        started.config.read_text()
        .replace('id = "contoso"', 'id = "other"')
        .replace('issuers = ["contoso"]', 'issuers = ["other"]')
        .replace('iss = "contosohelp.com"', 'iss = "other.example"')
    )
    retired = started.keyturn("issuers", "retire", "contoso", "--reason", "closed")
    assert retired.returncode == 0, retired.stderr
    verify_with_pyjwt(signed.token, started.document("contoso/.well-known/jwks.json"))
    assert started.get(started.url("contoso/publickey.pem")).status == 503
    with started.client() as client, pytest.raises(Exception, match="no key that may sign"):
        client.sign(subject="a")
    again = started.keyturn("issuers", "retire", "contoso", "--reason", "closed")
    assert "was retired" in again.stderr


@pytest.fixture(scope="module")
def importing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A running deployment with an issuer that is configured and not in the store."""
    made = Deployment(tmp_path_factory.mktemp("importing") / "keyturn")
    configure(made, SHOP)
    made.start()
    yield made
    assert made.stop() == 0


def test_tokens_of_the_old_system_and_of_keyturn_verify_with_the_same_imported_key(
    importing: Deployment, tmp_path: Path
) -> None:
    pem = rsa_key(tmp_path / "old.pem")
    old_token = jwt.encode({"iss": "shop.example", "sub": "a", "exp": 9999999999}, pem.read_text(), algorithm="RS256")
    plan = importing.keyturn("keys", "import", "--issuer", "shop", str(pem), "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert importing.get(importing.url("shop/publickey")).status == 404
    imported = importing.keyturn("keys", "import", "--issuer", "shop", "-", stdin=pem.read_text())
    assert imported.returncode == 0, imported.stderr
    with importing.client() as client:
        new_token = client.sign(subject="a", issuer="shop").token
    document = importing.document("shop/publickey.pem").decode()
    for token in (old_token, new_token):
        assert jwt.decode(token, document, algorithms=["RS256"])["iss"] == "shop.example"
    assert len(json.loads(importing.document("shop/publickey"))) == 2
    again = importing.keyturn("keys", "import", "--issuer", "shop", str(pem))
    assert (again.returncode, "already" in again.stderr) == (1, True)


def test_keys_that_may_not_sign_are_refused_with_the_reason(importing: Deployment, tmp_path: Path) -> None:
    good = rsa_key(tmp_path / "good.pem")
    public, encrypted, elliptic = tmp_path / "public.pem", tmp_path / "encrypted.pem", tmp_path / "elliptic.pem"
    subprocess.run(["openssl", "pkey", "-in", good, "-pubout", "-out", public], check=True)
    subprocess.run(["openssl", "pkey", "-in", good, "-aes256", "-passout", "pass:right", "-out", encrypted], check=True)
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", elliptic], check=True
    )
    wrong = tmp_path / "passphrase"
    wrong.write_text("wrong\n")
    cases = {
        (str(rsa_key(tmp_path / "small.pem", bits=1024)),): "1024 bits",
        (str(rsa_key(tmp_path / "exponent.pem", exponent=3)),): "exponent 3",
        (str(public),): "public half",
        (str(encrypted),): "passphrase is needed",
        (str(encrypted), "--passphrase-file", str(wrong)): "the right one?",
        (str(elliptic),): "not an RSA key",
        (str(importing.config),): "no PEM",
    }
    for arguments, reason in cases.items():
        refused = importing.keyturn("keys", "import", "--issuer", "bazaar", *arguments)
        assert refused.returncode == 1
        assert reason in refused.stderr


def test_a_passphrase_comes_from_a_file(importing: Deployment, tmp_path: Path) -> None:
    good, encrypted, passphrase = rsa_key(tmp_path / "good.pem"), tmp_path / "encrypted.pem", tmp_path / "passphrase"
    subprocess.run(["openssl", "pkey", "-in", good, "-aes256", "-passout", "pass:right", "-out", encrypted], check=True)
    passphrase.write_text("right\n")
    arguments = ["--issuer", "bazaar", str(encrypted), "--passphrase-file", str(passphrase), "--dry-run"]
    done = importing.keyturn("keys", "import", *arguments)
    assert done.returncode == 0, done.stderr


def test_the_timeline_shows_a_row_for_each_key_and_now(importing: Deployment) -> None:
    shown = importing.keyturn("keys", "timeline", "--issuer", "contoso")
    assert shown.returncode == 0, shown.stderr
    first, second = (key["key_id"] for key in importing.keys("list", "--issuer", "contoso")["keys"])
    rows = {line.split()[0]: line for line in shown.stdout.splitlines() if "|" in line and "now" not in line}
    assert list(rows) == [first[:12], second[:12]]
    assert "█" in rows[first[:12]]
    assert "░" in rows[second[:12]]
    data = importing.keys("timeline", "--issuer", "contoso")
    assert [[part["state"] for part in key["segments"]] for key in data["keys"]] == [
        ["active", "deactivated"],
        ["pre-active", "active"],
    ]
