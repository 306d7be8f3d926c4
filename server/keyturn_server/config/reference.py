"""What settings there are: for the documentation, and for whoever misspelt one."""

import json
from collections.abc import Iterator
from typing import NamedTuple, get_args

from pydantic.fields import FieldInfo

from keyturn_server.config.settings import Configuration, Section

PREFIX = "KEYTURN_"
LISTS = ("issuers", "callers")
"""The lists of tables. No variable can set what is in them."""


class Setting(NamedTuple):
    """One row of the configuration reference."""

    name: str
    """Such as `publisher.max_age`, or `issuers[].id` in a list of tables."""
    default: str
    """As it would stand in the file; or `required`, or `none`."""
    description: str


def reference() -> list[Setting]:
    """Every setting, in the order of the sections."""
    return [
        Setting(f"{section}{'[]' if section in LISTS else ''}.{name}", _default(field), field.description or "")
        for section, name, field in _fields()
    ]


def variables() -> dict[str, tuple[str, str]]:
    """The environment variables that set something, and the section and name of what they set."""
    return {
        f"{PREFIX}{section}__{name}".upper(): (section, name) for section, name, _ in _fields() if section not in LISTS
    }


def _fields() -> Iterator[tuple[str, str, FieldInfo]]:
    for section, field in Configuration.model_fields.items():
        for name, member in _section_class(field).model_fields.items():
            yield section, name, member


def _section_class(field: FieldInfo) -> type[Section]:
    """The model of a section that is required, optional or repeated."""
    candidates = (field.annotation, *get_args(field.annotation))
    return next(each for each in candidates if isinstance(each, type) and issubclass(each, Section))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "none" if field.default is None else json.dumps(field.default)
