"""The trail as a file: /export.csv and /export.jsonl."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any
from urllib.parse import parse_qs

from tornado.iostream import StreamClosedError

from kube_audit_proxy.admin.access import Access, TokenError
from kube_audit_proxy.admin.answers import Answer, RefusedError
from kube_audit_proxy.admin.export import Format, Piece, pieces
from kube_audit_proxy.admin.grafana_query import TOKEN, Arguments, Asked, QueryError, arguments, in_utc
from kube_audit_proxy.index.schema import NoIndex

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Downloads. Each has a thread, and a share of the index's pages in memory."""

_STALLED = 60.0
"""Seconds after which a client that takes nothing loses its download."""

_CHALLENGES = (
    ("WWW-Authenticate", 'Basic realm="kube-audit-proxy", charset="UTF-8"'),
    ("WWW-Authenticate", 'Bearer realm="kube-audit-proxy"'),
)

Read = Callable[[], "asyncio.Future[Piece | None]"]


@dataclass(frozen=True, slots=True)
class Source:
    """What downloads are made of: the index, who may, how arguments are read, and how many there may be at once."""

    index: Path
    access: Access
    parse: Callable[[Arguments, datetime], Asked]
    places: BoundedSemaphore


class Download(Answer):
    """Exactly the calls that were asked for, as they stand in the index, or a broken connection."""

    def initialize(self, source: Source, form: Format) -> None:
        """Take what tornado hands on."""
        self._source = source
        self._form = form
        self._granted_by = ""

    def prepare(self) -> None:
        """Let nobody in without the token."""
        links = parse_qs(self.request.query, keep_blank_values=True, errors="replace").get(TOKEN, [""])
        try:
            granted_by = self._source.access.granted_by(self.request.headers.get("Authorization", ""), links[-1])
        except TokenError as error:
            log.error("%s", error)  # noqa: TRY400 - no fault of ours
            raise RefusedError(503, "There is no token to ask for; the log of the proxy says why.") from error
        if granted_by is None:
            sentence = "The token of the admin listener is needed: as a bearer token, or as the password."
            raise RefusedError(401, sentence, _CHALLENGES)
        self._granted_by = granted_by

    async def head(self) -> None:
        """Answer as GET would, without the rows."""
        self._set_headers(self._asked())
        await self.flush()

    async def get(self) -> None:
        """Send all rows."""
        asked = self._asked()
        if not self._source.places.acquire(blocking=False):
            sentence = f"There are {AT_ONCE} downloads already. Try again when one is over."
            raise RefusedError(503, sentence, (("Retry-After", "10"),))
        rows = pieces(self._source.index, asked, self._form)
        async with _in_a_thread(rows, self._source.places.release) as read:
            try:
                piece = await read()
            except NoIndex as error:
                raise RefusedError(503, "There is no index to read from yet. Try again in a moment.") from error
            self._set_headers(asked)
            told = _Told(self._about(asked))
            try:
                await self._send(piece, read, told)
            finally:
                told.ended()

    async def _send(self, piece: Piece | None, read: Read, told: "_Told") -> None:
        """Send each piece once the client has taken the one before."""
        try:
            while piece is not None:
                self.write(piece.data)
                async with asyncio.timeout(_STALLED):
                    await self.flush()
                told.rows += piece.rows
                piece = await read()
            async with asyncio.timeout(_STALLED):
                await self.finish()
            told.problem = ""
        except StreamClosedError:
            told.problem = "the client has gone"
        except TimeoutError:
            told.problem = "the client takes nothing"
            self.break_off()
        except Exception as error:
            told.problem = str(error)
            raise
        except asyncio.CancelledError:
            self.break_off()
            raise

    def _asked(self) -> Asked:
        try:
            return self._source.parse(arguments(self.request.query), datetime.now(UTC))
        except QueryError as error:
            raise RefusedError(400, str(error)) from error

    def _set_headers(self, asked: Asked) -> None:
        until = in_utc(asked.filters.until) or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        span = "-".join(filter(None, (in_utc(asked.filters.since), until)))
        self.set_header("Content-Type", self._form.media_type)
        self.set_header("Content-Disposition", f'attachment; filename="kube-audit-calls-{span}.{self._form.ending}"')

    def _about(self, asked: Asked) -> dict[str, Any]:
        """Tell who asked for what. Whom Grafana shows it to is Grafana's word."""
        grafana_user = self.request.headers.get("X-Grafana-User")
        return {
            "file": self.request.path,
            "token": self._granted_by,
            "address": self.request.remote_ip,
            **({"grafana_user": grafana_user} if grafana_user else {}),
            "since": in_utc(asked.filters.since),
            "until": in_utc(asked.filters.until),
            "arguments": asked.arguments,
        }


class _Told:
    """What the log says of a download, at its begin and at its end: it is worth auditing itself."""

    def __init__(self, about: dict[str, Any]) -> None:
        self._about = about
        self._begin = time.monotonic()
        self.rows = 0
        self.problem = "the proxy was stopped"
        log.info("export %s", json.dumps({"event": "began", **about}))

    def ended(self) -> None:
        """Tell how it ended; without a problem it is complete."""
        end = {
            "event": "broke off" if self.problem else "complete",
            **({"problem": self.problem} if self.problem else {}),
            "rows": self.rows,
            "seconds": round(time.monotonic() - self._begin, 3),
        }
        log.log(logging.WARNING if self.problem else logging.INFO, "export %s", json.dumps({**end, **self._about}))


@asynccontextmanager
async def _in_a_thread(rows: Generator[Piece, None, None], over: Callable[[], None]) -> AsyncIterator[Read]:
    """Give what reads the next piece, None at the end, in a thread of its own. `over` is called once that has ended."""
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(1, thread_name_prefix="export")
    try:
        yield lambda: loop.run_in_executor(pool, next, rows, None)
    finally:
        # Behind what the thread is still busy with.
        pool.submit(rows.close).add_done_callback(lambda _: over())
        pool.shutdown(wait=False)
