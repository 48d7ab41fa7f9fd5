"""Whom a call is made by, and what proves it."""

from dataclasses import dataclass
from typing import Final, Protocol

EVERY_CLUSTER: Final = "*"


@dataclass(frozen=True)
class Credentials:
    """What a client offers to prove who it is."""

    token: str
    """Bearer token, empty if there is none."""


@dataclass(frozen=True, eq=False)
class User:
    """An authenticated user. Compared by identity: every call looks up what was worked out for its user."""

    name: str
    groups: tuple[str, ...]
    authenticator: str
    clusters: frozenset[str]
    """The clusters the user may call, or EVERY_CLUSTER."""
    impersonated: bool
    """Whether calls are made upstream in the user's name; else they are made as the cluster's own credential."""

    def may_call(self, cluster: str) -> bool:
        """Whether the user may call the cluster at all; what they may do in it, its API server decides."""
        return cluster in self.clusters or EVERY_CLUSTER in self.clusters


class UndecidedError(Exception):
    """Nobody can tell at present who this is. The text says why, in words for the one who asks."""


class UnauthenticatedError(Exception):
    """The credentials are wrong or no longer valid; the text is fit for the user."""


class Authenticator(Protocol):
    """One way to prove who one is."""

    def remembered(self, token: str) -> User | None:
        """Give the user of a token, if that takes no second look: whom `authenticate` would give, without waiting."""

    async def authenticate(self, credentials: Credentials) -> User | None:
        """Give the user, or None if these credentials are of another kind; raise UnauthenticatedError if wrong."""
        ...


class Union:
    """Tries authenticators in order; the first that knows the credentials decides."""

    def __init__(self, first: Authenticator, *others: Authenticator) -> None:
        self._first = first
        self._authenticators = (first, *others)

    def remembered(self, token: str) -> User | None:
        """Give the user of a token, if the first authenticator knows without a second look; None tells nothing."""
        return self._first.remembered(token)

    async def authenticate(self, credentials: Credentials) -> User:
        """Give the user; raise UnauthenticatedError if nobody knows the credentials."""
        for authenticator in self._authenticators:
            user = await authenticator.authenticate(credentials)
            if user is not None:
                return user
        if credentials.token:
            raise UnauthenticatedError("the token is not known to this proxy: it may have been revoked")
        raise UnauthenticatedError("no credentials: use a kubeconfig made by `kube-audit-proxy kubeconfig`")
