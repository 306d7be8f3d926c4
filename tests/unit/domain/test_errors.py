import pytest

from keyturn_server.domain import errors
from keyturn_server.domain.errors import (
    FieldViolation,
    InvalidRequestError,
    KeyturnError,
    PolicyError,
    RefusedError,
    RingChangedError,
    RowRefusedError,
)
from tests.rings import NOW


def test_all_errors_are_of_one_family() -> None:
    others = [
        each for name, each in vars(errors).items() if name.endswith("Error") and not issubclass(each, KeyturnError)
    ]

    assert others == []


def test_a_request_is_refused_with_every_violation_in_its_message() -> None:
    error = InvalidRequestError(
        [FieldViolation("subject", "is not valid Unicode"), FieldViolation("lifetime", "is too long")]
    )

    assert str(error) == "subject: is not valid Unicode; lifetime: is too long"
    assert error.reason == "INVALID_REQUEST"


@pytest.mark.parametrize(
    ("error", "metadata"),
    [
        (
            RefusedError("too early", reason="STANDBY_TOO_YOUNG", earliest_safe_time=NOW),
            {"earliest_safe_time": "2026-03-01T12:00:00+00:00"},
        ),
        (RefusedError("full", reason="TOO_MANY_KEYS"), {}),
        (RingChangedError("contoso", 7), {"issuer": "contoso", "expected_ring_version": "7"}),
        (RowRefusedError("ring_versions (contoso, 7)", "it was edited"), {"row": "ring_versions (contoso, 7)"}),
        (PolicyError("rotation_period", "is too short"), {"setting": "rotation_period"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_program_wants_to_know_of_an_error_is_in_its_metadata(
    error: KeyturnError, metadata: dict[str, str]
) -> None:
    assert error.metadata == metadata


def test_an_error_about_a_row_names_it_and_says_why() -> None:
    error = RowRefusedError("ring_versions (contoso, 7)", "its signature does not match")

    assert error.message == "ring_versions (contoso, 7) was refused: its signature does not match"


def test_an_error_about_a_changed_ring_says_what_to_do_next() -> None:
    assert "look at it again" in RingChangedError("contoso", 7).message
