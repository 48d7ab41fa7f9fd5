"""Who may download the trail: whoever has the token, which is kept in a file."""

import base64
import binascii
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "admin-token"
_SHORTEST = 16
"""Characters. What is shorter can be guessed."""


class TokenError(Exception):
    """There is no usable token; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Access:
    """Knows the token in a file, which may be replaced at any time."""

    path: Path

    def granted_by(self, authorization: str, link_token: str) -> str | None:
        """Return how the token was shown: `bearer`, `basic` or `link`; None where it was not. Raises TokenError.

        `authorization` is the header; with Basic the token is the password, whatever the user name. `link_token` is
        the one in the address. Either is "" where there is none.
        """
        token = _read(self.path).encode()
        scheme, _, value = authorization.strip().partition(" ")
        shown = {"link": link_token.encode("utf-8", "replace")}
        if scheme.lower() == "bearer":
            shown["bearer"] = value.strip().encode("utf-8", "replace")
        elif scheme.lower() == "basic":
            shown["basic"] = _password(value.strip())
        right = [method for method, secret in shown.items() if hmac.compare_digest(secret, token)]
        return right[0] if right else None


def ensure_token(path: Path | None, data_dir: Path) -> Access:
    """Give access by the token in `path`, or in the data directory, where it is made at the first start.

    Raises TokenError.
    """
    if path is None:
        path = data_dir / FILE_NAME
        _make(path)
    _read(path)
    return Access(path)


def _make(path: Path) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(f"{secrets.token_urlsafe(32)}\n")
        try:
            os.link(beside, path)  # whole, and never over one that is there
        except FileExistsError:
            pass
        finally:
            beside.unlink()
    except OSError as error:
        raise TokenError(f"the token of the admin listener cannot be kept in {path}: {error.strerror}") from error


def _read(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise TokenError(f"the token of the admin listener cannot be read from {path}: {reason}") from error
    if len(token) < _SHORTEST:
        raise TokenError(
            f"the token of the admin listener in {path} is too short: give it {_SHORTEST} characters or more"
        )
    return token


def _password(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
