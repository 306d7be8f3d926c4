import pytest

from keyturn_server.domain.names import MAX_ISS_LENGTH, RESERVED_IDS, check_iss, check_issuer_id


@pytest.mark.parametrize("value", ["c", "contoso", "7", "contoso-2", "c" * 63, "a--b-"])
def test_an_issuer_is_known_by_a_lower_case_name(value: str) -> None:
    assert check_issuer_id(value) == value


@pytest.mark.parametrize("value", ["", "-a", "Contoso", "a_b", "a.b", "a/b", "a b", "ä", "contoso\n", "c" * 64])
def test_a_name_that_does_not_fit_into_a_path_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 63 of a-z, 0-9 and hyphen"):
        check_issuer_id(value)


@pytest.mark.parametrize("value", sorted(RESERVED_IDS))
def test_no_issuer_takes_a_path_that_keyturn_serves_itself(value: str) -> None:
    with pytest.raises(ValueError, match="is a path that keyturn serves itself"):
        check_issuer_id(value)


@pytest.mark.parametrize("value", ["contosohelp.com", "https://contoso.example", "x" * MAX_ISS_LENGTH])
def test_an_iss_is_any_text_that_a_verifier_expects(value: str) -> None:
    assert check_iss(value) == value


@pytest.mark.parametrize("value", ["", "x" * (MAX_ISS_LENGTH + 1)])
def test_an_iss_is_1_to_255_characters(value: str) -> None:
    with pytest.raises(ValueError, match="must have 1 to 255 characters"):
        check_iss(value)
