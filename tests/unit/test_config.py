"""The configuration: what is taken, what is refused, and how the refusal reads."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from keyturn_server.config import Address, Configuration, find_configuration, load_configuration, loading, reference
from keyturn_server.config.reference import variables
from keyturn_server.config.settings import Storage
from keyturn_server.config.values import parse_address, parse_duration
from keyturn_server.domain.claims import VariableType
from keyturn_server.domain.errors import ConfigurationError, NotAuthenticatedError

SIGNING = """
certificate = "tls/server.pem"
private_key = "/etc/keyturn/server.key"
client_ca = "ca.pem"
"""
INTEGRITY = 'public_key = "c29tZSBwdWJsaWMga2V5"'
CONTOSO = 'id = "contoso"\niss = "contosohelp.com"\n'
FABRIKAM = 'id = "fabrikam"\niss = "fabrikam.example"\n'
SHOP = 'identity = "spiffe://contoso/shop"\nissuers = ["contoso"]\n'
CLIENT = 'target = "localhost:8443"\nca = "ca.pem"\ncertificate = "client.pem"\nprivate_key = "client.key"\n'

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a right configuration, with what the test says in place of its sections."""

    def write(*, issuers: tuple[str, ...] = (CONTOSO,), callers: tuple[str, ...] = (SHOP,), **sections: str) -> Path:
        bodies = {"signing": SIGNING, "integrity": INTEGRITY, **sections}
        text = "".join(f"[{name}]\n{body}\n" for name, body in bodies.items())
        text += "".join(f"[[issuers]]\n{body}\n" for body in issuers)
        text += "".join(f"[[callers]]\n{body}\n" for body in callers)
        return save(tmp_path, text)

    return write


def save(folder: Path, text: str | bytes) -> Path:
    path = folder / "keyturn.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return path


def refusal(path: Path, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(path, environ or {})
    message = caught.value.message
    assert message.isprintable(), "one line"
    return message


# --- what is taken -----------------------------------------------------------------------------------------------


def test_a_file_with_what_is_required_alone_gets_every_default(write: Write) -> None:
    configuration = load_configuration(write(), {})

    assert configuration.signing.listen == Address("127.0.0.1", 8443)
    assert configuration.signing.max_message_bytes == 64 * 1024
    assert configuration.signing.drain == timedelta(seconds=10)
    assert configuration.client is None
    assert configuration.publisher.listen == Address("127.0.0.1", 8080)
    assert configuration.publisher.max_age == timedelta(minutes=5)
    assert configuration.operations.listen == Address("127.0.0.1", 9090)
    assert configuration.storage.poll_interval == timedelta(seconds=2)
    assert configuration.kek.provider == "file"
    assert configuration.integrity.public_key_bytes == b"some public key"
    assert configuration.clock.tolerance == timedelta(minutes=1)
    (issuer,) = configuration.issuers
    assert (issuer.default, issuer.audience, issuer.key_size, issuer.context_variables) == (False, "", 2048, {})
    assert issuer.rotation_period == timedelta(days=30)
    assert issuer.propagation_window == timedelta(hours=24)
    assert issuer.verifier_cache == timedelta(hours=12)
    assert issuer.signing_lease == timedelta(hours=6)
    assert issuer.max_token_lifetime == timedelta(hours=1)
    assert issuer.default_token_lifetime == timedelta(minutes=15)


def test_relative_paths_are_relative_to_the_folder_of_the_file(write: Write, tmp_path: Path) -> None:
    configuration = load_configuration(write(client=CLIENT), {"KEYTURN_KEK__FILE": "secret/kek"})

    assert configuration.signing.certificate == tmp_path / "tls/server.pem"
    assert configuration.signing.private_key == Path("/etc/keyturn/server.key")
    assert configuration.admin.listen == tmp_path / "admin/keyturn.sock"
    assert configuration.kek.file == tmp_path / "secret/kek"
    assert configuration.client is not None
    assert configuration.client.certificate == tmp_path / "client.pem"
    assert configuration.storage.url == f"sqlite:///{tmp_path}/keyturn.db"


def test_a_relative_file_stands_in_the_current_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    monkeypatch.chdir(tmp_path)
    assert load_configuration(Path("keyturn.toml"), {}).kek.file == tmp_path / "kek"


def test_the_url_of_a_database_elsewhere_stays_as_it_is(write: Write) -> None:
    url = "sqlite:////var/lib/keyturn/keyturn.db"
    assert load_configuration(write(storage=f'url = "{url}"'), {}).storage.url == url


def test_a_folder_with_odd_characters_is_encoded_in_the_database_url(tmp_path: Path, write: Write) -> None:
    odd = tmp_path / "what? 100% #ß"
    odd.mkdir()
    path = write(admin='listen = "/run/keyturn.sock"')  # a path below `odd` may be too long for a Unix socket
    url = load_configuration(path.rename(odd / "keyturn.toml"), {}).storage.url
    assert "?" not in url
    assert "#" not in url
    assert unquote(url) == f"sqlite:///{odd}/keyturn.db"


def test_a_variable_wins_over_the_file(write: Write) -> None:
    path = write(publisher='max_age = "2m"\nlisten = "0.0.0.0:80"')
    configuration = load_configuration(path, {"KEYTURN_PUBLISHER__MAX_AGE": "1m"})
    assert configuration.publisher.max_age == timedelta(minutes=1)
    assert configuration.publisher.listen == Address("0.0.0.0", 80)


def test_every_setting_outside_the_lists_can_come_from_its_variable(tmp_path: Path) -> None:
    environ = {
        "KEYTURN_SIGNING__LISTEN": "[::1]:0",
        "KEYTURN_SIGNING__CERTIFICATE": "/1",
        "KEYTURN_SIGNING__PRIVATE_KEY": "/2",
        "KEYTURN_SIGNING__CLIENT_CA": "/3",
        "KEYTURN_SIGNING__MAX_MESSAGE_BYTES": "1024",
        "KEYTURN_SIGNING__DRAIN": "0s",
        "KEYTURN_ADMIN__LISTEN": "/4",
        "KEYTURN_CLIENT__TARGET": "localhost:1",
        "KEYTURN_CLIENT__CA": "/5",
        "KEYTURN_CLIENT__CERTIFICATE": "/6",
        "KEYTURN_CLIENT__PRIVATE_KEY": "/7",
        "KEYTURN_CLIENT__SERVER_NAME": "name",
        "KEYTURN_PUBLISHER__LISTEN": "localhost:2",
        "KEYTURN_PUBLISHER__MAX_AGE": "3s",
        "KEYTURN_OPERATIONS__LISTEN": "localhost:4",
        "KEYTURN_STORAGE__URL": "sqlite:////5",
        "KEYTURN_STORAGE__POLL_INTERVAL": "6s",
        "KEYTURN_KEK__PROVIDER": "file",
        "KEYTURN_KEK__FILE": "/7",
        "KEYTURN_INTEGRITY__PUBLIC_KEY": "AAAA",
        "KEYTURN_CLOCK__TOLERANCE": "8s",
    }
    assert environ.keys() == variables().keys()
    configuration = load_configuration(save(tmp_path, f"[[issuers]]\n{CONTOSO}"), environ)
    for name, (section, member) in variables().items():
        value = getattr(getattr(configuration, section), member)
        shown = f"{value.total_seconds():g}s" if isinstance(value, timedelta) else str(value)
        assert shown == environ[name], name


def test_the_process_environment_is_not_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTURN_PUBLISHER__MAX_AGE", "1m")
    monkeypatch.setenv("PUBLISHER", '{"max_age": "1m"}')
    assert load_configuration(write(), {}).publisher.max_age == timedelta(minutes=5)

    monkeypatch.setenv("integrity", '{"public_key": "AAAA"}')
    with pytest.raises(ValidationError, match=r"integrity\.public_key\s+Field required"):
        Configuration()


@pytest.mark.parametrize(
    "name", ["KEYTURN_CONFIG", "KEYTURN_SERVICE_HOST", "KEYTURN_ISSUERS_PORT", "ISSUERS", "OTHER__NAME"]
)
def test_variables_that_are_no_settings_are_left_alone(write: Write, name: str) -> None:
    """Kubernetes makes some of them for every service, after its name."""
    load_configuration(write(), {name: "x"})


def test_a_configuration_cannot_be_changed(write: Write) -> None:
    configuration: Any = load_configuration(write(), {})
    with pytest.raises(ValueError, match="frozen"):
        configuration.publisher = None
    with pytest.raises(ValueError, match="frozen"):
        configuration.publisher.max_age = timedelta(0)


# --- what it means to the domain -----------------------------------------------------------------------------------


def test_settings_become_policies_rules_and_callers(write: Write) -> None:
    path = write(
        publisher='max_age = "1m"',
        clock='tolerance = "2s"',
        issuers=(
            CONTOSO + 'default = true\naudience = "omnichannel"\ndefault_token_lifetime = "5m"\n'
            'context_variables = { msdyn_cartvalue = "number", msdyn_isvip = "text" }',
            FABRIKAM + 'key_size = 3072\nrotation_period = "7d"',
        ),
        callers=(SHOP + 'max_token_lifetime = "10m"\nadditional_claims = ["email", "tier"]',),
    )
    configuration = load_configuration(path, {})

    assert configuration.default_issuer == "contoso"
    assert configuration.iss_claims() == {"contoso": "contosohelp.com", "fabrikam": "fabrikam.example"}
    policies = configuration.policies()
    assert list(policies) == ["contoso", "fabrikam"]
    assert policies["fabrikam"].rotation_period == timedelta(days=7)
    assert policies["fabrikam"].propagation_window == timedelta(hours=24)
    assert policies["fabrikam"].verifier_cache == timedelta(hours=12)
    assert policies["fabrikam"].signing_lease == timedelta(hours=6)
    assert policies["fabrikam"].max_token_lifetime == timedelta(hours=1)
    assert policies["fabrikam"].document_max_age == timedelta(minutes=1)
    assert policies["fabrikam"].clock_tolerance == timedelta(seconds=2)
    assert [policy.key_size for policy in policies.values()] == [2048, 3072]
    rules = configuration.token_rules()
    assert rules["contoso"].default_lifetime == timedelta(minutes=5)
    assert rules["contoso"].audience == "omnichannel"
    assert rules["contoso"].context_variables == {
        "msdyn_cartvalue": VariableType.NUMBER,
        "msdyn_isvip": VariableType.TEXT,
    }
    assert rules["fabrikam"].audience == ""
    caller = configuration.known_callers().identify(["spiffe://contoso/shop"])
    assert caller.issuers == {"contoso"}
    assert caller.max_token_lifetime == timedelta(minutes=10)
    assert caller.additional_claims == {"email", "tier"}


def test_a_single_issuer_is_the_default_only_when_marked(write: Write) -> None:
    assert load_configuration(write(), {}).default_issuer is None


def test_a_service_may_have_no_callers_yet(write: Write) -> None:
    with pytest.raises(NotAuthenticatedError):
        load_configuration(write(callers=()), {}).known_callers().identify(["spiffe://contoso/shop"])


# --- what is refused, and how the refusal reads ---------------------------------------------------------------------

BAD_SECTIONS = [
    ({"signing": 'certificate = "c"\nprivate_key = "k"'}, "signing.client_ca: is required"),
    ({"signing": SIGNING + 'lisen = "localhost:1"'}, "signing.lisen: is not a setting; did you mean signing.listen?"),
    ({"signing": SIGNING + "max_message_bytes = 1023"}, "signing.max_message_bytes: must be greater than or equal to"),
    ({"signing": SIGNING + "max_message_bytes = 4194305"}, "signing.max_message_bytes: must be less than or equal to"),
    ({"signing": SIGNING + 'max_message_bytes = "1k"'}, "signing.max_message_bytes: must be a whole number"),
    ({"signing": SIGNING + "listen = 8443"}, 'signing.listen: must be "host:port"'),
    ({"signing": SIGNING.replace('"ca.pem"', '""')}, "signing.client_ca: must be a path in quotes"),
    ({"admin": f'listen = "/{"s" * 100}"'}, "admin.listen: the absolute path has 101 bytes"),
    ({"admin": f'listen = "/{"ß" * 50}"'}, "admin.listen: the absolute path has 101 bytes"),
    ({"client": 'target = "localhost:8443"'}, "client.ca: is required"),
    ({"client": CLIENT.replace("localhost:8443", "")}, "client.target: must have 1 to 255 characters"),
    ({"publisher": "max_age = 300"}, 'publisher.max_age: must be a duration with a unit, such as "30d"'),
    ({"publishr": ""}, "publishr: is not a setting; did you mean publisher?"),
    ({"_env_file": ""}, "_env_file: is not a setting"),
    ({"Publisher": ""}, "Publisher: is not a setting; did you mean publisher?"),
    ({"storage": 'url = "mysql://db"'}, 'storage.url: must start with "sqlite:///"'),
    ({"storage": 'url = "sqlite:///"'}, "storage.url: must name a file"),
    ({"storage": 'url = "sqlite:///:memory:"'}, "storage.url: must name a file"),
    ({"storage": 'url = "sqlite:///keyturn.db?mode=ro"'}, "storage.url: must be a plain path"),
    ({"storage": 'url = "postgresql://db/keyturn"'}, 'storage.url: must start with "sqlite:///"'),
    ({"storage": 'poll_interval = "0s"'}, "storage.poll_interval: must be at least 10ms"),
    ({"storage": 'poll_interval = "6h"'}, "issuers[contoso].signing_lease: is 6:00:00 and must be longer than"),
    ({"kek": 'provider = "paper"'}, "kek.provider: must be 'file'"),
    ({"integrity": ""}, "integrity.public_key: is required"),
    ({"integrity": 'public_key = "not base64!"'}, "integrity.public_key: must be base64 text"),
    ({"integrity": 'public_key = "QUJD!REVG"'}, "integrity.public_key: must be base64 text"),
    ({"integrity": 'public_key = ""'}, "integrity.public_key: must be base64 text"),
    ({"clock": 'tolerance = "4h"'}, "issuers[contoso].propagation_window: propagation_window is 1 day, 0:00:00 and"),
    ({"issuers": 'id = "contoso"', "[issuers": ""}, "is not valid TOML"),
]


@pytest.mark.parametrize(("sections", "message"), BAD_SECTIONS)
def test_a_wrong_section_is_refused_by_the_name_of_its_setting(
    write: Write, sections: dict[str, str], message: str
) -> None:
    path = write(**{**sections, "issuers": (CONTOSO,)})
    assert refusal(path).startswith(f"{path}: {message}")


BAD_ISSUERS = [
    ((), "issuers: at least one [[issuers]] entry is needed"),
    (('iss = "contosohelp.com"',), "issuers[0].id: is required"),
    (('id = ""\niss = "x"',), "issuers[0].id: must be 1 to 63 of"),
    (('id = "Contoso"\niss = "x"',), "issuers[Contoso].id: must be 1 to 63 of"),
    (('id = "-contoso"\niss = "x"',), "issuers[-contoso].id: must be 1 to 63 of"),
    (('id = "contoso\\n"\niss = "x"',), "issuers[contoso\\n].id: must be 1 to 63 of"),
    ((f'id = "{"c" * 64}"\niss = "x"',), f"issuers[{'c' * 64}].id: must be 1 to 63 of"),
    (('id = "metrics"\niss = "x"',), "issuers[metrics].id: is a path that keyturn serves itself"),
    (('id = ".well-known"\niss = "x"',), "issuers[.well-known].id: is a path that keyturn serves itself"),
    (('id = "publickey.pem"\niss = "x"',), "issuers[publickey.pem].id: is a path that keyturn serves itself"),
    (('id = "contoso"',), "issuers[contoso].iss: is required"),
    (('id = "contoso"\niss = ""',), "issuers[contoso].iss: must have 1 to 255 characters"),
    ((f'id = "contoso"\niss = "{"i" * 256}"',), "issuers[contoso].iss: must have 1 to 255 characters"),
    ((CONTOSO, CONTOSO.replace("help", "")), "issuers[contoso].id: stands in several [[issuers]] entries"),
    (
        (CONTOSO, FABRIKAM.replace("fabrikam.example", "contosohelp.com")),
        "issuers[fabrikam].iss: is the iss of contoso",
    ),
    (
        (CONTOSO + "default = true", FABRIKAM + "default = true"),
        "issuers[fabrikam].default: only one issuer can be the default, and contoso is already",
    ),
    ((CONTOSO + 'default = "yes"',), "issuers[contoso].default: must be true or false"),
    ((CONTOSO + "default = 1",), "issuers[contoso].default: must be true or false"),
    ((CONTOSO + "audience = 1",), "issuers[contoso].audience: must be text in quotes"),
    ((CONTOSO + "key_size = 1024",), "issuers[contoso].key_size: key_size is 1024; it may be 2048, 3072, 4096"),
    ((CONTOSO + 'key_size = "2048"',), "issuers[contoso].key_size: must be a whole number"),
    ((CONTOSO + "rotation_period = 30",), "issuers[contoso].rotation_period: must be a duration with a unit"),
    ((CONTOSO + 'rotation_period = "-30d"',), "issuers[contoso].rotation_period: must not be negative"),
    ((CONTOSO + 'rotation_period = "3651d"',), "issuers[contoso].rotation_period: must be at most 3650d"),
    ((CONTOSO + 'rotation_period = "24h"',), "issuers[contoso].rotation_period: rotation_period is 1 day, 0:00:00 and"),
    (
        (FABRIKAM, CONTOSO + 'propagation_window = "18h"'),
        "issuers[contoso].propagation_window: propagation_window is 18:00:00 and must be at least 18:07:00: verifier_",
    ),
    ((CONTOSO + 'signing_lease = "0s"',), "issuers[contoso].signing_lease: signing_lease is 0"),
    ((CONTOSO + 'max_token_lifetime = "999ms"',), "issuers[contoso].max_token_lifetime: must be at least 1s"),
    ((CONTOSO + 'default_token_lifetime = "0s"',), "issuers[contoso].default_token_lifetime: must be at least 1s"),
    (
        (CONTOSO + 'default_token_lifetime = "61m"',),
        "issuers[contoso].default_token_lifetime: is 1:01:00, longer than max_token_lifetime (1:00:00)",
    ),
    (
        (CONTOSO + 'context_variables = { msdyn_isvip = "boolean" }',),
        "issuers[contoso].context_variables.msdyn_isvip: must be 'text' or 'number'",
    ),
    (
        (CONTOSO + 'context_variables = { "" = "text" }',),
        "issuers[contoso].context_variables: a name must have 1 to 100",
    ),
    (
        (CONTOSO + f'context_variables = {{ "{"😀" * 51}" = "text" }}',),
        "issuers[contoso].context_variables: a name must have 1 to 100",
    ),
    (
        (CONTOSO + "[issuers.context_variables]\n" + "\n".join(f'v{n} = "text"' for n in range(101)),),
        "issuers[contoso].context_variables: declares 101 variables; at most 100",
    ),
    ((CONTOSO + "context_variables = []",), "issuers[contoso].context_variables: must be a table"),
    ((CONTOSO + "idd = 1",), "issuers[contoso].idd: is not a setting; did you mean issuers[].id?"),
]


@pytest.mark.parametrize(("issuers", "message"), BAD_ISSUERS)
def test_a_wrong_issuer_is_refused_by_its_id(write: Write, issuers: tuple[str, ...], message: str) -> None:
    path = write(issuers=issuers)
    assert refusal(path).startswith(f"{path}: {message}")


BAD_CALLERS = [
    (('issuers = ["contoso"]',), "callers[0].identity: is required"),
    (('identity = ""\nissuers = ["contoso"]',), "callers[0].identity: must have 1 to 255 characters"),
    (('identity = "shop"',), "callers[shop].issuers: is required"),
    (('identity = "shop"\nissuers = []',), "callers[shop].issuers: must name at least one issuer"),
    (('identity = "shop"\nissuers = "contoso"',), "callers[shop].issuers: must be a list"),
    (('identity = "shop"\nissuers = ["contoso", 1]',), "callers[shop].issuers[1]: must be text in quotes"),
    (
        ('identity = "shop"\nissuers = ["contoso", "fabrikam"]',),
        "callers[shop].issuers: names 'fabrikam', which is the id of no [[issuers]] entry",
    ),
    ((SHOP, SHOP), "callers[spiffe://contoso/shop].identity: stands in several [[callers]] entries"),
    ((SHOP + 'max_token_lifetime = "0s"',), "callers[spiffe://contoso/shop].max_token_lifetime: must be at least 1s"),
    ((SHOP + 'additional_claims = ["exp"]',), "callers[spiffe://contoso/shop].additional_claims: exp is reserved"),
    ((SHOP + 'additional_claims = [""]',), "callers[spiffe://contoso/shop].additional_claims: a name must have 1 to"),
    ((SHOP + "roles = []",), "callers[spiffe://contoso/shop].roles: is not a setting"),
]


@pytest.mark.parametrize(("callers", "message"), BAD_CALLERS)
def test_a_wrong_caller_is_refused_by_its_identity(write: Write, callers: tuple[str, ...], message: str) -> None:
    path = write(callers=callers)
    assert refusal(path).startswith(f"{path}: {message}")


BAD_VARIABLES = [
    ("KEYTURN_PUBLISHER__MAX_AGE", "300", 'must be a duration with a unit, such as "30d", "12h", "5m" or "500ms"'),
    ("KEYTURN_PUBLISHER__MAX_AGE", "", "must be a duration with a unit"),
    ("KEYTURN_SIGNING__MAX_MESSAGE_BYTES", "many", "must be a whole number"),
    ("KEYTURN_ADMIN__LISTEN", "/" + "s" * 100, "the absolute path has 101 bytes"),
    ("KEYTURN_PUBLISHER__MAXAGE", "1m", "sets nothing that keyturn knows; did you mean KEYTURN_PUBLISHER__MAX_AGE?"),
    ("KEYTURN_Publisher__max_age", "1m", "sets nothing that keyturn knows"),
    ("KEYTURN_NOTHING__OF__OURS", "1m", "sets nothing that keyturn knows"),
    ("KEYTURN_ISSUERS", "[]", "[[issuers]] and [[callers]] can be set in the file alone"),
    ("KEYTURN_ISSUERS__0__ISS", "x", "[[issuers]] and [[callers]] can be set in the file alone"),
    ("KEYTURN_CALLERS__0__IDENTITY", "x", "[[issuers]] and [[callers]] can be set in the file alone"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_VARIABLES)
def test_a_wrong_variable_is_refused_by_its_name(write: Write, name: str, value: str, message: str) -> None:
    assert refusal(write(), {name: value}).startswith(f"{name}: {message}")


def test_what_a_variable_leaves_incomplete_is_missed_in_the_file(write: Write) -> None:
    path = write()
    assert refusal(path, {"KEYTURN_CLIENT__TARGET": "localhost:1"}).startswith(f"{path}: client.ca: is required")


def test_all_that_is_wrong_stands_in_one_line_with_the_file_first(write: Write) -> None:
    path = write(publisher="max_age = 300", clock="tolerance = 1", callers=(SHOP + "roles = []",))
    message = refusal(path, {"KEYTURN_KEK__PROVIDER": "x", "KEYTURN_NO__SUCH": "x"})
    hint = 'must be a duration with a unit, such as "30d", "12h", "5m" or "500ms"'
    assert message == (
        f"{path}: publisher.max_age: {hint}; clock.tolerance: {hint}; "
        "callers[spiffe://contoso/shop].roles: is not a setting; KEYTURN_NO__SUCH: sets nothing that keyturn knows; "
        "KEYTURN_KEK__PROVIDER: must be 'file'"
    )


def test_a_long_list_of_what_is_wrong_is_cut(tmp_path: Path) -> None:
    assert refusal(save(tmp_path, "a = 1\nb = 1\nc = 1\n")).endswith("; a: is not a setting; and 2 more")


@pytest.mark.parametrize("name", ["issuers", "callers"])
def test_a_list_under_single_brackets_is_explained(tmp_path: Path, name: str) -> None:
    message = refusal(save(tmp_path, f'[{name}]\nid = "contoso"\n'))
    assert f"{name}: must be a list of tables: its heading has two brackets on each side" in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "signing = 1",
        "signing = []",
        "issuers = 1",
        "issuers = [1]",
        "issuers = [[]]",
        "callers = [[[]]]",
        "[[signing]]",
        "[signing.listen]",
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    path = save(tmp_path, text)
    assert refusal(path).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[signing\n", "is not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 9)"),
        ("\n[publisher]\nmax_age = 5m\n", "is not valid TOML: "),
        (b"\xff", "is not UTF-8 text"),
        ("a = " + "[" * 100_000, "is not valid TOML: "),
        ("a = " + "1" * 5_000, "is not valid TOML: "),
    ],
)
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = save(tmp_path, text)
    assert refusal(path).startswith(f"{path}: {message}")


def test_a_syntax_error_says_line_and_column(tmp_path: Path) -> None:
    assert "line 3, column 12" in refusal(save(tmp_path, "\n[publisher]\nmax_age = 5m\n"))


def test_a_name_with_a_line_break_stays_in_one_line(write: Write) -> None:
    message = refusal(write(publisher='"max\\nage" = 1', issuers=('id = "a\\u2028b"\niss = "x"',)))
    assert "publisher.max\\nage: is not a setting" in message
    assert "issuers[a\\u2028b].id: " in message


# --- secrets -------------------------------------------------------------------------------------------------------

CANARY = "hunter2-canary"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STORAGE__URL", f"mysql://keyturn:{CANARY}@db/keyturn"),
        ("STORAGE__URL", f"sqlite:///keyturn.db?key={CANARY}"),
        ("STORAGE__POLL_INTERVAL", CANARY),
        ("INTEGRITY__PUBLIC_KEY", CANARY),
        ("PUBLISHER__LISTEN", CANARY),
        ("SIGNING__MAX_MESSAGE_BYTES", CANARY),
        ("KEK__PROVIDER", CANARY),
        ("KEK__SECRET", CANARY),
    ],
)
def test_a_refused_value_is_not_repeated(write: Write, name: str, value: str) -> None:
    section, setting = name.lower().split("__")
    sections = {"signing": SIGNING} if section == "signing" else {}
    with pytest.raises(ConfigurationError) as from_file:
        load_configuration(write(**{**sections, section: f'{sections.get(section, "")}{setting} = "{value}"'}), {})
    with pytest.raises(ConfigurationError) as from_environment:
        load_configuration(write(), {f"KEYTURN_{name}": value})
    for error in (from_file.value, from_environment.value):
        assert CANARY not in f"{error} {error!r} {error.__cause__!r} {error.metadata}"


def test_a_section_alone_does_not_repeat_a_refused_value_either() -> None:
    with pytest.raises(ValidationError) as caught:
        Storage(url=f"mysql://keyturn:{CANARY}@db/keyturn")
    assert CANARY not in str(caught.value)


# --- the file itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777])
def test_a_file_that_others_may_write_is_refused(write: Write, mode: int) -> None:
    path = write()
    path.chmod(mode)
    assert refusal(path) == f"{path}: others than its owner may write it (mode {mode:04o}): chmod go-w {path}"


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o644])
def test_a_file_that_others_may_read_is_taken(write: Write, mode: int) -> None:
    path = write()
    path.chmod(mode)
    load_configuration(path, {})


def test_a_file_of_another_user_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:  # only root can give a file away; so another user reads ours
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    message = refusal(path)
    assert "must belong to root or to the user that runs keyturn: chown" in message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.toml") == f"{tmp_path / 'no.toml'}: cannot be read: No such file or directory"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


def test_the_file_is_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "etc" / "keyturn.toml"
    monkeypatch.setattr(loading, "SYSTEM_FILE", system)
    here = tmp_path / "here"
    for path in (system, here / "keyturn.toml", here / "named.toml", here / "explicit.toml"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    environ = {"KEYTURN_CONFIG": "named.toml"}

    assert find_configuration(Path("explicit.toml"), environ, here) == here / "explicit.toml"
    assert find_configuration(here / "explicit.toml", environ, tmp_path) == here / "explicit.toml"
    assert find_configuration(None, environ, here) == here / "named.toml"
    assert find_configuration(None, {"KEYTURN_CONFIG": ""}, here) == here / "keyturn.toml"
    assert find_configuration(None, {}, here) == here / "keyturn.toml"
    assert find_configuration(None, {}, tmp_path) == system


def test_a_named_file_that_is_missing_is_not_replaced_by_another(tmp_path: Path) -> None:
    (tmp_path / "keyturn.toml").touch()
    with pytest.raises(ConfigurationError, match=r"there is no configuration file .*/no\.toml$"):
        find_configuration(Path("no.toml"), {}, tmp_path)
    with pytest.raises(ConfigurationError, match=r"^KEYTURN_CONFIG: there is no configuration file .*/no\.toml$"):
        find_configuration(None, {"KEYTURN_CONFIG": "no.toml"}, tmp_path)


def test_without_any_file_the_places_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SYSTEM_FILE", tmp_path / "etc" / "keyturn.toml")
    with pytest.raises(ConfigurationError) as caught:
        find_configuration(None, {}, tmp_path)
    for place in (str(tmp_path / "keyturn.toml"), str(tmp_path / "etc/keyturn.toml"), "KEYTURN_CONFIG"):
        assert place in caught.value.message


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("30d", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
        ("12h", timedelta(hours=12)),
        ("5m", timedelta(minutes=5)),
        ("60s", timedelta(minutes=1)),
        ("500ms", timedelta(milliseconds=500)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("0s", timedelta(0)),
        ("3650d", timedelta(days=3650)),
    ],
)
def test_a_duration_is_a_number_with_a_unit(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "value",
    [
        *("", "0", "5", "5 m", "5M", "1mm", "1y", "+5m", "-5m", "1h-30m", "1h, 30m", "m", "1..5h", ".5h", "٣m", "5m\n"),
        *("3650d1ms", "999999999w", "9" * 400 + "d", "inf", "1e3s", 5, 5.0, True, None, [], timedelta(1)),
    ],
)
def test_anything_else_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        parse_duration(value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8443", Address("127.0.0.1", 8443)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),
        ("[::1]:65535", Address("::1", 65535)),
        ("keyturn.internal:80", Address("keyturn.internal", 80)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            ":8443",
            "8443",
            "localhost",
            "localhost:",
            "localhost:65536",
            "localhost:-1",
            "localhost:http",
            "::1:80",
        ),
        *("[::1]", "[localhost]:80", "[]:80", "*:80", "http://localhost:80", "a b:80", "a:80\n", "a:٨", 80, None, []),
    ],
)
def test_anything_else_is_no_address(value: object) -> None:
    with pytest.raises(ValueError, match=r"^(must|has no IPv6)"):
        parse_address(value)


@given(st.text(alphabet="0123456789.:[]-smhdw \x00é") | st.text())
def test_a_value_is_read_or_refused_whatever_it_is(text: str) -> None:
    for parse in (parse_duration, parse_address):
        try:
            parse(text)
        except ValueError as error:
            message = str(error)
            assert message.startswith(("must", "has no IPv6"))


@pytest.mark.parametrize(
    "value", ["1", "-1", "1.5", "inf", "true", '""', '"x"', '"\\u0000"', "[]", "[[1]]", "{}", "{ a = 1 }", "1979-05-27"]
)
def test_an_odd_value_anywhere_is_a_refusal_and_no_accident(tmp_path: Path, value: str) -> None:
    assert refusal(save(tmp_path, document(lambda setting: value)))


# --- the reference ---------------------------------------------------------------------------------------------------


def document(value: Callable[[Any], str | None]) -> str:
    """A file with every setting that `value` has a value for."""
    text = ""
    heading = ""
    for setting in reference():
        section, name = setting.name.split(".")
        if section != heading:
            heading = section
            text += f"[[{section[:-2]}]]\n" if section.endswith("[]") else f"[{section}]\n"
        given_value = value(setting)
        text += "" if given_value is None else f"{name} = {given_value}\n"
    return text


REQUIRED = {
    "signing.certificate": '"tls/server.pem"',
    "signing.private_key": '"/etc/keyturn/server.key"',
    "signing.client_ca": '"ca.pem"',
    "client.target": '"localhost:8443"',
    "client.ca": '"ca.pem"',
    "client.certificate": '"client.pem"',
    "client.private_key": '"client.key"',
    "integrity.public_key": '"c29tZSBwdWJsaWMga2V5"',
    "issuers[].id": '"contoso"',
    "issuers[].iss": '"contosohelp.com"',
    "callers[].identity": '"spiffe://contoso/shop"',
    "callers[].issuers": '["contoso"]',
}


def test_the_defaults_of_the_reference_are_those_in_force(tmp_path: Path, write: Write) -> None:
    def written_out(setting: Any) -> str | None:
        if setting.default == "required":
            return REQUIRED[setting.name]
        return None if setting.default == "none" else str(setting.default)

    explicit = load_configuration(save(tmp_path, document(written_out)), {})
    assert explicit == load_configuration(write(client=CLIENT), {})


def test_the_reference_describes_every_setting_in_one_line() -> None:
    settings = reference()
    names = [setting.name for setting in settings]
    assert len(set(names)) == len(names)
    assert {name.split(".")[0].removesuffix("[]") for name in names} == set(Configuration.model_fields)
    assert {setting.name for setting in settings if setting.default == "required"} == set(REQUIRED)
    for setting in settings:
        assert setting.description.isprintable()
        assert 8 < len(setting.description) < 100, setting.name
        assert not setting.description.endswith("."), setting.name
