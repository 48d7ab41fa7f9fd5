"""What a request means to Kubernetes: verb, resource and object, as the API server works them out.

The rules are those of kubernetes/apiserver, pkg/endpoints/request/requestinfo.go. They are followed to the letter,
oddities included: what the gateway decides and records has to be about the call that the API server will serve.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from kube_audit_proxy.kube.selectors import is_int64, is_label_selector, required_field
from kube_audit_proxy.kube.targets import BadTarget, decode_path, first_values, query_bool

_VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_PATH_VERBS = frozenset({"proxy", "watch"})
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})
_LONGEST_CACHED = 1024
"""Characters of the longest target whose meaning is remembered."""


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """A request in Kubernetes' terms. What does not apply is the empty string.

    `path` is percent-decoded. Without `is_resource` only `path` and `verb`, the lower-cased method, are set.
    """

    is_resource: bool
    verb: str
    path: str
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    field_selector: str = ""
    label_selector: str = ""


def request_info(method: str, target: str) -> RequestInfo:
    """Work out what a request means; `target` is its origin-form target, raw, with the query if it has one.

    Raises BadTarget for a target that the API server answers with an error whatever it serves: a wrong percent
    escape in the path, or `watch` or `proxy` in front of no resource.
    """
    if len(target) <= _LONGEST_CACHED:
        return _remembered(method, target)
    return _work_out(method, target)


def _work_out(method: str, target: str) -> RequestInfo:
    raw_path, _, query = target.partition("?")
    path = decode_path(raw_path)
    parts = path.strip("/").split("/")
    start = {"api": 1, "apis": 2}.get(parts[0], len(parts))
    if len(parts) < start + 2:
        return RequestInfo(is_resource=False, verb=method.lower(), path=path)

    group = parts[1] if start == 2 else ""
    version = parts[start]
    parts = parts[start + 1 :]

    by_path = parts[0] in _PATH_VERBS
    if by_path:
        verb = parts.pop(0)
        if not parts:
            raise BadTarget(f"the path names no resource to {verb}")
    else:
        verb = _VERBS.get(method, "")

    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in _NAMESPACE_SUBRESOURCES:
            parts = parts[2:]

    name = parts[1] if len(parts) > 1 else ""
    subresource = parts[2] if len(parts) > 2 and verb != "proxy" else ""
    field_selector = label_selector = ""
    if not name and verb in {"get", "delete"}:
        verb = "list" if verb == "get" else "deletecollection"
        if _may_have_options(query):
            options = first_values(query)
            field_selector = options.get("fieldSelector", "")
            label_selector = options.get("labelSelector", "")
            if verb == "list":
                name = _selected_name(options)
                if "watch" in options and query_bool(options["watch"]):
                    verb = "watch"

    return RequestInfo(
        is_resource=True,
        verb=verb,
        path=path,
        group=group,
        version=version,
        namespace=namespace,
        resource=parts[0],
        subresource=subresource,
        name=name,
        field_selector=field_selector,
        label_selector=label_selector,
    )


_remembered = lru_cache(maxsize=4096)(_work_out)


def _may_have_options(query: str) -> bool:
    """Tell quickly that a query has no parameter that matters here, as most lists' `limit=500`."""
    return "watch" in query or "Selector" in query or "%" in query


def _selected_name(options: dict[str, str]) -> str:
    """Return the name that a list's field selector asks for, if the whole of its options can be decoded."""
    selector = options.get("fieldSelector", "")
    if "metadata.name" not in selector:
        return ""
    try:
        name = required_field(selector, "metadata.name")
    except ValueError:
        return ""
    if name is None or not _is_path_segment(name):
        return ""
    decoded = is_label_selector(options.get("labelSelector", "")) and all(
        is_int64(options[key]) for key in ("limit", "timeoutSeconds") if key in options
    )
    return name if decoded else ""


def _is_path_segment(name: str) -> bool:
    """Tell whether a name can stand in a path (apimachinery, pkg/api/validate/content/path.go)."""
    return name not in {".", ".."} and "/" not in name and "%" not in name


# What a careful gateway refuses before it asks what a request means: every form in which two readers of one
# target could come to different resources.

_MOST_PAIRS = 10_000
"""Pairs of a query that Go takes by default (net/url, `urlmaxqueryparams`): of a query with more it reads none."""

# Nearly all targets pass here. No group is possessive, for the reason given in `selectors`.
_PLAIN = re.compile(r"(?![^?]*/[./])/[!\"$&->@-\[\]-~]*+(?:\?[!\"$-~]*+)?")
_PROXIED = re.compile(r"/api/v1/(?:nodes|namespaces/[^/?]+/(?:pods|services))/[^/?]+/proxy(?=/)")

_REFUSED_ANYWHERE = (
    (re.compile(r"(?!/)"), "The request target is not a path that begins with a slash."),
    (re.compile(r"[^\0-\x20\x7f]*+[\0-\x20\x7f]"), "The request target contains a control character or a blank."),
    (re.compile(r"[^?]*?%(?![0-9A-Fa-f]{2})"), "The path contains a wrong percent escape."),
    (re.compile(r"[^?]*?%(?:[01].|7[Ff])"), "The path contains an encoded control character."),
)
_REFUSED = (
    (re.compile(r"[\0-\x7f]*+."), "The request target contains a character that is not ASCII; percent-encode it."),
    (re.compile(r"[^#]*+#"), "The request target contains a fragment; write %23 for a # that belongs to a name."),
    (re.compile(r"[^?]*?//"), "The path contains an empty segment (//)."),
    (re.compile(r"[^?]*?\\"), "The path contains a backslash."),
    (re.compile(r"[^?]*?%(?:2[Ff]|5[Cc])"), "The path contains an encoded slash or backslash."),
    (re.compile(r"[^?]*?/(?:\.|%2[Ee]){1,2}(?:[/?]|\Z)"), "The path contains a segment . or .. (encoded or not)."),
    (re.compile(rf"[^?]*+\?(?:[^&]*+&){{{_MOST_PAIRS}}}"), f"The query has more than {_MOST_PAIRS:,} parameters."),
)


def refusal(target: str) -> str | None:
    """Say in a sentence why a careful gateway refuses a request target, or None.

    What follows the `/proxy` of a pod, service or node is for that server to read: only control characters and wrong
    escapes are refused there. Where nothing is refused `request_info` may still raise BadTarget.
    """
    if len(target) <= _MOST_PAIRS and _PLAIN.fullmatch(target):
        return None
    proxied = _PROXIED.match(target)
    ours = proxied.group() if proxied else target
    for refused, text in ((_REFUSED_ANYWHERE, target), (_REFUSED, ours)):
        for pattern, sentence in refused:
            if pattern.match(text):
                return sentence
    return None
