"""The command, as an operator types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.deployment import Deployment, environment
from tests.integration.test_end_to_end import SUBJECT

SECRETS = {"kek", "keyturn.db", "keyturn.toml", "tls/ca.key", "tls/server.key", "tls/client.key"}


def test_what_init_makes_is_closed_to_others(deployment: Deployment) -> None:
    made = {str(path.relative_to(deployment.folder)) for path in deployment.folder.rglob("*") if path.is_file()}
    assert made >= SECRETS
    for name in SECRETS:
        assert (deployment.folder / name).stat().st_mode & 0o777 == 0o600


def test_init_never_overwrites(deployment: Deployment) -> None:
    before = deployment.config.read_bytes()
    (deployment.folder / "keyturn.db").unlink()
    done = deployment.keyturn("init", str(deployment.folder))
    assert done.returncode == 78
    assert "never overwrites" in done.stderr
    assert deployment.config.read_bytes() == before
    assert not (deployment.folder / "keyturn.db").exists()


def test_init_says_what_to_do_next(tmp_path: Path, deployment: Deployment) -> None:
    done = deployment.keyturn("init", str(tmp_path / "new"))
    assert done.returncode == 0
    assert f"--config {tmp_path / 'new' / 'keyturn.toml'} serve" in done.stdout


def test_a_token_is_printed_alone_and_verifies_from_each_document(served: Deployment) -> None:
    signed = served.keyturn("token", "sign", "--subject", SUBJECT, "--context", "msdyn_isvip=false", "--lifetime", "5m")
    assert signed.returncode == 0, signed.stderr
    token = signed.stdout.strip()
    assert signed.stdout == f"{token}\n"
    for name in ("publickey", ".well-known/jwks.json", "publickey.pem"):
        verified = served.keyturn("token", "verify", "-", "--keys", served.url(f"contoso/{name}"), stdin=signed.stdout)
        assert verified.returncode == 0, verified.stderr
        assert json.loads(verified.stdout)["sub"] == SUBJECT


def test_a_token_of_another_service_is_not_verified(served: Deployment, deployment: Deployment) -> None:
    token = served.keyturn("token", "sign", "--subject", SUBJECT).stdout
    (deployment.folder / "keys.pem").write_bytes(served.document("contoso/publickey.pem"))
    altered = token[:-10] + ("A" if token[-10] != "A" else "B") + token[-9:]
    done = served.keyturn("token", "verify", "-", "--keys", str(deployment.folder / "keys.pem"), stdin=altered)
    assert done.returncode == 1
    assert done.stderr.startswith("keyturn: signature")
    assert token.strip() not in done.stderr


def test_decode_shows_what_a_token_says(served: Deployment) -> None:
    token = served.keyturn("token", "sign", "--subject", SUBJECT, "--context", "msdyn_isvip=ä").stdout
    shown = json.loads(served.keyturn("token", "decode", "-", stdin=token).stdout)
    assert shown["claims"]["sub"] == SUBJECT
    assert shown["context"] == {"msdyn_isvip": "ä"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["token", "sign"], 2, "--subject"),
        (["token", "sign", "--subject", "a", "--context", "novalue"], 2, "NAME=VALUE"),
        (["token", "sign", "--subject", "a", "--lifetime", "soon"], 2, "15m"),
        (["token", "sign", "--subject", "a", "--context", "other=1"], 1, 'context["other"]'),
        (["token", "decode", "nonsense"], 1, "three parts"),
        (["token", "verify", "a.b.c", "--keys", "nowhere.pem"], 1, "nowhere.pem"),
        (["keys", "list", "--issuer", "nobody"], 1, "nobody"),
        (["keys", "revoke", "unknown", "--reason", "a"], 1, "unknown"),
        (["keys", "revoke", "unknown"], 2, "--reason"),
        (["keys", "rotate", "--force"], 1, "reason"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_what_goes_wrong_is_one_message_and_an_exit_code(
    served: Deployment, arguments: list[str], code: int, message: str
) -> None:
    done = served.keyturn(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_keys_say_when_the_service_is_not_running(deployment: Deployment) -> None:
    done = deployment.keyturn("keys", "list")
    assert done.returncode == 1
    assert "keyturn.sock" in done.stderr


def test_keys_list_is_a_table_for_people(served: Deployment) -> None:
    shown = served.keyturn("keys", "list").stdout
    for kid, state in zip(served.jwks_kids(), ("active", "pre-active"), strict=True):
        assert any(kid in line and state in line for line in shown.splitlines())


def test_the_configuration_is_found_where_the_environment_says(served: Deployment) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "keyturn_server", "keys", "list"],
        env={**environment(), "KEYTURN_CONFIG": str(served.config)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
