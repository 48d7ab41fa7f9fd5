"""Asks Loki for lines, one page at a time, and says what to do where it does not answer."""

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import httpx
import orjson
from grafana_loki_client.api.query_range import get_loki_api_v1_query_range as query_range
from grafana_loki_client.client import Client
from grafana_loki_client.models.direction import Direction
from grafana_loki_client.models.query_response_data_result_type import QueryResponseDataResultType
from grafana_loki_client.models.query_response_result import QueryResponseResult
from grafana_loki_client.types import UNSET

Line = tuple[int, str]
"""A line of Loki: its time in nanoseconds, and its text."""

MOST_LINES = 5000
"""What Loki gives at most in one answer (`max_entries_limit_per_query`), unless it is set up otherwise."""

# Loki's parts pass each other 4 MiB at once, unless they are set up otherwise; of more, nothing is heard any more.
_MOST_BYTES = 3_000_000
_FIRST_LINES, _FEWEST_LINES = 1000, 100
_TIMEOUT = httpx.Timeout(90, connect=10)  # Loki's own limit for a query is a minute
_PAUSES = (0.5, 1, 2, 4)  # seconds before asking again
_TOO_LONG = b"time range exceeds the limit"
_TOO_MUCH = (b"received message larger than max", b"max entries limit")


class LokiError(Exception):
    """Loki does not give the lines. The message says why, `hint` what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Access:
    """Where Loki is and how to get in. A token counts more than a user and a password."""

    url: str
    tenant: str | None = None
    token: str | None = None
    user: str | None = None
    password: str | None = None
    ca_file: str | None = None

    @property
    def shown(self) -> str:
        """The URL without what may be secret in it."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def access(url: str | None, tenant: str | None, environment: Mapping[str, str]) -> Access:
    """Return the access that is asked for, with the rest from the environment, by logcli's names. Raises LokiError."""
    get = environment.get
    found = url or get("LOKI_URL") or get("LOKI_ADDR")
    if not found:
        raise LokiError("where is Loki?", "give --loki-url URL, or set LOKI_URL or LOKI_ADDR.")
    if urlsplit(found).scheme not in {"http", "https"} or not urlsplit(found).hostname:
        raise LokiError("the URL of Loki is no http:// or https:// URL", "write it as http://loki.example.com:3100.")
    return Access(
        url=found.rstrip("/"),
        tenant=tenant or get("LOKI_ORG_ID") or None,
        token=get("LOKI_BEARER_TOKEN") or _content(get("LOKI_BEARER_TOKEN_FILE")),
        user=get("LOKI_USERNAME") or None,
        password=get("LOKI_PASSWORD") or None,
        ca_file=get("LOKI_CA_CERT_PATH") or None,
    )


class Loki:
    """Loki's queries, over one pool of connections. A context manager. All that goes wrong is a LokiError."""

    def __init__(self, where: Access, sleep: Callable[[float], None] = time.sleep) -> None:
        self._where = where
        self._sleep = sleep
        self._most, self._ceiling = _FIRST_LINES, MOST_LINES
        headers = {"Authorization": f"Bearer {where.token}"} if where.token else {}
        # The library's own functions open a connection, and read all CA certificates, for each question.
        self._request = Client(where.url, headers=headers)
        try:
            self._http = httpx.Client(
                timeout=_TIMEOUT,
                auth=(where.user, where.password or "") if where.user and not where.token else None,
                verify=ssl.create_default_context(cafile=where.ca_file) if where.ca_file else True,
            )
        except OSError as error:
            raise LokiError(f"the CA certificate of Loki cannot be read: {error}", "check LOKI_CA_CERT_PATH.") from None

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the connections."""
        self._http.close()

    def page(self, query: str, start: int, end: int, limit: int, *, forward: bool) -> tuple[list[Line], bool]:
        """Return the first lines in a direction from `start` on and before `end`, and whether there may be more.

        Where the direction is backward, the first are the newest. A page may have less than `limit` lines, so that it
        is no larger than what Loki can pass on.
        """
        while True:
            most = min(limit, self._most)
            answer = self._ask(query, start, end, most, forward=forward)
            if answer is None:
                continue
            lines = self._lines(answer)
            lines.sort(reverse=not forward)
            if lines:
                fit = _MOST_BYTES * len(lines) // len(answer.content)
                self._most = max(min(fit, self._ceiling), _FEWEST_LINES)
            return lines, len(lines) >= most

    def _ask(self, query: str, start: int, end: int, limit: int, *, forward: bool) -> httpx.Response | None:
        """Return Loki's answer; None if it would be too large, so that fewer lines have to be asked for."""
        arguments = query_range._get_kwargs(  # noqa: SLF001 - what is public cannot share connections
            client=self._request,
            query=query,
            limit=limit,
            start=start,
            end=end,
            direction=Direction.FORWARD if forward else Direction.BACKWARD,
            x_scope_org_id=self._where.tenant or UNSET,
        )
        arguments = {key: value for key, value in arguments.items() if key not in {"cookies", "timeout"}}
        for pause in (*_PAUSES, None):
            response = self._sent(arguments)
            if response.status_code == HTTPStatus.OK:
                return response
            if limit > _FEWEST_LINES and any(text in response.content for text in _TOO_MUCH):
                self._most = self._ceiling = max(limit // 2, _FEWEST_LINES)
                return None
            if pause is None or response.status_code not in _PASSING:
                break
            self._sleep(pause)
        raise self._refused(response)

    def _sent(self, arguments: dict[str, Any]) -> httpx.Response:
        where = self._where.shown
        try:
            return self._http.request(**arguments)
        except httpx.ConnectTimeout:
            raise LokiError(f"{where} does not answer", _REACH) from None
        except httpx.TimeoutException:
            raise LokiError(f"{where} did not answer within {_TIMEOUT.read:.0f} seconds", _SHORTER) from None
        except httpx.ConnectError as error:
            raise LokiError(f"{where} cannot be reached: {error}", _REACH) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise LokiError(f"asking {where} failed: {str(error) or type(error).__name__}", _REACH) from None

    def _refused(self, response: httpx.Response) -> LokiError:
        status = response.status_code
        said = " ".join(response.text.split())[:300]
        slow = status >= HTTPStatus.INTERNAL_SERVER_ERROR or _TOO_LONG in response.content
        hint = _SHORTER if slow else _HINTS.get(status, _ELSE)
        return LokiError(f"{self._where.shown} answered {status}{f': {said}' if said else ''}", hint)

    def _lines(self, response: httpx.Response) -> list[Line]:
        try:
            return _read(response.content)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError):
            raise LokiError(f"{self._where.shown} answered, but not as Loki does", _ELSE) from None


def _read(content: bytes) -> list[Line]:
    data = orjson.loads(content)["data"]
    if QueryResponseDataResultType(data["resultType"]) is not QueryResponseDataResultType.STREAMS:
        raise ValueError("these are no lines")
    # The library cannot read a whole answer that has no statistics, which are not ours to need.
    streams = [QueryResponseResult.from_dict(stream) for stream in data["result"]]
    values: list[Any] = [value for stream in streams for value in stream.values]
    return [(int(value[0]), value[1]) for value in values]


_REACH = "check --loki-url, and that Loki runs and can be reached from here."
_SHORTER = "ask for less time with --since and --until, or for fewer rows with --limit; or look at Loki's own log."
_ELSE = "check that --loki-url is the address of Loki itself, without /loki/api."
_HINTS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "set LOKI_BEARER_TOKEN, or LOKI_USERNAME and LOKI_PASSWORD; check --tenant.",
    HTTPStatus.FORBIDDEN: "these credentials may not read there: check --tenant and the credentials.",
    HTTPStatus.TOO_MANY_REQUESTS: "Loki has too much to do: try again later, or ask for less time with --since.",
}
_PASSING = frozenset((
    HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT,
))  # fmt: skip


def _content(path: str | None) -> str | None:
    if not path:
        return None
    try:
        return Path(path).read_text().strip() or None
    except OSError as error:
        raise LokiError(f"{path} cannot be read: {error.strerror}", "check LOKI_BEARER_TOKEN_FILE.") from None
