"""Tables whose rows are lines of the log: which labels become which columns, and what Grafana has to do for that."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.models.dashboard import DataTransformerConfig

STATUS_COLORS = ((None, "green"), (300, "blue"), (400, "orange"), (500, "red"))
ACCESS_METHODS = {"kubectl": ("kubectl", "blue"), "browser": ("Browser", "purple"), "api": ("API client", "orange")}

_STATUS = {
    "custom.align": "center",
    "custom.cellOptions": {"type": "color-background", "mode": "basic"},
    "color": {"mode": "thresholds"},
    "thresholds": {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in STATUS_COLORS]},
}
_DATE = {"unit": "time:YYYY-MM-DD HH:mm:ss", "custom.width": 145}


@dataclass(frozen=True, slots=True)
class Column:
    """A field of the lines and its column. What links need and nobody reads is there, but hidden."""

    field: str
    title: str
    properties: Mapping[str, object] = dataclasses.field(default_factory=dict)
    is_number: bool = False
    is_hidden: bool = False

    def overrides(self) -> dict[str, object]:
        """Return the properties of the column."""
        return {**self.properties, **({"custom.hideFrom.viz": True} if self.is_hidden else {})}


def link(title: str, url: str) -> dict[str, object]:
    """Return a link within Grafana."""
    return {"title": title, "url": url, "targetBlank": False}


def value_of(title: str) -> str:
    """Return what stands in a link for a column's value in the same row, safe in an address."""
    return f'${{__data.fields["{title}"]:percentencode}}'


def _access_method_mappings() -> list[dict[str, object]]:
    # A pill's colour is looked up by the text that is shown, so that is mapped as well.
    shown = [(value, {"text": text, "color": color}) for value, (text, color) in ACCESS_METHODS.items()]
    again = [(text, {"color": color}) for value, (text, color) in ACCESS_METHODS.items() if text != value]
    options = {value: {**result, "index": at} for at, (value, result) in enumerate([*shown, *again])}
    return [{"type": "value", "options": options}]


_OF_COMMAND = f"var-command_id={value_of('command_id')}"
_CHOSEN = f"{_OF_COMMAND}&var-trace_id={value_of('trace_id')}"
_COMMAND = f"/d/kubeaudit-commands?${{__url_time_range}}&{_CHOSEN}"
_CALLS = f"/d/kubeaudit-calls?${{__url_time_range}}&{_OF_COMMAND}"

DATE = Column("Time", "Date", {**_DATE, "custom.footer.reducers": ["countAll"]})
USER = Column(
    "user",
    "User",
    {
        "custom.width": 140,
        "custom.filterable": True,
        "links": [
            link("Only this user", "/d/kubeaudit-calls?${__url_time_range}&var-user=${__value.raw:percentencode}")
        ],
    },
)
CLUSTER = Column("cluster", "Cluster", {"custom.width": 85, "custom.filterable": True})
NAMESPACE = Column("namespace", "Namespace", {"custom.width": 110, "custom.filterable": True})
RESOURCE = Column("resource", "Resource", {"custom.width": 105, "custom.filterable": True})
METHOD = Column("method", "Method", {"custom.width": 70})
ACCESS_METHOD = Column(
    "access_method",
    "Access Method",
    {"custom.width": 105, "custom.cellOptions": {"type": "pill"}, "mappings": _access_method_mappings()},
)
STATUS = Column("status", "Status", {"custom.width": 60, **_STATUS}, is_number=True)
DURATION = Column(
    "duration_ms",
    "Duration",
    {"custom.width": 80, "unit": "ms", "decimals": 1, "custom.footer.reducers": ["mean", "max"]},
    is_number=True,
)
DETAILS = Column(
    "Line",
    "Details",
    {
        "custom.minWidth": 180,
        "links": [link("The command and its trace", _COMMAND), link("All calls of the command", _CALLS)],
    },
)
TRACE = Column(
    "Trace",
    "Trace",
    {
        "custom.width": 55,
        "mappings": [{"type": "regex", "options": {"pattern": ".+", "result": {"text": "open", "index": 0}}}],
    },
)
COMMAND_ID = Column("command_id", "command_id", is_hidden=True)
TRACE_ID = Column("trace_id", "trace_id", is_hidden=True)

CALLS = (
    DATE,
    USER,
    CLUSTER,
    NAMESPACE,
    RESOURCE,
    METHOD,
    ACCESS_METHOD,
    STATUS,
    DURATION,
    DETAILS,
    TRACE,
    COMMAND_ID,
    TRACE_ID,
)

_BAR = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
COMMANDS = (
    DATE,
    Column("user", "User", {"custom.width": 170, "custom.filterable": True}),
    Column(
        "command",
        "Command",
        {
            "custom.minWidth": 220,
            "links": [
                link(
                    "Show its calls and its trace",
                    "/d/kubeaudit-commands?${__url_time_range}&${user:queryparam}&${cluster:queryparam}"
                    "&${access_method:queryparam}&${status:queryparam}&${text:queryparam}"
                    f"&{_CHOSEN}",
                ),
                link("Its calls in the table of API calls", _CALLS),
            ],
        },
    ),
    CLUSTER,
    ACCESS_METHOD,
    Column("calls", "Calls", {"custom.width": 65}, is_number=True),
    Column(
        "duration_ms",
        "Duration",
        {
            "custom.width": 160,
            "unit": "ms",
            "decimals": 1,
            "custom.cellOptions": _BAR,
            "color": {"mode": "continuous-GrYlRd"},
        },
        is_number=True,
    ),
    Column("status", "Worst status", {"custom.width": 105, **_STATUS}, is_number=True),
    Column(
        "exit_code",
        "Exit code",
        {
            "custom.width": 85,
            "custom.align": "center",
            "custom.cellOptions": {"type": "color-text"},
            "color": {"mode": "thresholds"},
            "thresholds": {
                "mode": "absolute",
                "steps": [{"color": "green", "value": None}, {"color": "red", "value": 1}],
            },
        },
        is_number=True,
    ),
    COMMAND_ID,
    TRACE_ID,
)

RUNNING = (
    Column("started", "Since", _DATE, is_number=True),
    USER,
    CLUSTER,
    NAMESPACE,
    RESOURCE,
    ACCESS_METHOD,
    Column("details", "Details", DETAILS.properties),
    COMMAND_ID,
    TRACE_ID,
)


def overrides(columns: Sequence[Column]) -> dict[str, dict[str, object]]:
    """Return the properties of columns by their titles."""
    return {column.title: column.overrides() for column in columns}


def newest_first(columns: Sequence[Column]) -> list[DataTransformerConfig]:
    """Return what makes a table of lines. Loki gives them stream by stream, so they have to be sorted."""
    return [*_columns(columns), _sorted("Date")]


def oldest_first(columns: Sequence[Column]) -> list[DataTransformerConfig]:
    """Return what makes a table of lines in the order of time."""
    return [*_columns(columns), _sorted("Date", newest=False)]


def slowest_first(columns: Sequence[Column], most: int) -> list[DataTransformerConfig]:
    """Return what makes a table of the lines with the longest durations."""
    return [*_columns(columns), _sorted("Duration"), _transformation("limit", limitField=str(most))]


def last_of_each(columns: Sequence[Column], key: str) -> list[DataTransformerConfig]:
    """Return what makes a table with one row for each value of `key`: the newest line of it, but its highest numbers.

    A command that went on after it seemed over has several lines, and totals that begin anew if that was long after.
    """
    taken = {column.field: "max" if column.is_number else "first" for column in columns if column.field != key}
    kept = {field: {"operation": "aggregate", "aggregations": [how]} for field, how in taken.items()}
    names = {column.field: f"{column.field} ({taken[column.field]})" for column in columns if column.field != key}
    return [
        _labels(),
        _numbers([column.field for column in columns if column.is_number]),
        _transformation("sortBy", fields={}, sort=[{"field": "Time", "desc": True}]),
        _transformation("groupBy", fields={**kept, key: {"operation": "groupby", "aggregations": []}}),
        _organized({names.get(column.field, column.field): column.title for column in columns}),
        _sorted("Date"),
    ]


def without_those_ended(columns: Sequence[Column]) -> list[DataTransformerConfig]:
    """Return what makes a table of the lines of A whose `auditID` no line of B has."""
    fields = [column.field for column in columns]
    wanted = dict.fromkeys([*fields, "auditID", "ended"], True)
    return [
        _labels(),
        _transformation("organize", indexByName={}, includeByName=wanted, excludeByName={}, renameByName={}),
        _transformation("joinByField", byField="auditID", mode="outer"),
        _transformation(
            "filterByValue",
            type="exclude",
            match="all",
            filters=[{"fieldName": "ended", "config": {"id": "equal", "options": {"value": "yes"}}}],
        ),
        _organized({column.field: column.title for column in columns}),
        _numbers([column.title for column in columns if column.is_number]),
        _sorted("Since"),
    ]


def _columns(columns: Sequence[Column]) -> list[DataTransformerConfig]:
    return [
        _labels(),
        _organized({column.field: column.title for column in columns}),
        _numbers([column.title for column in columns if column.is_number]),
    ]


def _labels() -> DataTransformerConfig:
    return _transformation("extractFields", source="labels", replace=False, keepTime=False)


def _organized(titles: Mapping[str, str]) -> DataTransformerConfig:
    return _transformation(
        "organize",
        indexByName={name: at for at, name in enumerate(titles)},
        includeByName=dict.fromkeys(titles, True),
        excludeByName={},
        renameByName=dict(titles),
    )


def _numbers(fields: Sequence[str]) -> DataTransformerConfig:
    return _transformation(
        "convertFieldType",
        fields={},
        conversions=[{"targetField": field, "destinationType": "number"} for field in fields],
    )


def _sorted(title: str, *, newest: bool = True) -> DataTransformerConfig:
    return _transformation("sortBy", fields={}, sort=[{"field": title, "desc": newest}])


def _transformation(name: str, **options: object) -> DataTransformerConfig:
    return DataTransformerConfig(id_val=name, options=options)
