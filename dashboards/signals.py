"""Every question that the dashboards ask, once: its name, its query, the unit of the answer and what it means."""

from dataclasses import dataclass
from enum import StrEnum

from dashboards import matching

SERVICE = 'service_name="kube-audit-proxy"'
_STREAMS = 'cluster=~"$cluster",access_method=~"$access_method",verb=~"$verb"'

_WHICH = (matching.USER, matching.NAMESPACE, matching.RESOURCE, matching.COMMAND_ID, matching.TEXT)
_MATCH = matching.stage((*_WHICH, matching.METHOD, matching.STATUS, matching.DECISION))

CALLS = f'{{{SERVICE},kind="call",{_STREAMS}}} {_MATCH}'
"""The calls that pass all the filters of the dashboard of API calls."""

# Calls that last as long as somebody looks: their duration says nothing about how fast the cluster is.
_SHORT = '| subresource!~"exec|attach|log|portforward|proxy"'
_LONG = '| verb=~"watch|proxy" or subresource=~"exec|attach|log|portforward|proxy"'

_MEASURED = (
    f'{{{SERVICE},kind="call",{_STREAMS},verb!~"watch|proxy"}} {_SHORT} '
    f"{matching.stage((matching.RESOURCE, matching.USER))}"
)
"""Calls whose duration is compared: all but streams."""

LINES = f"{{{SERVICE}}} | export_seq!=``"
"""Everything that the shipper numbers."""
BEATS = f'{{{SERVICE},kind="heartbeat"}}'


def silent_writers(over: str, within: str) -> str:
    """Return a query of the writers that lived in one range and sent no heartbeat in another, each with a 1.

    Those whose last heartbeat said that they end have a 0.
    """
    goes_on = "label_format goes_on=`{{ if .ending }}0{{ else }}1{{ end }}` | unwrap goes_on | __error__=``"
    return (
        f"last_over_time({BEATS} | {goes_on} [{over}]) by (writer) "
        f"unless sum by (writer) (count_over_time({BEATS} [{within}]))"
    )


_RESOURCE = "{{ .resource }}{{ if .subresource }}/{{ .subresource }}{{ end }}"
_DETAILS = (
    f"{{{{ .verb }}}} {{{{ if .resource }}}}{_RESOURCE}{{{{ if .name }}}} {{{{ .name }}}}{{{{ end }}}}"
    "{{ else }}{{ .requestURI }}{{ end }}"
    "{{ if .exec_argv }} $ {{ .exec_argv }}{{ end }}{{ if .exit_code }} (exit code {{ .exit_code }}){{ end }}"
    '{{ if and .outcome (ne .outcome "complete") }} [{{ .outcome }}]{{ end }}'
    "{{ if .message }}: {{ .message }}{{ else if .reason }}: {{ .reason }}{{ end }}"
)
_ROW = f"| line_format `{_DETAILS}` | label_format resource=`{_RESOURCE}` "
_CALL_LABELS = "user,cluster,namespace,resource,method,access_method,status,duration_ms,command_id,trace_id"


class Source(StrEnum):
    """Where a question is asked."""

    LOKI = "loki"
    TEMPO = "tempo"


@dataclass(frozen=True, slots=True)
class Signal:
    """One question. `name` heads a column or a legend, where `{{label}}` stands for the label's value."""

    name: str
    query: str
    unit: str
    meaning: str
    source: Source = Source.LOKI


def _quantile(quantile: float, name: str, meaning: str, *, of: str, over: str, by: str = "") -> Signal:
    return Signal(
        name, f"quantile_over_time({quantile}, {of} | __error__=`` [{over}]) by ({by})", "ms", f"{name} of {meaning}"
    )


def _quantiles(of: str, over: str, meaning: str, by: str = "") -> tuple[Signal, ...]:
    return tuple(
        _quantile(quantile, name, meaning, of=of, over=over, by=by)
        for quantile, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    )


# API calls

CALL_ROWS = Signal(
    "API calls",
    f"{CALLS} {_ROW}| keep {_CALL_LABELS}",
    "none",
    "One row for each API call that ended in this time and passes the filters, newest first, at most 5,000: the "
    "numbers above count all of them, and the CSV has all of them. Date is when the call ended. A click on Details "
    "leads to its command.",
)
CALL_COUNT = Signal(
    "Calls", f"sum(count_over_time({CALLS} [$__range]))", "locale", "All calls that pass the filters, shown or not."
)
USER_COUNT = Signal(
    "Users",
    f'count(sum by (user) (count_over_time({CALLS} | user!="" [$__range])))',
    "locale",
    "How many users made the calls that pass the filters.",
)
DENIED_COUNT = Signal(
    "Denied",
    f'sum(count_over_time({CALLS} | decision="deny" [$__range]))',
    "locale",
    "Calls that were answered with 401 or 403, by the proxy or by the API server.",
)
ERROR_COUNT = Signal(
    "Errors",
    f'sum(count_over_time({CALLS} | decision="error" or status=~"5.." [$__range]))',
    "locale",
    "Calls that were refused for another reason than permission, got no answer, or were answered with 5xx.",
)
CALLS_P95 = Signal(
    "p95",
    f'quantile_over_time(0.95, {CALLS} | verb!~"watch|proxy" {_SHORT} '
    "| unwrap duration_ms | __error__=`` [$__range]) by ()",
    "ms",
    "19 of 20 calls took at most this long. Streams (watch, logs, exec, attach, port-forward) are left out.",
)
CALLS_BY_VERB = Signal(
    "{{verb}}", f"sum by (verb) (count_over_time({CALLS} [$__auto]))", "locale", "Calls that ended, by verb."
)
CALLS_BY_DECISION = Signal(
    "{{decision}}",
    f"sum by (decision) (count_over_time({CALLS} [$__auto]))",
    "locale",
    "Calls that ended, by decision: allow, deny (401, 403), error (refused otherwise, or no answer).",
)
STARTED = Signal(
    "Running",
    f'{{{SERVICE},kind="call_started",{_STREAMS}}} {matching.stage(_WHICH)} '
    "| label_format started=`{{ __timestamp__.UnixMilli }}` "
    f"| label_format details=`{_DETAILS}` | label_format resource=`{_RESOURCE}` | line_format `` "
    "| keep auditID,started,details,user,cluster,namespace,resource,access_method,command_id,trace_id",
    "none",
    "Streams (watch, logs, exec, attach, port-forward) that were answered in this time and did not end in it: what "
    "was running at its end. Up to 5,000 starts are compared with up to 5,000 ends.",
)
ENDED = Signal(
    "Ended",
    f'{{{SERVICE},kind="call"}} {_LONG} | label_format ended="yes" | line_format `` | keep auditID,ended',
    "none",
    "Streams that ended.",
)

# Commands

_COMMAND = (
    "| line_format `` | keep user,cluster,access_method,command,calls,status,exit_code,duration_ms,command_id,trace_id"
)
COMMAND_ROWS = Signal(
    "Commands",
    f'{{{SERVICE},kind="command",cluster=~"$cluster",access_method=~"$access_method"}} '
    + matching.stage(
        (
            matching.USER,
            matching.STATUS,
            matching.anywhere("text", ".user", ".command", ".clusters"),
        )
    )
    + f" {_COMMAND}",
    "none",
    "One row for each command that ended in this time, newest first. A click on a command shows its calls and its "
    "trace below. Worst status is the highest of its calls.",
)
CHOSEN_COMMAND = Signal(
    "The command",
    f'{{{SERVICE},kind="command"}} {matching.stage((matching.exactly("command_id", ".command_id"),))} {_COMMAND}',
    "none",
    "The command that was chosen, as far as it ended in this time.",
)
CALLS_OF_COMMAND = Signal(
    "Its calls",
    f'{{{SERVICE},kind="call"}} {matching.stage((matching.exactly("command_id", ".command_id"),))} '
    f"{_ROW}| keep {_CALL_LABELS}",
    "none",
    "The API calls that the chosen command became, in the order in which they ended.",
)
TRACE = Signal(
    "Its trace",
    "${trace_id}",
    "none",
    "The chosen command, its calls, and what each of them took upstream, over time.",
    Source.TEMPO,
)

# Latency

_DURATION = f"{_MEASURED} | unwrap duration_ms"
_UPSTREAM = f"{_MEASURED} | unwrap upstream_ms"
_OVERHEAD = (
    f'{_MEASURED} | upstream_ms!="" '
    "| label_format overhead_ms=`{{ subf (float64 .duration_ms) (float64 .upstream_ms) }}` | unwrap overhead_ms"
)
DURATIONS = _quantiles(_DURATION, "$__auto", "the time from a call's head to the last byte of its answer.")
OVERHEADS = _quantiles(_OVERHEAD, "$__auto", "the part of a call's time in which it was not upstream.")
PROXIED = tuple(
    Signal(f"{name} {what}", _quantile(quantile, "", "", of=of, over="$__auto").query, "ms", f"{name}, {what}.")
    for quantile, name in ((0.5, "p50"), (0.95, "p95"))
    for what, of in (("through the proxy", _DURATION), ("upstream alone", _UPSTREAM))
)


def durations_by(label: str) -> tuple[Signal, ...]:
    """Return the quantiles of the whole time for each value of a label, and the number of calls."""
    count = Signal("Calls", f"sum by ({label}) (count_over_time({_MEASURED} [$__range]))", "locale", "Calls.")
    return (*_quantiles(_DURATION, "$__range", f"the duration, by {label}.", label), count)


_BUCKETS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500)
_BUCKET = "".join(f"{{{{ if le (float64 .duration_ms) {edge}.0 }}}}{edge}{{{{ else }}}}" for edge in _BUCKETS)
HEAT = Signal(
    "{{le}}",
    f"sum by (le) (count_over_time({_MEASURED} | duration_ms!=`` "
    f"| label_format le=`{_BUCKET}10000{'{{ end }}' * len(_BUCKETS)}` [$__auto]))",
    "ms",
    "How many calls took how long: the brighter, the more. Filter by verb, resource or cluster above.",
)
SLOWEST = Signal(
    "Slowest calls",
    f"{_MEASURED} {matching.stage((matching.slower_than('slower_than', '.duration_ms'),))} "
    f"{_ROW}| keep {_CALL_LABELS},upstream_ms",
    "none",
    "The 20 slowest of the calls that took longer than the number of milliseconds above. True as long as fewer than "
    "5,000 did: raise it otherwise.",
)

_SERVER = (
    '{kind=server && resource.service.name="kube-audit-proxy" && span.kubeaudit.cluster=~"$cluster" '
    '&& span.kubeaudit.verb=~"$verb" && span.kubeaudit.verb!~"watch|proxy" '
    '&& name!~".*/(exec|attach|log|portforward|proxy)"}'
)
TRACED_DURATIONS = Signal(
    "{{p}}",
    f"{_SERVER} | quantile_over_time(duration, 0.5, 0.95, 0.99)",
    "s",
    "The same from the traces: Tempo counts in buckets of powers of two, so these are estimates; the dots are traces.",
    Source.TEMPO,
)
TRACED_HEAT = Signal(
    "Durations",
    f"{_SERVER} | histogram_over_time(duration)",
    "s",
    "How many calls took how long, from the traces.",
    Source.TEMPO,
)
TRACED_RATE = Signal(
    "{{span.kubeaudit.verb}}",
    f"{_SERVER} | rate() by (span.kubeaudit.verb)",
    "reqps",
    "Calls a second from the traces, by verb. Fewer than in the logs where only a share of traces is kept.",
    Source.TEMPO,
)

# Trail health

CALL_RATE = Signal(
    "{{writer}}",
    f'sum by (writer) (rate({{{SERVICE},kind="call"}} [$__auto]))',
    "cps",
    "Calls that ended, a second, by writer (gateway worker).",
)
LAG = Signal(
    "{{writer}}",
    f"max_over_time({BEATS} | unwrap lag_seconds | __error__=`` [$__auto]) by (writer)",
    "s",
    "How old the oldest line was that the shipper had not delivered yet.",
)
LAG_NOW = Signal(
    "Lag now",
    f"max_over_time({BEATS} | unwrap lag_seconds | __error__=`` [$__auto]) by ()",
    "s",
    "How old the oldest line is that the shipper has not delivered yet, at the end of this time.",
)
MISSING_OVER_TIME = Signal(
    "{{writer}}",
    f"max_over_time({LINES} | unwrap export_seq | __error__=`` [$__auto]) by (writer) "
    f"- min_over_time({LINES} | unwrap export_seq | __error__=`` [$__auto]) by (writer) + 1 "
    f"- sum by (writer) (count_over_time({LINES} [$__auto]))",
    "locale",
    "Lines that are missing within an interval. A hole that falls between two intervals shows only in the table.",
)
HEARTBEATS = Signal(
    "{{writer}}",
    f"sum by (writer) (count_over_time({BEATS} [$__auto]))",
    "locale",
    "Heartbeats that arrived, by writer: four a minute. A gap is a minute without any.",
)
REFUSALS = Signal(
    "{{status}} {{reason}}",
    f'sum by (status, reason) (count_over_time({{{SERVICE},kind="call"}} '
    '| decided_by="proxy" | decision!="allow" [$__auto]))',
    "locale",
    "Calls that the proxy itself refused, by status and reason.",
)
DENIED_BY_USER = (
    Signal(
        "Denied calls",
        f'topk(20, sum by (user) (count_over_time({{{SERVICE},kind="call"}} | decision="deny" [$__range])))',
        "locale",
        "The 20 users with the most calls that were answered with 401 or 403; no name: nobody could be authenticated.",
    ),
)
DEAD_LETTERS = Signal(
    "Dead letters",
    f"max_over_time({BEATS} | unwrap dead_letters | __error__=`` [$__range]) by ()",
    "locale",
    "Lines that could not be delivered because the backend refused them. They are in the journal.",
)
LOST = Signal(
    "Ends lost",
    f'sum(sum_over_time({{{SERVICE},kind="lost"}} | unwrap count | __error__=`` [$__range]))',
    "locale",
    "Ends of calls that the journal could not keep while it could not be written. Their starts are recorded.",
)
MISSING = Signal(
    "Missing",
    f"sum(max_over_time({LINES} | unwrap export_seq | __error__=`` [$__range]) by (writer) "
    f"- min_over_time({LINES} | unwrap export_seq | __error__=`` [$__range]) by (writer) + 1 "
    f"- sum by (writer) (count_over_time({LINES} [$__range])))",
    "locale",
    "Lines that are missing between the first and the last of each writer in this time.",
)
SILENT = Signal(
    "Silent writers",
    f"sum({silent_writers('$__range', '2m')})",
    "locale",
    "Writers that sent a heartbeat in this time, but none in its last two minutes, and did not say that they end.",
)
JOURNAL_SIZE = Signal(
    "{{writer}}",
    f"max_over_time({BEATS} | unwrap journal_bytes | __error__=`` [$__auto]) by (writer)",
    "bytes",
    "Bytes of each writer's journal on disk.",
)
WRITERS = (
    Signal(
        "Last line",
        f"max_over_time({LINES} | unwrap export_seq | __error__=`` [$__range]) by (writer)",
        "none",
        "Number of the last line.",
    ),
    Signal(
        "First line",
        f"min_over_time({LINES} | unwrap export_seq | __error__=`` [$__range]) by (writer)",
        "none",
        "Number of the first line.",
    ),
    Signal("Lines", f"sum by (writer) (count_over_time({LINES} [$__range]))", "locale", "Lines that arrived."),
    Signal(
        "Missing",
        f"max_over_time({LINES} | unwrap export_seq | __error__=`` [$__range]) by (writer) "
        f"- min_over_time({LINES} | unwrap export_seq | __error__=`` [$__range]) by (writer) + 1 "
        f"- sum by (writer) (count_over_time({LINES} [$__range]))",
        "locale",
        "Lines that are missing between the first and the last.",
    ),
    Signal(
        "Last heartbeat",
        f"max_over_time({BEATS} | label_format at=`{{{{ __timestamp__.UnixMilli }}}}` "
        "| unwrap at | __error__=`` [$__range]) by (writer)",
        "dateTimeFromNow",
        "When the writer last said that it lives.",
    ),
    Signal(
        "Refused",
        f"max_over_time({BEATS} | unwrap refused | __error__=`` [$__range]) by (writer)",
        "locale",
        "Calls that the writer refused since it began.",
    ),
    Signal(
        "In flight",
        f"last_over_time({BEATS} | unwrap calls | __error__=`` [$__range]) by (writer)",
        "locale",
        "Calls that were running at the last heartbeat.",
    ),
)
