"""What the query of a streaming request asks for, and queries without their secrets."""

import re
from dataclasses import dataclass

from kube_audit_proxy.kube.targets import decode_form, first_values, query_bool, query_pairs


@dataclass(frozen=True, slots=True)
class ExecOptions:
    """What an exec or attach asks for (core/v1, PodExecOptions and PodAttachOptions).

    `argv` is empty for attach, `container` where the server is to choose.
    """

    argv: tuple[str, ...]
    container: str
    tty: bool
    stdin: bool
    stdout: bool
    stderr: bool


def exec_options(query: str) -> ExecOptions:
    """Read the query of an exec or attach; never raises. `command` repeats, of all else the first value counts."""
    argv = tuple(value for key, value in query_pairs(query) if key == "command")
    values = first_values(query)
    tty, stdin, stdout, stderr = (
        key in values and query_bool(values[key]) for key in ("tty", "stdin", "stdout", "stderr")
    )
    return ExecOptions(argv, values.get("container", ""), tty, stdin, stdout, stderr)


def portforward_ports(query: str) -> tuple[int, ...]:
    """Return the ports that a port-forward names in its query, in order, each once; kubectl names none there.

    Ports repeat or are parted by commas (apimachinery, pkg/apis/meta/v1/conversion.go). Where one of them is no
    port the API server refuses the request, and there is none.
    """
    texts = [text for key, value in query_pairs(query) if key == "ports" for text in value.split(",")]
    ports = [port for text in texts if (port := parse_port(text)) is not None]
    return tuple(dict.fromkeys(ports)) if len(ports) == len(texts) else ()


_PORT = re.compile(r"0*([1-9][0-9]{0,4})")


def parse_port(text: str) -> int | None:
    """Return a port number, from 1 to 65535 and in ASCII digits, or None."""
    match = _PORT.fullmatch(text)
    port = int(match.group(1)) if match else 0
    return port if 0 < port < 1 << 16 else None


_SECRET_ENDS = ("token", "password", "passwd", "secret", "signature", "authorization", "assertion", "apikey")
_MAY_BE_SECRET = re.compile(
    r"token|passw|secret|sig|authorization|assertion|api[-_.]?key|[?&;][^=&;%]*+%", re.IGNORECASE
)


def redact_query(target: str) -> str:
    """Return a request target with `REDACTED` for the value of each query key that is called like a secret.

    That is a key that ends in `token`, `password`, `secret`, `signature` and the like, in any case and with `-`, `_`
    and `.` left out, or is `sig`. All else stays as it is, byte for byte. `;` may begin a key, as some servers behind
    a pod's or service's proxy have it, but does not end a secret.
    """
    path, mark, query = target.partition("?")
    if not query or _MAY_BE_SECRET.search(target, len(path)) is None:
        return target
    return path + mark + "&".join(map(_redact_pair, query.split("&")))


def _redact_pair(pair: str) -> str:
    start = 0
    for part in pair.split(";"):
        key, equals, _ = part.partition("=")
        if equals and _is_secret(key):
            return f"{pair[:start]}{key}=REDACTED"
        start += len(part) + 1
    return pair


def _is_secret(key: str) -> bool:
    plain = re.sub("[-_.]", "", decode_form(key)).lower()
    return plain == "sig" or plain.endswith(_SECRET_ENDS)
