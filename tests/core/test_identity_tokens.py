"""Tokens the proxy issues: what proves a user, for how long, and what is kept of it."""

import asyncio
import hashlib
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kube_audit_proxy.identity.impersonation import ImpersonationError
from kube_audit_proxy.identity.tokens import PREFIX, Grant, TokenAuthenticator, issue, revoke
from kube_audit_proxy.identity.user import Credentials, UnauthenticatedError, Union, User

JANE = Grant("jane", ("shop", "on call"), ("demo", "prod"), impersonated=True, expires=1000.0)
OWNER = Grant("owner", (), ("*",), impersonated=False, expires=1000.0)


class Times:
    """Both clocks of an authenticator, which stand still until they are set."""

    wall = 0.0
    mono = 100.0


class Tokens:
    """A directory of tokens and an authenticator that looks into it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.times = Times()
        self.authenticator = TokenAuthenticator(directory, lambda: self.times.wall, lambda: self.times.mono)

    def user(self, token: str) -> User | None:
        """Ask whose a token is, as the gateway does: who is remembered first."""
        remembered = Union(self.authenticator).remembered(token)
        return remembered or asyncio.run(self.authenticator.authenticate(Credentials(token)))

    def refusal(self, token: str) -> str:
        """Ask why a token is not taken."""
        with pytest.raises(UnauthenticatedError) as caught:
            self.user(token)
        return str(caught.value)


def said(user: User | None) -> dict[str, Any]:
    """Give all that is known of a user: users themselves are compared by identity."""
    assert user is not None
    return asdict(user)


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    """Give an empty directory that does not exist yet."""
    return Tokens(tmp_path / "data" / "tokens")


def test_a_token_is_its_grants_user(tokens: Tokens) -> None:
    """Whoever shows an issued token is the user it was issued for, with all that the grant says."""
    assert said(tokens.user(issue(tokens.directory, JANE))) == {
        "name": "jane",
        "groups": ("shop", "on call"),
        "authenticator": "token",
        "clusters": frozenset({"demo", "prod"}),
        "impersonated": True,
    }


def test_the_owners_token(tokens: Tokens) -> None:
    """The owner's own token acts as the cluster's credential, for every cluster."""
    user = tokens.user(issue(tokens.directory, OWNER))
    assert said(user) == {
        "name": "owner",
        "groups": (),
        "authenticator": "token",
        "clusters": frozenset({"*"}),
        "impersonated": False,
    }
    assert user is not None
    assert user.may_call("any")


def test_which_clusters_a_user_may_call(tokens: Tokens) -> None:
    """A user may call the clusters of the grant and no other."""
    user = tokens.user(issue(tokens.directory, JANE))
    assert user is not None
    assert [user.may_call(name) for name in ("demo", "prod", "dem", "", "*")] == [True, True, False, False, False]


def test_tokens_are_told_apart(tokens: Tokens) -> None:
    """Two tokens for the same grant differ, have 256 bits, and a prefix that secret scanners can look for."""
    issued = {issue(tokens.directory, JANE) for _ in range(20)}
    assert len(issued) == 20
    assert all(token.startswith(PREFIX) and len(token) == len(PREFIX) + 43 for token in issued)


def test_only_a_hash_is_on_disk(tokens: Tokens) -> None:
    """Nothing in the directory, file names included, has the token or a part of it."""
    token = issue(tokens.directory, JANE)
    (file,) = tokens.directory.iterdir()
    assert file.name == f"{hashlib.sha256(token.encode()).hexdigest()}.json"
    content = file.read_text()
    secret = token.removeprefix(PREFIX)
    assert all(secret[at : at + 8] not in content + file.name for at in range(len(secret) - 8))


def test_only_the_owner_may_read(tokens: Tokens) -> None:
    """Files are 0600 and the directory is 0700."""
    issue(tokens.directory, JANE)
    (file,) = tokens.directory.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(tokens.directory.stat().st_mode) == 0o700


@pytest.mark.parametrize(("wall", "valid"), [(0.0, True), (999.999, True), (1000.0, False), (1e9, False)])
def test_expiry(tokens: Tokens, wall: float, valid: bool) -> None:
    """A token is good until the second it expires in, also one that was just good; the message says what to do."""
    token = issue(tokens.directory, JANE)
    assert tokens.user(token) is not None
    tokens.times.wall = wall
    if valid:
        assert tokens.user(token) is not None
    else:
        assert "expired" in tokens.refusal(token)
        assert "kubeconfig" in tokens.refusal(token)


def test_revoked_within_a_second(tokens: Tokens) -> None:
    """A revoked token is worthless a second after it was last looked at, and stays so; another one stays good."""
    token, other = issue(tokens.directory, JANE), issue(tokens.directory, OWNER)
    assert tokens.user(token) is not None
    revoke(tokens.directory, token)
    tokens.times.mono += 1.001
    assert "revoked" in tokens.refusal(token)
    assert "revoked" in tokens.refusal(token)
    assert tokens.user(other) is not None


def test_revoked_before_it_was_used(tokens: Tokens) -> None:
    """A token that was never shown is worthless as soon as it is revoked, and revoking it again is no error."""
    token = issue(tokens.directory, JANE)
    revoke(tokens.directory, token)
    revoke(tokens.directory, token)
    assert "revoked" in tokens.refusal(token)


def test_the_file_is_not_read_at_every_call(tokens: Tokens) -> None:
    """Within a second a token is answered from memory: this is what a call costs."""
    token = issue(tokens.directory, JANE)
    first = tokens.user(token)
    revoke(tokens.directory, token)
    tokens.times.mono += 0.999
    assert tokens.user(token) is first


def test_who_is_remembered(tokens: Tokens) -> None:
    """Who was authenticated is remembered for a second, unless the token expires: the same user, without waiting."""
    token = issue(tokens.directory, JANE)
    assert tokens.authenticator.remembered(token) is None
    user = tokens.user(token)
    assert tokens.authenticator.remembered(token) is user
    tokens.times.mono += 1.5
    assert tokens.authenticator.remembered(token) is None
    assert tokens.user(token) is user
    tokens.times.wall = JANE.expires
    assert tokens.authenticator.remembered(token) is None


def test_unknown_tokens_are_not_remembered(tokens: Tokens) -> None:
    """A token that is issued after it was refused works at once."""
    token = issue(tokens.directory, JANE)
    (file,) = tokens.directory.iterdir()
    hidden = file.rename(file.with_suffix(".hidden"))
    assert "not known" in tokens.refusal(token)
    hidden.rename(file)
    assert tokens.user(token) is not None


@pytest.mark.parametrize(
    "token", ["kap_", "kap_unknown", "kap_../../etc/passwd", "kap_\xe9\x00", "kap_" + "x" * 100_000]
)
def test_unknown_tokens(tokens: Tokens, token: str) -> None:
    """A token of our form that nobody was given is refused, whether or not there is a directory of tokens."""
    assert "not known" in tokens.refusal(token)
    issue(tokens.directory, JANE)
    assert "not known" in tokens.refusal(token)


@pytest.mark.parametrize("token", ["", "eyJhbGciOi.J9.x", "KAP_x", " kap_x", "sha256~x"])
def test_foreign_tokens_are_for_others(tokens: Tokens, token: str) -> None:
    """What is not of our form is left to the next authenticator."""
    assert tokens.user(token) is None


def test_a_cut_or_changed_token_is_none(tokens: Tokens) -> None:
    """Nothing but the whole token works."""
    token = issue(tokens.directory, JANE)
    for wrong in (token[:-1], token + "A", token + " ", token.swapcase().replace(PREFIX.upper(), PREFIX)):
        assert "not known" in tokens.refusal(wrong)


@pytest.mark.parametrize(
    ("user", "groups"),
    [
        ("system:admin", ()),
        ("jane", ("system:masters",)),
        ("jane", ("ok", "system:authenticated")),
        ("", ()),
        ("jane", ("",)),
        ("ja\r\nne", ()),
        ("jane", (" system:masters",)),
    ],
)
def test_no_token_for_names_that_may_not_be_passed_on(tokens: Tokens, user: str, groups: tuple[str, ...]) -> None:
    """A grant for a reserved or unprintable name is refused, and nothing is written."""
    with pytest.raises(ImpersonationError):
        issue(tokens.directory, Grant(user, groups, ("demo",), impersonated=True, expires=1.0))
    assert not tokens.directory.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"user":"x"}', "\x00"])
def test_a_damaged_file_is_an_unknown_token(tokens: Tokens, content: str) -> None:
    """A token whose file was cut off or emptied is refused like one that is not there."""
    token = issue(tokens.directory, JANE)
    (file,) = tokens.directory.iterdir()
    file.write_text(content)
    assert tokens.refusal(token)


class Fixed:
    """An authenticator that says the same to everyone."""

    def __init__(self, answer: User | None) -> None:
        self.answer = answer
        self.asked = 0

    def remembered(self, token: str) -> User | None:  # noqa: ARG002 - it does not matter
        """Remember the same of everyone."""
        return self.answer

    async def authenticate(self, credentials: Credentials) -> User | None:  # noqa: ARG002 - it does not matter
        """Answer."""
        self.asked += 1
        return self.answer


def test_the_first_who_knows_decides() -> None:
    """A union asks in order and no further than the first that knows the credentials."""
    known = User("a", (), "x", frozenset(), impersonated=True)
    strange, first, second = Fixed(None), Fixed(known), Fixed(User("b", (), "y", frozenset(), impersonated=False))
    assert asyncio.run(Union(strange, first, second).authenticate(Credentials("t"))) is known
    assert (strange.asked, first.asked, second.asked) == (1, 1, 0)


def test_a_wrong_token_ends_the_search(tokens: Tokens) -> None:
    """A token of our form that is wrong is not offered to the next authenticator."""
    after = Fixed(User("b", (), "y", frozenset(), impersonated=False))
    with pytest.raises(UnauthenticatedError):
        asyncio.run(Union(tokens.authenticator, after).authenticate(Credentials("kap_wrong")))
    assert after.asked == 0


@pytest.mark.parametrize(("token", "said"), [("", "no credentials"), ("other", "not known")])
def test_nobody_knows(tokens: Tokens, token: str, said: str) -> None:
    """Where nobody knows the credentials, the message tells a missing token from a wrong one."""
    with pytest.raises(UnauthenticatedError, match=said):
        asyncio.run(Union(tokens.authenticator).authenticate(Credentials(token)))
