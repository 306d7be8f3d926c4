"""From a file and an environment to a checked configuration, or to one line that says what is wrong with them."""

import difflib
import os
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from keyturn_server.config.reference import LISTS, PREFIX, reference, variables
from keyturn_server.config.rules import Location, Problem, problems
from keyturn_server.config.settings import Configuration, Section
from keyturn_server.domain.errors import ConfigurationError

CONFIGURATION_VARIABLE = "KEYTURN_CONFIG"
FILE_NAME = "keyturn.toml"
SYSTEM_FILE = Path("/etc/keyturn/keyturn.toml")

_SHOWN_PROBLEMS = 5
_ENTRY_NAMES = {"issuers": "id", "callers": "identity"}

_MESSAGES = {
    "missing": "is required",
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "tuple_type": "must be a list",
    "mapping_type": "must be a table",
    "dict_type": "must be a table",
    "model_type": "must be a table",
}
"""What pydantic says in the words of its own types, in those of the file."""


def find_configuration(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """The configuration file: the one that was named, or the first of the usual places that has one.

    Raises `ConfigurationError` when the named one is not there, or none is anywhere.
    """
    if explicit is not None:
        return _named(cwd / explicit, "")
    if environ.get(CONFIGURATION_VARIABLE):
        return _named(cwd / environ[CONFIGURATION_VARIABLE], f"{CONFIGURATION_VARIABLE}: ")
    places = (cwd / FILE_NAME, SYSTEM_FILE)
    for place in places:
        if _is_there(place):
            return place
    raise _error(
        f"no configuration file: neither {places[0]} nor {places[1]} exists, and {CONFIGURATION_VARIABLE} is not set; "
        "keyturn init makes one"
    )


def load_configuration(path: Path, environ: Mapping[str, str]) -> Configuration:
    """The configuration that a file and the variables `KEYTURN_SECTION__NAME` make; a variable wins over the file.

    Raises `ConfigurationError`, whose message is one line that names every wrong setting, never with its value.
    """
    document = _read_document(path)
    overrides = _Overrides(environ)
    configuration, found = _validate(path, document, overrides)
    if configuration is None or found or overrides.refused:
        raise _error(_complaint(path, document, overrides, found))
    return configuration


class _Overrides:
    """The settings that the environment makes, and the variables that set nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.sections: dict[str, dict[str, str]] = {}
        self.names: dict[Location, str] = {}
        self.refused: list[str] = []
        known = variables()
        for name in sorted(environ):
            if name in known:
                section, member = known[name]
                self.sections.setdefault(section, {})[member] = environ[name]
                self.names[section, member] = name
            elif name.startswith(PREFIX) and name.removeprefix(PREFIX).split("__")[0].lower() in LISTS:
                self.refused.append(f"{name}: [[issuers]] and [[callers]] can be set in the file alone")
            elif name.startswith(PREFIX) and "__" in name:
                self.refused.append(f"{name}: sets nothing that keyturn knows{_suggestion(name, known, '__')}")


class _OverridesSource(PydanticBaseSettingsSource):
    """Gives pydantic-settings an environment that is not the process's."""

    def __init__(self, settings_cls: type[BaseSettings], overrides: _Overrides) -> None:
        super().__init__(settings_cls)
        self._sections = overrides.sections

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return self._sections.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(self._sections)


def _read_document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            _refuse_untrusted(path, os.fstat(file.fileno()))
            return tomllib.loads(file.read().decode())
    except OSError as error:
        raise _error(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise _error(f"{path}: is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise _error(f"{path}: is not valid TOML: {error}") from None
    except (ValueError, RecursionError):
        raise _error(f"{path}: is not valid TOML: a number is too long or brackets nest too deep") from None


def _refuse_untrusted(path: Path, status: os.stat_result) -> None:
    """Whoever can write the file decides who may sign."""
    if status.st_uid not in (0, os.geteuid()):
        raise _error(
            f"{path}: belongs to user {status.st_uid}, and must belong to root or to the user that runs keyturn: "
            f"chown {os.geteuid()} {path}"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _error(
            f"{path}: others than its owner may write it (mode {stat.S_IMODE(status.st_mode):04o}): chmod go-w {path}"
        )


def _validate(
    path: Path, document: dict[str, Any], overrides: _Overrides
) -> tuple[Configuration | None, Sequence[Problem]]:
    class Sourced(Configuration):
        """pydantic-settings asks a class, not a call, for its sources."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            *_others: Any,
            **_named: Any,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return _OverridesSource(settings_cls, overrides), InitSettingsSource(settings_cls, document)

    try:
        checked = Sourced()
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        return None, [(each["loc"], _message(each["type"], each["msg"], each["loc"])) for each in details]
    folder = path.absolute().parent
    placed: dict[str, Any] = {
        name: value.placed(folder) if isinstance(value, Section) else value for name, value in checked
    }
    configuration = Configuration.model_construct(**placed)
    return configuration, list(problems(configuration))


def _message(kind: str, message: str, location: Location) -> str:
    if kind == "extra_forbidden":
        known = [*Configuration.model_fields, *(setting.name for setting in reference())]
        return f"is not a setting{_suggestion(_spelled(location), known, '.')}"
    return _MESSAGES.get(kind) or message.removeprefix("Value error, ").replace("Input should", "must")


def _complaint(path: Path, document: Mapping[str, Any], overrides: _Overrides, found: Sequence[Problem]) -> str:
    """One line: what is wrong in the file, then what is wrong in the environment."""
    in_file: list[str] = []
    in_environment = list(overrides.refused)
    for location, message in found:
        variable = overrides.names.get(location[:2])
        if variable is None:
            in_file.append(f"{_spelled(location, document)}: {message}")
        else:
            in_environment.append(f"{variable}: {message}")
    if in_file:
        in_file[0] = f"{path}: {in_file[0]}"
    everything = in_file + in_environment
    hidden = len(everything) - _SHOWN_PROBLEMS
    return "; ".join(everything[:_SHOWN_PROBLEMS]) + (f"; and {hidden} more" if hidden > 0 else "")


def _spelled(location: Location, document: Mapping[str, Any] | None = None) -> str:
    """Such as `issuers[contoso].iss`; without the document `issuers[].iss`."""
    text = ""
    for depth, part in enumerate(location):
        if isinstance(part, str):
            text += f".{part}" if text else part
        elif document is None:
            text += "[]"
        else:
            text += f"[{_entry_name(location[0], part, document) if depth == 1 else part}]"
    return text


def _entry_name(section: str | int, index: int, document: Mapping[str, Any]) -> str:
    entry = document[str(section)][index]
    name = entry.get(_ENTRY_NAMES[str(section)]) if isinstance(entry, dict) else None
    return name[:100] if isinstance(name, str) and name else str(index)


def _suggestion(name: str, known: Iterable[str], separator: str) -> str:
    """The name in the same section that a misspelt one was perhaps meant to be."""
    section, _, last = name.rpartition(separator)
    siblings = {other.rpartition(separator)[2]: other for other in known if other.rpartition(separator)[0] == section}
    similar = difflib.get_close_matches(last, siblings, n=1)
    return f"; did you mean {siblings[similar[0]]}?" if similar else ""


def _named(path: Path, source: str) -> Path:
    if not _is_there(path):
        raise _error(f"{source}there is no configuration file {path}")
    return path


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # and the attempt to read it says what is the matter
    return True


def _error(message: str) -> ConfigurationError:
    return ConfigurationError("".join(_printable(message)), reason="CONFIGURATION_REFUSED")


def _printable(message: str) -> Iterator[str]:
    """Names come from the file and may hold anything, a line break too."""
    for character in message:
        yield character if character.isprintable() else character.encode("unicode_escape").decode()
