"""In whose name a call is made upstream."""

import pytest

from kube_audit_proxy.identity.impersonation import ImpersonationError, check_name, headers
from kube_audit_proxy.identity.user import User


def user(name: str, *groups: str, impersonated: bool = True) -> User:
    """Give a user."""
    return User(name, groups, "token", frozenset({"*"}), impersonated=impersonated)


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        (user("jane"), b"Impersonate-User: jane\r\n"),
        (user("jane", "a"), b"Impersonate-User: jane\r\nImpersonate-Group: a\r\n"),
        (
            user("jane@example.com", "g 2", "a,b", "z", "a"),
            (
                b"Impersonate-User: jane@example.com\r\nImpersonate-Group: g 2\r\nImpersonate-Group: a,b\r\n"
                b"Impersonate-Group: z\r\nImpersonate-Group: a\r\n"
            ),
        ),
        (
            user("m\xfcller", "\N{SNOWMAN}"),
            b"Impersonate-User: m\xc3\xbcller\r\nImpersonate-Group: \xe2\x98\x83\r\n",
        ),
        (
            user("oidc:system:masters", "systems"),
            b"Impersonate-User: oidc:system:masters\r\nImpersonate-Group: systems\r\n",
        ),
        (user("system", "System:x"), b"Impersonate-User: system\r\nImpersonate-Group: System:x\r\n"),
    ],
    ids=["alone", "group", "groups", "utf-8", "inside", "not-reserved"],
)
def test_headers(who: User, expected: bytes) -> None:
    """One line for the user and one for each group, in their order, unsplit, as UTF-8."""
    assert headers(who) == expected


@pytest.mark.parametrize("who", [user("owner", impersonated=False), user("", "system:masters", impersonated=False)])
def test_nothing_for_the_owner(who: User) -> None:
    """A call that is the credential's own has no such header, whatever the user is called."""
    assert headers(who) == b""


NO_NAMES = [
    "",
    "system:masters",
    "system:",
    "system:anonymous",
    "system:serviceaccount:kube-system:x",
    "system:node:n1",
    " system:masters",
    "\tsystem:masters",
    "jane ",
    " jane",
    "\xa0jane",
    "ja\rne",
    "ja\nne",
    "jane\r\nImpersonate-Group: system:masters",
    "ja\0ne",
    "ja\x7fne",
    "ja\x85ne",
    "ja\x1b[31mne",
    "ja\N{RIGHT-TO-LEFT OVERRIDE}ne",
    "ja\N{ZERO WIDTH SPACE}ne",
    "ja\N{LINE SEPARATOR}ne",
    "ja\ud800ne",
]


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_names_that_are_never_passed_on(name: str) -> None:
    """Reserved, empty and unprintable names are refused, as a user, as any group and where a token is issued."""
    with pytest.raises(ImpersonationError):
        headers(user(name))
    with pytest.raises(ImpersonationError):
        headers(user("jane", "ok", name))
    with pytest.raises(ImpersonationError, match="group"):
        check_name("group", name)


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_refusals_can_be_shown(name: str) -> None:
    """A refusal tells the name without letting its characters loose on the terminal."""
    with pytest.raises(ImpersonationError) as caught:
        check_name("user", name)
    assert str(caught.value).isprintable()
