"""Every setting, with its default and what it means, and what settings are in the domain's words."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from keyturn_server.config.values import (
    Base64,
    DatabaseUrl,
    Duration,
    FilePath,
    Interval,
    IssuerId,
    Lifetime,
    ListenAddress,
    Name,
    place_database,
)
from keyturn_server.domain.callers import Caller, Callers
from keyturn_server.domain.claims import (
    MAX_CONTEXT_VARIABLES,
    MAX_NAME_LENGTH,
    RESERVED_CLAIMS,
    TokenRules,
    VariableType,
)
from keyturn_server.domain.policy import Policy


def setting(default: Any = ..., *, description: str = "", **options: Any) -> Any:
    """A setting, required unless it has a default; the default reads as an operator would write it."""
    return Field(default, description=description, **options)


def _check_variables(variables: Mapping[str, VariableType]) -> Mapping[str, VariableType]:
    if len(variables) > MAX_CONTEXT_VARIABLES:
        raise ValueError(f"declares {len(variables)} variables; at most {MAX_CONTEXT_VARIABLES} are allowed")
    for name in variables:
        # JavaScript and .NET count UTF-16 code units, and so do the requests' checks.
        if not 1 <= len(name.encode("utf-16-le")) // 2 <= MAX_NAME_LENGTH:
            raise ValueError(f"a name must have 1 to {MAX_NAME_LENGTH} characters")
    return variables


def _check_claims(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name in RESERVED_CLAIMS:
            raise ValueError(f"{name} is reserved: keyturn sets it")
        if not 1 <= len(name) <= MAX_NAME_LENGTH:
            raise ValueError(f"a name must have 1 to {MAX_NAME_LENGTH} characters")
    return names


def _refuse_single_table(value: Any) -> Any:
    if isinstance(value, dict):
        raise ValueError("must be a list of tables: its heading has two brackets on each side")  # noqa: TRY004 -- pydantic reports ValueError
    return value


class Section(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True)

    def placed(self, folder: Path) -> Self:
        """A copy with relative paths resolved against the folder of the configuration file."""
        return self.model_copy(update={name: folder / value for name, value in self if isinstance(value, Path)})


class Signing(Section):
    """The listener for callers."""

    listen: ListenAddress = setting("127.0.0.1:8443", description='Address for callers, "host:port"')
    certificate: FilePath = setting(description="PEM file: the server's certificate chain")
    private_key: FilePath = setting(description="PEM file: the private key of the certificate")
    client_ca: FilePath = setting(description="PEM file: the authorities that issue the callers' certificates")
    max_message_bytes: int = setting(65536, description="Largest request in bytes, 1024 to 4194304", ge=1024, le=2**22)
    drain: Duration = setting("10s", description="How long running calls may take to end on shutdown")


class Admin(Section):
    """The listener for operators."""

    listen: FilePath = setting(
        "admin/keyturn.sock", description="Path of the operators' Unix socket, at most 100 bytes"
    )


class Client(Section):
    """What the command line uses to sign."""

    target: Name = setting(description='Address of the signing service, "host:port"; [client] as a whole is optional')
    ca: FilePath = setting(description="PEM file: the authorities that issue the server's certificate")
    certificate: FilePath = setting(description="PEM file: the client's certificate chain")
    private_key: FilePath = setting(description="PEM file: the private key of the certificate")
    server_name: str = setting("", description="Name in the server's certificate; empty: the host of the target")


class Publisher(Section):
    """The listener for verifiers."""

    listen: ListenAddress = setting("127.0.0.1:8080", description='Address of the public documents, "host:port"')
    max_age: Duration = setting("5m", description="How long shared caches may hold a public document")


class Operations(Section):
    """The listener for health probes."""

    listen: ListenAddress = setting("127.0.0.1:9090", description='Address of the health probes, "host:port"')


class Storage(Section):
    """The database."""

    url: DatabaseUrl = setting(
        "sqlite:///keyturn.db",
        description="The database: sqlite:/// and a path",
        repr=False,  # it may hold a password
    )
    poll_interval: Interval = setting("2s", description="How often a replica looks for changed rings, at least 10ms")

    def placed(self, folder: Path) -> Self:
        """A copy with a relative SQLite path resolved against the folder of the configuration file."""
        return self.model_copy(update={"url": place_database(self.url, folder)})


class Kek(Section):
    """The key encryption key."""

    provider: Literal["file"] = setting("file", description='Where the key encryption key is kept: "file"')
    file: FilePath = setting("kek", description="File that holds the key encryption key")


class Integrity(Section):
    """The key that signs what is stored."""

    public_key: Base64 = setting(description="Public half of the integrity key in base64; keyturn init writes it")

    @property
    def public_key_bytes(self) -> bytes:
        """What `public_key` says in base64."""
        return base64.b64decode(self.public_key)


class ClockSettings(Section):
    """What may be expected of clocks."""

    tolerance: Duration = setting("60s", description="How far a clock may be off")


class Issuer(Section):
    """One `iss` value with its keys, policy and documents."""

    id: IssuerId = setting(description="Name in paths and commands: 1 to 63 of a-z, 0-9 and hyphen")
    iss: Name = setting(description="The claim iss, 1 to 255 characters")
    default: StrictBool = setting(default=False, description="Whether the unprefixed document paths are this issuer's")
    audience: str = setting("", description="The claim aud; empty: none")
    key_size: StrictInt = setting(2048, description="Size of new RSA keys in bits: 2048, 3072 or 4096")
    rotation_period: Duration = setting("30d", description="How long a key signs")
    propagation_window: Duration = setting("24h", description="How long a key is published before it signs")
    verifier_cache: Duration = setting("12h", description="The longest that a verifier uses a document it fetched")
    signing_lease: Duration = setting("6h", description="The longest that a replica works without its database")
    max_token_lifetime: Lifetime = setting("1h", description="The longest lifetime of a token, at least 1s")
    default_token_lifetime: Lifetime = setting("15m", description="Lifetime of a token whose caller asks for none")
    context_variables: Annotated[Mapping[str, VariableType], AfterValidator(_check_variables)] = setting(
        {}, description='Context variables by name, each "text" or "number", at most 100; empty: any name is taken'
    )


class CallerSettings(Section):
    """One workload that may ask for tokens."""

    identity: Name = setting(description="URI or DNS name in the caller's certificate, 1 to 255 characters")
    issuers: tuple[str, ...] = setting(description="Identifiers of the issuers it may sign for, at least one")
    max_token_lifetime: Lifetime | None = setting(
        None, description="The longest lifetime it may ask for; none: the issuer's"
    )
    additional_claims: Annotated[tuple[str, ...], AfterValidator(_check_claims)] = setting(
        (), description="Names of further claims that it may set"
    )


class Configuration(BaseSettings):
    """All settings. `load_configuration` makes one, checked and with absolute paths; it reads nothing by itself."""

    model_config = SettingsConfigDict(
        case_sensitive=True, extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True
    )

    # A section that is left out is an empty table, so that what it requires is missed by name.
    signing: Signing = setting({})
    admin: Admin = setting({})
    client: Client | None = setting(None)
    publisher: Publisher = setting({})
    operations: Operations = setting({})
    storage: Storage = setting({})
    kek: Kek = setting({})
    integrity: Integrity = setting({})
    clock: ClockSettings = setting({})
    issuers: Annotated[tuple[Issuer, ...], BeforeValidator(_refuse_single_table)] = setting(())
    callers: Annotated[tuple[CallerSettings, ...], BeforeValidator(_refuse_single_table)] = setting(())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 -- pydantic-settings passes it
        init_settings: PydanticBaseSettingsSource,
        *_others: Any,
        **_named: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """No source that would read the process's own environment."""
        return (init_settings,)

    @property
    def default_issuer(self) -> str | None:
        """The identifier of the issuer that is marked as the default."""
        return next((issuer.id for issuer in self.issuers if issuer.default), None)

    def iss_claims(self) -> dict[str, str]:
        """The claim `iss` of each issuer, by its identifier."""
        return {issuer.id: issuer.iss for issuer in self.issuers}

    def policy(self, issuer: Issuer) -> Policy:
        """The policy that the settings wish for an issuer. Raises `PolicyError` when its times do not fit together."""
        return Policy(
            rotation_period=issuer.rotation_period,
            propagation_window=issuer.propagation_window,
            max_token_lifetime=issuer.max_token_lifetime,
            verifier_cache=issuer.verifier_cache,
            document_max_age=self.publisher.max_age,
            signing_lease=issuer.signing_lease,
            clock_tolerance=self.clock.tolerance,
            key_size=issuer.key_size,
        )

    def policies(self) -> dict[str, Policy]:
        """The policy that the settings wish for each issuer, by its identifier."""
        return {issuer.id: self.policy(issuer) for issuer in self.issuers}

    def token_rules(self) -> dict[str, TokenRules]:
        """What each issuer's tokens may say, by its identifier."""
        return {
            issuer.id: TokenRules(
                default_lifetime=issuer.default_token_lifetime,
                audience=issuer.audience,
                context_variables=issuer.context_variables,
            )
            for issuer in self.issuers
        }

    def known_callers(self) -> Callers:
        """Who may ask for what."""
        return Callers(
            Caller(
                identity=caller.identity,
                issuers=frozenset(caller.issuers),
                max_token_lifetime=caller.max_token_lifetime,
                additional_claims=frozenset(caller.additional_claims),
            )
            for caller in self.callers
        )
