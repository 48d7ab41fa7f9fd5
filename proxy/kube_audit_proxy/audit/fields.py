"""Every field of every journal record: the one vocabulary that the trail, its readers and docs/record.md share.

A record is one flat JSON object. A field that does not apply to a call is absent; it is never null or empty.
"""

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """How far a call has come (audit.k8s.io/v1, `Stage`)."""

    REQUEST_RECEIVED = "RequestReceived"
    RESPONSE_STARTED = "ResponseStarted"
    RESPONSE_COMPLETE = "ResponseComplete"
    PANIC = "Panic"


class Decision(StrEnum):
    """Whether the call was let through."""

    ALLOW = "allow"
    DENY = "deny"
    ERROR = "error"


class Outcome(StrEnum):
    """How a call ended."""

    COMPLETE = "complete"
    REFUSED = "refused"
    CLIENT_GONE = "client_gone"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_GONE = "upstream_gone"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class AccessMethod(StrEnum):
    """By what kind of client the user got in."""

    BROWSER = "browser"
    KUBECTL = "kubectl"
    API = "api"


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its JSON type, in which lines it stands, what it means, where it comes from, who could forge it."""

    name: str
    type: str
    lines: str
    meaning: str
    source: str
    forgeable: bool = False


EVERY, START, STARTED, END = "every line", "every stage", "ResponseStarted and later", "end"

FIELDS: tuple[Field, ...] = (
    Field("writer", "string", EVERY, "The gateway worker that wrote the line.", "proxy"),
    Field("seq", "integer", EVERY, "Number of the line within its writer: from 1, without gaps.", "proxy"),
    Field(
        "prev",
        "string",
        EVERY,
        "SHA-256 (hex) of the writer's line before, without its newline; 64 zeros on the first.",
        "proxy",
    ),
    Field(
        "kind",
        "string",
        EVERY,
        "`call`; `segment` for the first line of each file; `heartbeat`; `lost` where ends of calls could not be kept.",
        "proxy",
    ),
    Field(
        "stage",
        "string",
        START,
        "`RequestReceived`, `ResponseStarted` (long-running calls), `ResponseComplete` or `Panic`.",
        "proxy",
    ),
    Field(
        "stageTimestamp",
        "RFC 3339, microseconds, UTC",
        START,
        "When this stage was reached; of a heartbeat, when it was written.",
        "proxy's clock",
    ),
    Field(
        "auditID",
        "UUID",
        START,
        "The call. Sent upstream as `Audit-ID`, so the API server's own audit log has the same.",
        "proxy",
    ),
    Field(
        "requestReceivedTimestamp",
        "RFC 3339, microseconds, UTC",
        START,
        "When the head of the request had arrived.",
        "proxy's clock",
    ),
    Field(
        "cluster",
        "string",
        START,
        "The cluster, as named in `/clusters/<name>`.",
        "request path; that of a refused call may name none that exists",
    ),
    Field("user", "string", START, "Who made the call. Absent where nobody could be authenticated.", "credential"),
    Field("groups", "array of strings", START, "The user's groups as the proxy knows them.", "credential"),
    Field("authenticator", "string", START, "What proved the user: `token`.", "proxy"),
    Field(
        "upstream_user",
        "string",
        START,
        "The name under which the API server sees the call, where it is known.",
        "proxy",
    ),
    Field(
        "impersonated",
        "boolean",
        START,
        "Whether `upstream_user` is impersonated; false: the cluster credential's own identity.",
        "proxy",
    ),
    Field(
        "access_method",
        "string",
        START,
        "`browser`, `kubectl` or `api`.",
        "`browser`: credential; the others: User-Agent and Kubectl-Command",
        forgeable=True,
    ),
    Field("sourceIPs", "array of strings", START, "The address the connection came from.", "socket"),
    Field(
        "userAgent",
        "string",
        START,
        "User-Agent, at most 1,024 characters, then `...TRUNCATED`.",
        "request header",
        forgeable=True,
    ),
    Field("method", "string", START, "HTTP method.", "request"),
    Field("requestURI", "string", START, "Path and query as sent upstream, secrets redacted.", "request"),
    Field(
        "verb",
        "string",
        START,
        "Kubernetes verb: get, list, watch, create, update, patch, delete, deletecollection; the lower-cased method "
        "for non-resource paths.",
        "request, by the API server's rules",
    ),
    Field("group", "string", START, "API group; absent for the core group.", "request path"),
    Field("version", "string", START, "API version.", "request path"),
    Field("resource", "string", START, "Resource, plural. Absent for non-resource paths.", "request path"),
    Field("subresource", "string", START, "Subresource, such as `exec`, `log`, `status`, `scale`.", "request path"),
    Field("namespace", "string", START, "Namespace; absent for cluster-wide calls.", "request path"),
    Field(
        "name",
        "string",
        START,
        "Object's name; absent for lists and most creates.",
        "request path or metadata.name field selector",
    ),
    Field("fieldSelector", "string", START, "Field selector of a list, watch or deletecollection.", "request query"),
    Field("labelSelector", "string", START, "Label selector of a list, watch or deletecollection.", "request query"),
    Field(
        "command",
        "string",
        START,
        "The command the call is part of, as far as it is known (`kubectl get`).",
        "see command_source",
        forgeable=True,
    ),
    Field(
        "command_source",
        "string",
        START,
        "Where `command` comes from: `header` (Kubectl-Command: no arguments).",
        "proxy",
    ),
    Field(
        "command_id",
        "UUID",
        START,
        "The command: the same for all calls of one user with one Kubectl-Session.",
        "derived from user and Kubectl-Session",
        forgeable=True,
    ),
    Field(
        "trace_id",
        "32 hex digits",
        START,
        "The trace: `command_id`, or `auditID` where there is none, without its dashes.",
        "derived",
        forgeable=True,
    ),
    Field("span_id", "16 hex digits", START, "The call's span: the last half of `auditID`.", "derived"),
    Field(
        "upgrade",
        "string",
        START,
        "Protocol the client asks to switch to: `websocket` or `SPDY/3.1`.",
        "request header",
    ),
    Field(
        "exec_argv",
        "array of strings",
        START,
        "exec: the command line run in the container, redacted by configuration.",
        "request query",
    ),
    Field("exec_container", "string", START, "exec, attach: the container asked for.", "request query"),
    Field("exec_tty", "boolean", START, "exec, attach: whether a terminal was asked for.", "request query"),
    Field("exec_stdin", "boolean", START, "exec, attach: whether standard input was asked for.", "request query"),
    Field(
        "relaxed",
        "boolean",
        START,
        "True where the call went upstream although its start was not durable (setting `journal.relaxed`).",
        "proxy",
    ),
    Field("status", "integer", STARTED, "HTTP status sent to the client; 101 for a stream.", "API server or proxy"),
    Field(
        "decision",
        "string",
        END,
        "`allow`; `deny` (401, 403); `error` (refused for any other reason, or never answered upstream).",
        "proxy",
    ),
    Field("decided_by", "string", END, "Who gave the status: `apiserver` or `proxy`.", "proxy"),
    Field(
        "reason", "string", END, "Kubernetes reason of a failure, such as `Forbidden` or `NotFound`.", "Status object"
    ),
    Field("message", "string", END, "Message of a failure, at most 1,024 characters.", "Status object"),
    Field(
        "outcome",
        "string",
        END,
        "How the call ended: `complete`, `refused`, `client_gone`, `upstream_unreachable`, `upstream_gone`, "
        "`interrupted` (proxy stopped or died) or `failed` (a fault of the proxy).",
        "proxy",
    ),
    Field(
        "duration_ms",
        "number",
        END,
        "End to end: from the request's head to the last byte of the answer. Absent after a crash.",
        "proxy's monotonic clock",
    ),
    Field(
        "upstream_start_ms",
        "number",
        END,
        "From the request's head to the first byte sent upstream: what the proxy itself takes before.",
        "proxy's monotonic clock",
    ),
    Field(
        "upstream_ms",
        "number",
        END,
        "The part of it from the first byte sent upstream to the last byte received.",
        "proxy's monotonic clock",
    ),
    Field(
        "first_byte_ms",
        "number",
        END,
        "From the request's head to the first byte of the answer.",
        "proxy's monotonic clock",
    ),
    Field(
        "request_bytes", "integer", END, "Bytes of the request's body, or of the stream from client to server.", "proxy"
    ),
    Field(
        "response_bytes", "integer", END, "Bytes of the answer's body, or of the stream from server to client.", "proxy"
    ),
    Field("subprotocol", "string", END, "Stream protocol agreed on, such as `v5.channel.k8s.io`.", "response header"),
    Field(
        "exit_code",
        "integer",
        END,
        "exec: exit code of the command, where the stream told it.",
        "stream's error channel",
    ),
    Field("ports", "array of integers", END, "port-forward: the ports of the pod that were connected to.", "stream"),
    Field("format", "integer", "segment", "Version of the record format: 1.", "proxy"),
    Field("product", "string", "segment, heartbeat", "Name and version of the writing program.", "proxy"),
    Field("opened", "RFC 3339, microseconds, UTC", "segment", "When the file was begun.", "proxy's clock"),
    Field(
        "oldest_open",
        "integer",
        "segment",
        "Lowest `seq` whose call had not ended when the file was begun; absent if none.",
        "proxy",
    ),
    Field("calls", "integer", "heartbeat", "Calls in flight.", "proxy"),
    Field("refused", "integer", "heartbeat", "Calls that were not let through since the worker began.", "proxy"),
    Field("journal_bytes", "integer", "heartbeat", "Size of all that the writer's journal holds.", "proxy"),
    Field("shipped_seq", "integer", "heartbeat", "The last of the writer's lines that had been shipped.", "shipper"),
    Field("lag_seconds", "number", "heartbeat", "How old the oldest line was that had not been shipped.", "shipper"),
    Field("dead_letters", "integer", "heartbeat", "Records that the other side refuses for good, so far.", "shipper"),
    Field("ending", "boolean", "heartbeat", "True in the last one where a writer ends in good order.", "proxy"),
    Field(
        "count", "integer", "lost", "How many lines could not be kept while the journal could not be written.", "proxy"
    ),
    Field("since", "RFC 3339, microseconds, UTC", "lost", "When that began.", "proxy's clock"),
)
