"""The rules that several settings keep together. Each yields where the problem is and what it is."""

import os
from collections.abc import Iterator

from keyturn_server.config.settings import Configuration
from keyturn_server.domain.errors import PolicyError

Location = tuple[str | int, ...]
Problem = tuple[Location, str]

MAX_SOCKET_PATH = 100
"""Bytes. Linux takes 107 and macOS 103."""


def problems(configuration: Configuration) -> Iterator[Problem]:
    """What is wrong with a configuration whose settings are right each for itself, and whose paths are absolute."""
    yield from _check_socket(configuration)
    yield from _check_issuers(configuration)
    yield from _check_times(configuration)
    yield from _check_callers(configuration)


def _check_socket(configuration: Configuration) -> Iterator[Problem]:
    length = len(os.fsencode(configuration.admin.listen))
    if length > MAX_SOCKET_PATH:
        yield (
            ("admin", "listen"),
            f"the absolute path has {length} bytes; a Unix socket's may have {MAX_SOCKET_PATH}: choose a shorter one",
        )


def _check_issuers(configuration: Configuration) -> Iterator[Problem]:
    if not configuration.issuers:
        yield ("issuers",), "at least one [[issuers]] entry is needed"
    ids: set[str] = set()
    owners: dict[str, str] = {}
    default: str | None = None
    for index, issuer in enumerate(configuration.issuers):
        if issuer.id in ids:
            yield ("issuers", index, "id"), "stands in several [[issuers]] entries"
        elif issuer.iss in owners:
            yield (
                ("issuers", index, "iss"),
                f"is the iss of {owners[issuer.iss]} too: with two key rings for one iss, verifiers would disagree",
            )
        if issuer.default and default is not None:
            yield ("issuers", index, "default"), f"only one issuer can be the default, and {default} is already"
        ids.add(issuer.id)
        owners.setdefault(issuer.iss, issuer.id)
        default = issuer.id if issuer.default and default is None else default


def _check_times(configuration: Configuration) -> Iterator[Problem]:
    interval = configuration.storage.poll_interval
    for index, issuer in enumerate(configuration.issuers):
        try:
            configuration.policy(issuer)
        except PolicyError as error:
            yield ("issuers", index, error.setting), error.message
        if issuer.default_token_lifetime > issuer.max_token_lifetime:
            yield (
                ("issuers", index, "default_token_lifetime"),
                f"is {issuer.default_token_lifetime}, longer than max_token_lifetime ({issuer.max_token_lifetime})",
            )
        if issuer.signing_lease <= configuration.storage.poll_interval:
            yield (
                ("issuers", index, "signing_lease"),
                f"is {issuer.signing_lease} and must be longer than storage.poll_interval ({interval}), its renewal",
            )


def _check_callers(configuration: Configuration) -> Iterator[Problem]:
    issuers = {issuer.id for issuer in configuration.issuers}
    identities: set[str] = set()
    for index, caller in enumerate(configuration.callers):
        if caller.identity in identities:
            yield ("callers", index, "identity"), "stands in several [[callers]] entries"
        identities.add(caller.identity)
        if not caller.issuers:
            yield ("callers", index, "issuers"), "must name at least one issuer"
        for issuer in caller.issuers:
            if issuer not in issuers:
                yield ("callers", index, "issuers"), f"names {issuer[:100]!r}, which is the id of no [[issuers]] entry"
