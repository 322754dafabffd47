"""The search for keys finds them in every form: what the tests of docs/semantics.md 6.1 rest on."""

import base64

import pytest

from tests.leaks import forms, found


@pytest.mark.parametrize("form", forms("x"))
def test_a_form_is_found(form: str) -> None:
    """6.1: a key is found in whatever form it is, in the middle of anything; another one is not."""
    secret, other = 'k/+=%&"<0123456789abcdef', 'k/+=%&"<fedcba9876543210'
    for start in (b"abc", b"") if "base64" not in form else (b"",):
        text = start + forms(secret)[form] + b"xyz"
        assert f"place: {form}" in found({"place": text}, [other, secret])
        assert found({"place": text}, [other]) == []


@pytest.mark.parametrize("before", ["", "a", "ab", "user:", "k"])
def test_basic_authorization_is_found(before: str) -> None:
    """6.1: a key is found in base64 wherever in the text it begins."""
    text = base64.b64encode(f"{before}secret-0123456789:after".encode())
    assert found({"place": text}, ["secret-0123456789"])
