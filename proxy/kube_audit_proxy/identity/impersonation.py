"""In whose name a call is made upstream."""

from kube_audit_proxy.identity.user import User

_RESERVED = "system:"


class ImpersonationError(ValueError):
    """The name cannot be acted under; the text says why."""


def check_name(kind: str, name: str) -> None:
    """Raise ImpersonationError for a user or group that comes from outside and must never be passed on.

    Kubernetes keeps names with `system:` to itself, `system:masters` above all, and lets an impersonator with broad
    rights take any of them (kubernetes/apiserver pkg/endpoints/filters/impersonation).
    """
    if not name:
        raise ImpersonationError(f"a {kind} needs a name")
    if name.startswith(_RESERVED):
        raise ImpersonationError(
            f"{kind} {name!r} is reserved by Kubernetes: names beginning with system: are never passed on"
        )
    if not name.isprintable() or name != name.strip():
        raise ImpersonationError(f"{kind} {name!r} has characters that no name may have")


def headers(user: User) -> bytes:
    """The header lines that make a call the user's, each with its CRLF; none if it is the credential's own.

    One line per group, as the API server does not split at commas. Raises ImpersonationError.
    """
    if not user.impersonated:
        return b""
    check_name("user", user.name)
    lines = [f"Impersonate-User: {user.name}\r\n"]
    for group in user.groups:
        check_name("group", group)
        lines.append(f"Impersonate-Group: {group}\r\n")
    return "".join(lines).encode()
