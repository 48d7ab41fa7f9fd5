"""The way of a call: what, who, may, record, upstream, record.

`Gateway.exchange` is the whole story of one call, read top-down. Nothing reaches a cluster but through it, and every
way out of it leaves the call's end in the journal. What a call seldom waits for, a connection or a credential, runs in
a task of its own: there is no current one here, see `coroutine.Runner`.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from kube_audit_proxy.audit.call import CallEnd, CallRecord
from kube_audit_proxy.audit.command import command_id
from kube_audit_proxy.audit.fields import Outcome
from kube_audit_proxy.audit.redaction import Redaction
from kube_audit_proxy.audit.trace import client_span_id, is_sampled, trace_id, traceparent
from kube_audit_proxy.cluster.cluster import Cluster
from kube_audit_proxy.cluster.credential import CredentialError
from kube_audit_proxy.gateway.client import ClientConnection, Request
from kube_audit_proxy.gateway.describe import (
    NOTHING_ASKED,
    Asked,
    describe_client,
    describe_connection,
    describe_identity,
    describe_user,
    describer,
)
from kube_audit_proxy.gateway.errors import (
    ClientGoneError,
    Refusal,
    UpstreamConnectError,
    UpstreamError,
    UpstreamIdleClosedError,
)
from kube_audit_proxy.gateway.framing import answer_framing, request_framing
from kube_audit_proxy.gateway.headers import (
    RawHeaders,
    Scrubbed,
    client_head,
    passes_whole,
    scrub,
    upstream_head,
)
from kube_audit_proxy.gateway.refusals import NO_PREFIX, answer, blame, decision, no_such_cluster, shape_refused
from kube_audit_proxy.gateway.route import PREFIX, split_target
from kube_audit_proxy.gateway.tls import HANDSHAKE_TIMEOUT, TlsTransport, as_protocol
from kube_audit_proxy.gateway.upstream import Response, UpstreamConnection
from kube_audit_proxy.identity.impersonation import ImpersonationError
from kube_audit_proxy.identity.impersonation import headers as impersonation_headers
from kube_audit_proxy.identity.user import Credentials, UnauthenticatedError, UndecidedError, Union, User
from kube_audit_proxy.journal.files import JournalError
from kube_audit_proxy.journal.writer import JournalWriter
from kube_audit_proxy.kube import status
from kube_audit_proxy.kube.channels import observer
from kube_audit_proxy.kube.headers import kubectl_session
from kube_audit_proxy.kube.requestinfo import RequestInfo
from kube_audit_proxy.kube.status import Status, parse_status
from kube_audit_proxy.kube.verbs import VerbClass
from kube_audit_proxy.process.tally import Tally

log = logging.getLogger(__name__)

_REPEATABLE: Final = frozenset({"GET", "HEAD"})

_INTERRUPTED: Final = Outcome.INTERRUPTED
_COMPLETE: Final = Outcome.COMPLETE

_LINGER = 1.0
"""Seconds for which a connection without a call is left open at the end, since its client may just be making one."""

_SWEEPS_A_LOOK = 12
"""In so many sweeps the kernel is asked once about each connection: a system call for each of 10,000 is 10 ms."""

_LOOK = 0.25
"""Seconds between two looks at whether all calls have ended."""


class Admitted:
    """A call that may go upstream: to where, and the head it goes with. No dataclass: one is made for each call."""

    __slots__ = ("cluster", "identity_headers", "info", "scrubbed", "target")

    def __init__(
        self, cluster: Cluster, info: RequestInfo, target: str, scrubbed: Scrubbed, identity_headers: bytes
    ) -> None:
        self.cluster = cluster
        self.info = info
        self.target = target
        self.scrubbed = scrubbed
        self.identity_headers = identity_headers


@dataclass(frozen=True, eq=False)
class Caller:
    """Who made the last call of a connection, and with which headers."""

    headers: RawHeaders
    scrubbed: Scrubbed
    user: User
    members: bytes
    trace: str
    """The trace of the command that the call is part of; empty if it is of none."""


class Call:
    """One call while it runs: what its record will say."""

    __slots__ = (
        "answered",
        "asked",
        "client",
        "cluster",
        "connection",
        "record",
        "request",
        "response",
        "status",
        "subprotocol",
        "trace",
    )

    def __init__(self, client: ClientConnection, request: Request, record: CallRecord) -> None:
        self.client = client
        self.request = request
        self.record = record
        self.asked = NOTHING_ASKED
        self.cluster: Cluster | None = None
        self.connection: UpstreamConnection | None = None
        self.response: Response | None = None
        self.status = 0
        self.answered = False
        """Whether the head of an answer has been written to the client."""
        self.subprotocol = ""
        self.trace = trace_id(record.audit_id)


class Gateway:
    """Serves connections. Everything it depends on is handed in."""

    def __init__(
        self,
        *,
        clusters: Mapping[str, Cluster],
        identity: Union,
        journal: JournalWriter,
        redaction: Redaction,
        traced: float | None,
        tally: Tally,
        relaxed: frozenset[VerbClass],
        answer_timeout: float,
        clock: Callable[[], float],
        wall: Callable[[], str],
        new_id: Callable[[], str],
    ) -> None:
        self._clusters = clusters
        self._identity = identity
        self._journal = journal
        self._describe = describer(redaction)
        self._traced = traced
        self.tally = tally
        self._relaxed = relaxed
        self._answer_timeout = answer_timeout
        self._clock = clock
        self._wall = wall
        self._new_id = new_id
        self._impersonation = lru_cache(maxsize=4096)(impersonation_headers)
        self.draining = False
        self.in_flight = 0
        """Calls that have begun and not ended."""
        self._sweeps = 0
        self.clients: set[ClientConnection] = set()
        self._emptied: asyncio.Future[None] | None = None
        """Somebody waits for the last client to go."""
        self._arriving: dict[ClientConnection, float] = {}
        """Connections whose TLS handshake goes on, or has failed, and when they were accepted."""

    def accept(self, tls: ssl.SSLContext) -> asyncio.BaseProtocol:
        """Make the protocol of a connection that has been accepted; it is served once its TLS handshake is done."""
        client = ClientConnection(self.serve, self._clock)
        self._arriving[client] = self._clock()
        return as_protocol(TlsTransport(client, tls))

    async def serve(self, client: ClientConnection) -> None:
        """Serve one connection until either side is done with it."""
        self._arriving.pop(client, None)
        self.clients.add(client)
        self.tally.connections += 1
        try:
            while True:
                request = await client.next_request()
                await self.exchange(client, request)
                if not (request.body_done or request.awaits_continue or request.broken):
                    await client.discard_body()
                    break
                if not request.keep_alive or not request.body_done or client.lost:
                    break
        except ClientGoneError:
            pass
        finally:
            self.clients.discard(client)
            if not self.clients and self._emptied is not None and not self._emptied.done():
                self._emptied.set_result(None)
            client.close()

    async def drain(self, grace: float) -> None:
        """Let everything end within `grace` seconds, then cut off what has not, on the record.

        Each connection may make one more call, whose answer says that it is the last: a client that is about to use
        its connection must not find it closed. Where it has not done so for a moment, it is closed.
        """
        self.draining = True
        end = self._clock() + grace
        while (now := self._clock()) < end and (self.clients or self._is_awaited(now)):
            for client in tuple(self.clients):
                if client.idle_for(now) >= _LINGER:
                    client.close()
            await self._wait_until_empty(min(_LOOK, end - now))
        while self.clients:
            for client in self.clients:
                client.cancel()
            await self._wait_until_empty(_LOOK)
        for cluster in self._clusters.values():
            cluster.pool.close()

    async def _wait_until_empty(self, seconds: float) -> None:
        """Wait until there are no clients any more, or for so long; if there are none, for so long."""
        self._emptied = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._emptied], timeout=seconds)

    def _is_awaited(self, now: float) -> bool:
        """Whether somebody was accepted a moment ago, and has not come through the handshake yet."""
        return any(now - accepted < _LINGER for accepted in self._arriving.values())

    def sweep(self) -> None:
        """End what has been idle, or has kept us waiting, for too long: clients, kept connections, and answers."""
        now = self._clock()
        self._sweeps += 1
        for number, client in enumerate(tuple(self.clients), self._sweeps):
            if client.waits_too_long(now):
                client.transport.abort()
            elif client.is_abandoned(now):
                client.give_up()
            elif number % _SWEEPS_A_LOOK == 0:
                client.miss_peers()
        for client, accepted in tuple(self._arriving.items()):
            if now - accepted > HANDSHAKE_TIMEOUT:
                del self._arriving[client]
        for cluster in self._clusters.values():
            cluster.pool.sweep(self._answer_timeout)

    async def exchange(self, client: ClientConnection, request: Request) -> None:
        """Carry one call from its head to the record of its end."""
        call = Call(client, request, CallRecord(self._new_id(), self._wall()))
        failure: Status | None = None
        outcome = _INTERRUPTED
        self.in_flight += 1
        try:
            try:
                admitted = await self._admit(call)
            except Refusal as refused:
                failure = refused.status
            call.record.trace(call.trace)
            failure = await self._record_start(call) or failure
            if failure is not None:
                outcome = Outcome.REFUSED
                await self._refuse(call, failure)
            else:
                await self._forward(call, admitted)
                outcome = _COMPLETE
        except (ClientGoneError, UpstreamError) as error:
            failure, outcome = blame(error, request)
            if failure is not None:
                await self._answer_or_abort(call, failure)
        except Exception:
            log.exception("call %s failed in the proxy", call.record.audit_id)
            outcome = Outcome.FAILED
            failure = status.internal_error(f"see the proxy's log for Audit-ID {call.record.audit_id}")
            await self._answer_or_abort(call, failure)
        finally:
            self.in_flight -= 1
            end = self._end(call, outcome, failure)
            self._release(call)
            self._journal.append(call.record.end(self._wall(), end), ends=call.record.audit_id)
            self._count(call.asked, end)

    # what, who, may

    async def _admit(self, call: Call) -> Admitted:
        """Find out all that can be known of a call before anything is done; raise Refusal for what will not pass."""
        request, record = call.request, call.record
        cluster_name, target = split_target(request.target)
        record.add(describe_connection(cluster_name, call.client.address))
        asked = self._describe(request.method, target)
        record.add(asked.members)
        call.asked, info = asked, asked.info
        if request.broken is not None:
            raise request.broken
        scrubbed, user = await self._caller(call)
        refused = shape_refused(request, scrubbed, asked.refused) or scrubbed.refused
        cluster = self._clusters.get(cluster_name)
        if refused is None and not cluster_name:
            refused = NO_PREFIX
        if refused is not None or info is None:
            raise Refusal(refused or status.bad_request("the request names nothing the API server serves"))
        if cluster is None or not user.may_call(cluster_name):
            raise Refusal(no_such_cluster(cluster_name, user, self._clusters))
        record.add(describe_identity(user, cluster.own_user))
        try:
            identity_headers = self._impersonation(user)
        except ImpersonationError as error:
            raise Refusal(status.forbidden(user.name, info, str(error))) from error
        return Admitted(cluster, info, target, scrubbed, identity_headers)

    async def _caller(self, call: Call) -> tuple[Scrubbed, User]:
        """Find out who calls, and what they say of themselves: most of it is as it was in the call before."""
        request, client = call.request, call.client
        before = client.caller
        same = before is not None and before.headers == request.headers and not request.upgrading
        scrubbed = before.scrubbed if before and same else scrub(request.headers, upgrading=request.upgrading)
        request.awaits_continue = scrubbed.expect_continue and not request.body_done
        try:
            user = self._identity.remembered(scrubbed.token)
            if user is None:
                user = await asyncio.create_task(self._identity.authenticate(Credentials(scrubbed.token)))
        except UnauthenticatedError as error:
            call.record.add(describe_client(scrubbed.user_agent, scrubbed.kubectl_command, scrubbed.upgrade))
            raise Refusal(status.unauthorized(str(error))) from error
        except UndecidedError as undecided:
            call.record.add(describe_client(scrubbed.user_agent, scrubbed.kubectl_command, scrubbed.upgrade))
            raise Refusal(status.service_unavailable(str(undecided))) from undecided
        if before is None or not same or before.user is not user:
            before = client.caller = self._describe_caller(request.headers, scrubbed, user)
        call.record.add(before.members)
        call.trace = before.trace or call.trace
        return scrubbed, user

    def _describe_caller(self, headers: RawHeaders, scrubbed: Scrubbed, user: User) -> Caller:
        trace = ""
        parts = [
            describe_client(scrubbed.user_agent, scrubbed.kubectl_command, scrubbed.upgrade),
            describe_user(user.name, user.groups, user.authenticator),
        ]
        session = kubectl_session(scrubbed.kubectl_session)
        if session:
            command = command_id(user.name, session)
            trace = trace_id(command)
            parts.append(f'"command_id":"{command}"'.encode())
        return Caller(headers, scrubbed, user, b",".join(parts), trace)

    # record

    async def _record_start(self, call: Call) -> Status | None:
        """Make the call's start durable. Gives the refusal if that cannot be done and must be."""
        start = call.record.start()
        began = self._clock()
        try:
            await self._journal.commit(start, call=call.record.audit_id)
            self.tally.committed((self._clock() - began) * 1000)
        except JournalError as error:
            if call.asked.verb_class in self._relaxed:
                call.record.add(b'"relaxed":true')
                self._journal.append(call.record.start())
                return None
            return status.service_unavailable(f"the call cannot be recorded, so it is not made: {error}")
        return None

    def _end(self, call: Call, outcome: Outcome, failure: Status | None) -> CallEnd:
        connection, response, received = call.connection, call.response, call.request.received
        now = self._clock()
        decided_by = "proxy" if response is None else "apiserver"
        reason, message = (failure.reason, failure.message) if failure else ("", "")
        upstream_ms = upstream_start_ms = first_byte_ms = exit_code = None
        request_bytes = response_bytes = 0
        ports: tuple[int, ...] = ()
        if connection is not None:
            upstream_ms = (max(connection.last_byte_at, connection.sent_at) - connection.sent_at) * 1000
            upstream_start_ms = (connection.sent_at - received) * 1000
            first_byte_ms = (connection.first_byte_at - received) * 1000 if connection.first_byte_at else None
            request_bytes, response_bytes = connection.request_bytes, connection.response_bytes
            watching = connection.observer
            if watching is not None:
                exit_code, ports = watching.exit_code, watching.ports
                reason, message = watching.reason, watching.message
            elif response is not None and connection.failure_body and not call.asked.foreign:
                types = response.header(b"content-type"), response.header(b"content-encoding")
                reason, message = parse_status(bytes(connection.failure_body), *types) or (reason, message)
        return CallEnd(
            status=call.status,
            decision=decision(call.status, decided_by),
            decided_by=decided_by,
            outcome=outcome,
            duration_ms=(now - received) * 1000,
            upstream_ms=upstream_ms,
            upstream_start_ms=upstream_start_ms,
            first_byte_ms=first_byte_ms,
            request_bytes=request_bytes,
            response_bytes=response_bytes,
            reason=reason,
            message=message,
            subprotocol=call.subprotocol,
            exit_code=exit_code,
            ports=ports,
        )

    def _count(self, asked: Asked, end: CallEnd) -> None:
        duration = None if asked.long_running else end.duration_ms  # how long somebody watches says nothing of speed
        self.tally.count(
            end.status,
            end.decision,
            duration,
            end.upstream_ms,
            end.request_bytes,
            end.response_bytes,
            asked.verb_class or "",
        )

    # upstream

    async def _forward(self, call: Call, admitted: Admitted) -> None:
        client, request, cluster = call.client, call.request, admitted.cluster
        if client.lost:
            raise ClientGoneError
        long_running = call.asked.long_running
        response = await self._ask(call, admitted, patient=long_running)
        connection = call.connection
        assert connection is not None  # noqa: S101 - `_ask` has set it
        foreign = call.asked.foreign
        if response.code == 401 and not foreign:
            cluster.credentials.refused()
            raise UpstreamError(f"cluster {cluster.name!r} does not accept this proxy's own credential (401)")
        if response.upgraded and not admitted.scrubbed.upgrade:
            raise UpstreamError("the API server switched protocols, which nobody had asked for")
        call.response, call.status = response, response.code
        if long_running:
            self._journal.append(call.record.response_started(self._wall(), response.code))
        call.answered = True
        if response.upgraded:
            await self._stream(call, admitted, response)
            return
        framing, chunked = answer_framing(request, response)
        if request.upgrading:
            client.as_http_again()
        if self.draining or not request.body_done:
            request.keep_alive = False
        close = b"" if request.keep_alive else b"Connection: close\r\n"
        if passes_whole(response.lower) and (response.content_length >= 0 or chunked == response.chunked):
            head = b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (response.code, response.phrase, response.block, close)
        else:
            prefix = PREFIX + cluster.name
            head = client_head(
                response.code, response.phrase, response.headers, framing + close, prefix=prefix, foreign=foreign
            )
        await connection.relay(head, chunked=chunked)

    async def _ask(self, call: Call, admitted: Admitted, *, patient: bool) -> Response:
        """Send the call and give the head of its answer, over a kept connection if there is one."""
        client, request, cluster, scrubbed = call.client, call.request, admitted.cluster, admitted.scrubbed
        try:
            credential = cluster.present()
            if credential is None:
                credential = await asyncio.create_task(cluster.credential())
        except CredentialError as error:
            raise UpstreamConnectError(f"no credential for cluster {cluster.name!r}: {error}") from error
        fixed = b"".join((
            cluster.host_header,
            admitted.identity_headers,
            credential.authorization,
            f"Audit-ID: {call.record.audit_id}\r\nX-Forwarded-For: {client.address}\r\n".encode(),
            self._trace_header(call),
        ))  # fmt: skip
        head = upstream_head(
            request.method,
            cluster.base_path + admitted.target,
            fixed,
            scrubbed.passed,
            request_framing(request, scrubbed),
        )
        # A stream gets a connection of its own, which is not kept.
        connection = cluster.pool.take_kept() if not scrubbed.upgrade else None
        while True:
            if connection is None:
                connection = await asyncio.create_task(cluster.pool.connect())
            if client.lost:
                connection.transport.abort()
                raise ClientGoneError
            call.connection, call.cluster = connection, cluster
            connection.send(client, request, head)
            if request.awaits_continue and not request.body_done:
                request.awaits_continue = False
                client.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            try:
                await cluster.pool.answered(connection, patient=patient)
            except UpstreamIdleClosedError:
                # It was closed as we took it. Only what changes nothing may be sent twice.
                if request.method not in _REPEATABLE or not request.body_done:
                    raise
                connection.release()
                connection = call.connection = None
            else:
                return connection.answer

    def _trace_header(self, call: Call) -> bytes:
        if self._traced is None:
            return b""
        span = client_span_id(call.record.audit_id)
        sampled = is_sampled(call.trace, self._traced)
        return f"traceparent: {traceparent(call.trace, span, sampled=sampled)}\r\n".encode()

    async def _stream(self, call: Call, admitted: Admitted, response: Response) -> None:
        connection, upgrade = call.connection, admitted.scrubbed.upgrade
        assert connection is not None  # noqa: S101 - set by `_ask`
        call.subprotocol = response.header(b"sec-websocket-protocol") or response.header(b"x-stream-protocol-version")
        call.request.keep_alive = False
        query = admitted.target.partition("?")[2]
        watching = observer(upgrade, call.subprotocol, admitted.info.subresource, query)
        framing = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % (response.header(b"upgrade") or upgrade).encode()
        head = client_head(101, response.phrase, response.headers, framing, foreign=call.asked.foreign)
        try:
            await connection.tunnel(head, watching, framed=_is_framed(upgrade, admitted.info))
        except (ClientGoneError, UpstreamError):
            # Who hangs up first after the end has been told, and how, is chance.
            if watching is None or not watching.ended:
                raise

    def _release(self, call: Call) -> None:
        connection, cluster = call.connection, call.cluster
        if connection is None or cluster is None:
            return
        if connection.release() and not self.draining:
            cluster.pool.keep(connection)
        else:
            connection.transport.close()

    # answers of our own

    async def _answer_or_abort(self, call: Call, failure: Status) -> None:
        if call.answered:
            # Half an answer must not look whole.
            call.client.transport.abort()
        else:
            await self._refuse(call, failure)

    async def _refuse(self, call: Call, failure: Status) -> None:
        """Answer with a Status."""
        client, request = call.client, call.request
        call.status = failure.code
        call.answered = True
        client.detach()
        if not request.body_done or request.upgrading or self.draining:
            request.keep_alive = False
        if not client.lost:
            client.transport.write(answer(failure, call.record.audit_id, call.asked.info, request))


def _is_framed(upgrade: str, info: RequestInfo) -> bool:
    """Whether a stream goes to its client frame by frame: a websocket, save those that carry SPDY in scraps."""
    return upgrade == "websocket" and info.subresource != "portforward"
