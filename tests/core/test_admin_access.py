"""Only who has the token gets in, in whichever way it is shown; without a token nobody does."""

import base64
from pathlib import Path

import pytest

from kube_audit_proxy.admin.access import Access, TokenError, ensure_token

TOKEN = "0123456789-t\u00f6ken"


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """Give access by a token that is in a file."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return ensure_token(path, tmp_path)


def basic(text: str) -> str:
    """Return the header for a user name and password."""
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("authorization", "link", "expected"),
    [
        (f"Bearer {TOKEN}", "", "bearer"),
        (f"bearer  {TOKEN} ", "", "bearer"),
        (basic(f"anybody:{TOKEN}"), "", "basic"),
        (basic(f":{TOKEN}"), "", "basic"),
        ("", TOKEN, "link"),
        ("Bearer wrong", TOKEN, "link"),
        ("", "", None),
        ("Bearer", "", None),
        (TOKEN, "", None),
        ("Bearer \udcff", "", None),
        (f"Bearer {TOKEN[:-1]}", "", None),
        (f"Bearer {TOKEN}x", "", None),
        (basic(TOKEN), "", None),
        (basic(f"{TOKEN}:"), "", None),
        ("Basic !!!", "", None),
        (f"Digest {TOKEN}", "", None),
        ("", TOKEN.upper(), None),
    ],
)
def test_the_token_is_what_counts(access: Access, authorization: str, link: str, expected: str | None) -> None:
    """A bearer token, a password or a link is taken; anything else is not."""
    assert access.granted_by(authorization, link) == expected


def test_a_token_is_made_once_for_the_owner_only(tmp_path: Path) -> None:
    """The first start makes a long one that only its owner can read; later starts keep it."""
    token = (ensure_token(None, tmp_path).path).read_text()
    assert len(token) > 40
    assert (tmp_path / "admin-token").stat().st_mode & 0o777 == 0o600
    assert ensure_token(None, tmp_path).path.read_text() == token
    assert [path.name for path in tmp_path.iterdir()] == ["admin-token"]


def test_a_new_token_counts_at_once(access: Access) -> None:
    """A file that is replaced needs no restart."""
    access.path.write_text("another-token-of-ours")
    assert access.granted_by(f"Bearer {TOKEN}", "") is None
    assert access.granted_by("Bearer another-token-of-ours", "") == "bearer"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"short", b"\xff" * 20])
def test_without_a_usable_token_nobody_gets_in(access: Access, content: bytes | None) -> None:
    """A file that is missing, empty, short or no text is an error, at the start and later, and no open door."""
    access.path.unlink()
    if content is not None:
        access.path.write_bytes(content)
    with pytest.raises(TokenError, match="the token of the admin listener"):
        ensure_token(access.path, access.path.parent)
    with pytest.raises(TokenError):
        access.granted_by("Bearer ", "")
