"""Status objects (meta/v1): the errors that the proxy answers with, and what the API server's errors say.

kubectl prints `Error from server (<reason>): <message>` for a Status, whether it knows the reason or not, and loses
most other bodies behind a generic message. So every error of the proxy is a Status that names its cause in full.
"""

import json
import zlib
from dataclasses import dataclass
from typing import Any

import orjson

from kube_audit_proxy.kube.protobuf import delimited_fields
from kube_audit_proxy.kube.requestinfo import RequestInfo


@dataclass(frozen=True, slots=True)
class Status:
    """A failure: HTTP code, one-word reason, message for people, and the object it is about as far as there is one.

    `kind` is the resource (`pods`), as in the API server's own details.
    """

    code: int
    reason: str
    message: str
    group: str = ""
    kind: str = ""
    name: str = ""
    retry_after_seconds: int | None = None

    def body(self) -> bytes:
        """Return the Status as JSON (`application/json`)."""
        details = {
            "name": self.name,
            "group": self.group,
            "kind": self.kind,
            "retryAfterSeconds": self.retry_after_seconds,
        }
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": {key: value for key, value in details.items() if value},
            "code": self.code,
        }
        return orjson.dumps({key: value for key, value in status.items() if value or key == "metadata"})


def bad_request(message: str) -> Status:
    """400: the request cannot be understood or is refused whatever user makes it."""
    return Status(400, "BadRequest", message)


def unauthorized(message: str) -> Status:
    """401: kubectl prints `You must be logged in to the server (<message>)` and asks its credential plugin again."""
    return Status(401, "Unauthorized", message)


def forbidden(user: str, info: RequestInfo, why: str = "") -> Status:
    """403 in the API server's words (pkg/endpoints/handlers/responsewriters/errors.go), `why` after a colon."""
    if info.is_resource:
        resource = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
        scope = f"in the namespace {_quoted(info.namespace)}" if info.namespace else "at the cluster scope"
        action = f"{info.verb} resource {_quoted(resource)} in API group {_quoted(info.group)} {scope}"
        subject = f"{info.resource}.{info.group}" if info.group else info.resource
        subject += f" {_quoted(info.name)} is " if info.name else " is "
    else:
        action = f"{info.verb} path {_quoted(info.path)}"
        subject = ""
    message = f"{subject}forbidden: " + f"User {_quoted(user)} cannot {action}".translate(_UNLIKE_HTML)
    if why:
        message += f": {why}"
    return Status(403, "Forbidden", message, group=info.group, kind=info.resource, name=info.name)


def request_timeout(message: str) -> Status:
    """408: the client has not sent all of its request in time."""
    return Status(408, "RequestTimeout", message)


def header_too_large(limit: int) -> Status:
    """431: request line and header fields together have more than `limit` bytes."""
    message = f"Request line and header fields too large: limit is {limit}"
    return Status(431, "RequestHeaderFieldsTooLarge", message)


def internal_error(message: str) -> Status:
    """500: a fault of the proxy."""
    return Status(500, "InternalError", f"Internal error occurred: {message}")


def bad_gateway(message: str) -> Status:
    """502: the API server could not be reached or broke off.

    `BadGateway` is none of Kubernetes' reasons; kubectl prints it all the same. It tells people that the hop behind
    the proxy failed, where `ServiceUnavailable` and `InternalError` would pass for the API server's own words.
    """
    return Status(502, "BadGateway", message)


def service_unavailable(message: str, retry_after_seconds: int | None = None) -> Status:
    """503: the proxy cannot serve now. client-go tries again only if there is a Retry-After header as well."""
    return Status(503, "ServiceUnavailable", message, retry_after_seconds=retry_after_seconds)


def gateway_timeout(message: str) -> Status:
    """504: the API server did not answer in time; it may have acted. `Timeout` is Kubernetes' reason for it."""
    return Status(504, "Timeout", f"Timeout: {message}")


_UNLIKE_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_QUOTES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _quoted(text: str) -> str:
    """Quote as Go's %q does, so that no name can pass for more than a name."""
    return '"' + "".join(_QUOTES.get(char) or _printable(char) for char in text) + '"'


def _printable(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# Reading.

_PROTOBUF_MAGIC = b"k8s\0"
_LONGEST_UNPACKED = 1 << 20
"""Bytes of a compressed body that are looked at."""


def parse_status(body: bytes, content_type: str, content_encoding: str) -> tuple[str, str] | None:
    """Return reason and message of a failure, or None if the body is no Status of one.

    The body may be cut off, which loses what stood behind the cut: of JSON mostly the reason, which comes after the
    message. Either of the two may be empty. Never raises.
    """
    plain = _unpacked(body, content_encoding.strip().lower())
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/vnd.kubernetes.protobuf":
        fields = _protobuf_status(plain)
    elif media_type in {"application/json", ""}:
        fields = json_fields(plain)
    else:
        return None
    if fields.get("kind") != "Status" or fields.get("status") == "Success":
        return None
    reason, message = fields.get("reason"), fields.get("message")
    found = _text(reason), _text(message)
    return found if any(found) else None


def _text(value: object) -> str:
    """A string that can be encoded: JSON may carry halves of characters, above all where it was cut off."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def json_fields(body: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object, of one that is cut off those before the cut. Never raises.

    A string that is cut off counts as far as it goes; what is no JSON object has no fields.
    """
    try:
        whole = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _cut_off_fields(body.decode(errors="replace"))
    return whole if isinstance(whole, dict) else {}


def _unpacked(body: bytes, encoding: str) -> bytes:
    if encoding in {"", "identity"}:
        return body
    if encoding != "gzip":
        return b""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, _LONGEST_UNPACKED)
    except zlib.error:
        return b""


def _cut_off_fields(text: str) -> dict[str, Any]:
    decoder = json.JSONDecoder()
    fields: dict[str, Any] = {}
    position = _after_blanks(text, 0)
    separator = "{"
    while text[position : position + 1] == separator:
        try:
            key, position = decoder.raw_decode(text, _after_blanks(text, position + 1))
            position = _after_blanks(text, position)
            if not isinstance(key, str) or text[position : position + 1] != ":":
                break
            position = _after_blanks(text, position + 1)
        except ValueError:
            break
        try:
            fields[key], position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            if text.startswith('"', position):
                fields[key] = _cut_off_string(text, position)
            break
        position = _after_blanks(text, position)
        separator = ","
    return fields


def _cut_off_string(text: str, start: int) -> str:
    """Return the string that starts at `start`, if the text ends within it; an escape that is cut off is left out."""
    longest_escape = len(r"\u0000")
    for end in range(len(text), max(start, len(text) - longest_escape), -1):
        try:
            value = json.loads(text[start:end] + '"')
        except ValueError:
            continue
        return str(value)
    return ""


def _after_blanks(text: str, position: int) -> int:
    while text[position : position + 1] in {" ", "\t", "\n", "\r"}:
        position += 1
    return position


def _protobuf_status(body: bytes) -> dict[str, str]:
    """Return kind, status, message and reason (runtime/generated.proto Unknown; meta/v1/generated.proto Status)."""
    if not body.startswith(_PROTOBUF_MAGIC):
        return {}
    envelope = dict(delimited_fields(body[len(_PROTOBUF_MAGIC) :]))
    type_meta = dict(delimited_fields(envelope.get(1, b"")))
    status = dict(delimited_fields(envelope.get(2, b"")))
    fields = {"kind": type_meta.get(2), "status": status.get(2), "message": status.get(3), "reason": status.get(4)}
    return {key: value.decode(errors="replace") for key, value in fields.items() if value}
