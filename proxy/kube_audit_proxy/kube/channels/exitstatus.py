"""What the error channel of an exec or attach tells at its end."""

from dataclasses import dataclass

import orjson

from kube_audit_proxy.kube.status import json_fields

_LONGEST = 64 << 10
"""Bytes of the error channel that are kept."""


@dataclass(frozen=True)
class ExitStatus:
    """How an exec or attach ended: the exit code if it was told, reason and message of a failure."""

    exit_code: int | None = None
    reason: str = ""
    message: str = ""


class ErrorChannel:
    """Collects what the server sends on the error channel.

    Since version 4 of the protocol it is a Status as JSON (client-go, tools/remotecommand/v4.go), before it was the
    message of a failure as plain text, and nothing on success.
    """

    def __init__(self, *, is_json: bool) -> None:
        self._is_json = is_json
        self._collected = bytearray()

    def add(self, data: bytes) -> None:
        """Take bytes of the channel; those beyond 64 KiB are dropped."""
        self._collected += data[: _LONGEST - len(self._collected)]

    @property
    def complete(self) -> bool:
        """Whether the channel has told all it can."""
        if len(self._collected) >= _LONGEST:
            return True
        if not self._is_json or not self._collected.endswith(b"}"):
            return False
        try:
            orjson.loads(self._collected)
        except orjson.JSONDecodeError:
            return False
        return True

    def status(self) -> ExitStatus:
        """Return what the channel told up to now. Never raises."""
        if not self._is_json:
            return ExitStatus(message=self._collected.decode(errors="replace"))
        fields = json_fields(bytes(self._collected))
        if fields.get("status") == "Success":
            return ExitStatus(exit_code=0)
        reason, message = _text(fields.get("reason")), _text(fields.get("message"))
        exit_code = _exit_code(fields.get("details")) if reason == "NonZeroExitCode" else None
        return ExitStatus(exit_code, reason, message)


def _exit_code(details: object) -> int | None:
    """Return the exit code in the causes of a Status (apimachinery, pkg/util/remotecommand/constants.go)."""
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else ():
        if isinstance(cause, dict) and cause.get("reason") == "ExitCode":
            text = _text(cause.get("message"))
            if text.isascii() and text.isdecimal() and len(text) <= 10:
                return int(text)
    return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
