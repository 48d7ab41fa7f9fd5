"""Tokens that the proxy issues: kept as hashes, one small file each, valid until they expire or their file is gone.

A token has 256 random bits, so that a plain SHA-256 of it is as good as any slow hash.
"""

import dataclasses
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kube_audit_proxy.identity.impersonation import check_name
from kube_audit_proxy.identity.user import Credentials, UnauthenticatedError, UndecidedError, User

log = logging.getLogger(__name__)

PREFIX: Final = "kap_"
"""By it a token is known in a secret scan, and as one of ours."""

_TRUSTED_FOR: Final = 1.0
"""Seconds after which a token's file is looked at again: how long a revoked token still works."""

_REMEMBERED = 4096


@dataclass(frozen=True)
class Grant:
    """What a token stands for. `expires` is in Unix seconds."""

    user: str
    groups: tuple[str, ...]
    clusters: tuple[str, ...]
    impersonated: bool
    expires: float


def issue(directory: Path, grant: Grant) -> str:
    """Make a token for a grant and store its hash. Raises ImpersonationError for names that cannot be acted under."""
    if grant.impersonated:
        check_name("user", grant.user)
        for group in grant.groups:
            check_name("group", group)
    token = PREFIX + secrets.token_urlsafe(32)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = _path(directory, token)
    beside = path.with_suffix(".new")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(
            {
                "user": grant.user,
                "groups": grant.groups,
                "clusters": grant.clusters,
                "impersonated": grant.impersonated,
                "expires": grant.expires,
            },
            file,
        )
    beside.rename(path)
    return token


def revoke(directory: Path, token: str) -> None:
    """Make a token worthless, within a second for proxies that are running."""
    _path(directory, token).unlink(missing_ok=True)


class TokenAuthenticator:
    """Knows the tokens in a directory, those issued while it runs included."""

    def __init__(self, directory: Path, wall: Callable[[], float], clock: Callable[[], float]) -> None:
        self._directory = directory
        self._wall = wall
        self._clock = clock
        self._known: dict[str, tuple[float, float, User, _Version]] = {}

    def remembered(self, token: str) -> User | None:
        """Give the user of a token whose file was looked at a moment ago."""
        known = self._known.get(token)
        if known is None or self._clock() - known[0] > _TRUSTED_FOR or self._wall() >= known[1]:
            return None
        return known[2]

    async def authenticate(self, credentials: Credentials) -> User | None:
        """Give the token's user; None for tokens that are not ours."""
        token = credentials.token
        if not token.startswith(PREFIX):
            return None
        now = self._clock()
        known = self._known.get(token)
        if known is None or now - known[0] > _TRUSTED_FOR:
            known = self._look_up(token, now)
        _, expires, user, _ = known
        if self._wall() >= expires:
            raise UnauthenticatedError(
                "the token has expired: make a new kubeconfig with `kube-audit-proxy kubeconfig`"
            )
        return user

    def _look_up(self, token: str, now: float) -> "tuple[float, float, User, _Version]":
        before = self._known.pop(token, None)
        path = _path(self._directory, token)
        try:
            version = _version(path)
            if before is not None and before[3] == version:
                known = self._known[token] = (now, *before[1:])
                return known
            stored: dict[str, Any] = json.loads(path.read_bytes())
            expires = float(stored["expires"])
            user = User(
                name=stored["user"],
                groups=tuple(stored["groups"]),
                authenticator="token",
                clusters=frozenset(stored["clusters"]),
                impersonated=stored["impersonated"],
            )
        except FileNotFoundError:
            raise UnauthenticatedError("the token is not known to this proxy: it may have been revoked") from None
        except OSError as error:
            raise UndecidedError(f"whose token it is cannot be looked up at present: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as damage:
            log.error("the token file %s is damaged (%s): issue a new token and delete it", path, damage)  # noqa: TRY400 - no fault of ours
            raise UnauthenticatedError("what the proxy knows of the token is damaged: ask for a new one") from damage
        if before is not None and dataclasses.astuple(before[2]) == dataclasses.astuple(user):
            user = before[2]  # the same user as far as others remember something of them
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        known = self._known[token] = (now, expires, user, version)
        return known


_Version = tuple[int, int, int]


def _version(path: Path) -> _Version:
    """Return what is different once a file was written anew; it takes no descriptor to ask."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _path(directory: Path, token: str) -> Path:
    return directory / f"{hashlib.sha256(token.encode()).hexdigest()}.json"
