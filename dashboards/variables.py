"""The filters above the dashboards. Their names are the command line's, so that the CSV takes them as they are."""

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import DataSourceRef

LOKI = DataSourceRef(type_val="loki", uid="kubeaudit-loki")
TEMPO = DataSourceRef(type_val="tempo", uid="kubeaudit-tempo")

EXPORT_URL = "/api/datasources/proxy/uid/kubeaudit-export/export.csv"
"""Where the complete CSV is, as a browser sees it: Grafana passes the request on, with the token that it keeps."""

NO_TRACE = '{trace:id="none"}'
"""The panel of a trace says calmly that there is none, where an empty id would be an error to it."""

_ALL = model.VariableOption(text=["All"], value=["$__all"], selected=True)


def text(name: str, label: str, description: str) -> Builder[model.VariableModel]:
    """Return a box for text, which is compared as it is."""
    return _box(name, "").label(label).description(description)


def hidden(name: str, value: str) -> Builder[model.VariableModel]:
    """Return a value that only links set."""
    return _box(name, value).hide(model.VariableHide.HIDE_VARIABLE)


def _box(name: str, value: str) -> build.TextBoxVariable:
    option = model.VariableOption(text=value, value=value, selected=True)
    return build.TextBoxVariable(name).default_value(value).current(option).options([option])


def choice(name: str, label: str, options: dict[str, str]) -> Builder[model.VariableModel]:
    """Return a list of the only values there are, by the words that a person reads."""
    values = ",".join(f"{words} : {value}" if words != value else value for words, value in options.items())
    return (
        build.CustomVariable(name)
        .label(label)
        .values(values)
        .multi(multi=True)
        .include_all(include_all=True)
        .allow_custom_value(allow_custom_value=False)
        .current(_ALL)
    )


def index_label(name: str, label: str) -> Builder[model.VariableModel]:
    """Return a list of the values of one of Loki's index labels."""
    return (
        build.QueryVariable(name)
        .label(label)
        .datasource(LOKI)
        .query({
            "refId": "LokiVariableQueryEditor-VariableQuery",
            "type": 1,
            "label": name,
            "stream": '{service_name="kube-audit-proxy"}',
        })
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .allow_custom_value(allow_custom_value=False)
        .current(_ALL)
    )  # fmt: skip


USER = (
    build.QueryVariable("user")
    .label("User")
    .description("Users come from the traces; a name that is not in the list can be typed.")
    .datasource(TEMPO)
    .query({"refId": "TempoDatasourceVariableQueryEditor-VariableQuery", "type": 1, "label": "user.name"})
    .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    .sort(model.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
    .multi(multi=True)
    .include_all(include_all=True)
    .current(_ALL)
)
CLUSTER = index_label("cluster", "Cluster")
VERB = index_label("verb", "Verb")
ACCESS_METHOD = index_label("access_method", "Access method")
NAMESPACE = text("namespace", "Namespace", "One, or several separated by commas.")
RESOURCE = text("resource", "Resource", "pods, pods/exec, pods/* (with any subresource), deployments.apps; or several.")
COMMAND_ID = text("command_id", "Command ID", "All calls of one kubectl command have the same.")
TEXT = text("text", "Text", "Text in user, name, URI, command, message, user agent or exec command line.")
METHOD = choice("method", "Method", {name: name for name in ("GET", "POST", "PUT", "PATCH", "DELETE")})
DECISION = choice("decision", "Decision", {name: name for name in ("allow", "deny", "error")})
STATUS = choice(
    "status",
    "Status",
    {
        "2xx OK": "2xx",
        "1xx stream": "1xx",
        "3xx": "3xx",
        "4xx client error": "4xx",
        "401 not authenticated": "401",
        "403 denied": "403",
        "404 not found": "404",
        "409 conflict": "409",
        "5xx server error": "5xx",
    },
)


def export_url(url: str) -> Builder[model.VariableModel]:
    """Return where the complete CSV is."""
    return build.ConstantVariable("export_url").value(url)
