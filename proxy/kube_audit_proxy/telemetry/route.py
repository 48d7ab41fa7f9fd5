"""What kind of call a call is, in few words and few values: a span's name and its `http.route`. Pure."""

from collections.abc import Mapping
from typing import Any

_WITHOUT_RESOURCE = {
    ("api", 1): "/api",
    ("api", 2): "/api/{version}",
    ("apis", 1): "/apis",
    ("apis", 2): "/apis/{group}",
    ("apis", 3): "/apis/{group}/{version}",
    ("openapi", 2): "/openapi/{version}",
    ("openapi", 4): "/openapi/{version}/api/{version}",
    ("openapi", 5): "/openapi/{version}/apis/{group}/{version}",
    ("version", 1): "/version",
    ("livez", 1): "/livez",
    ("readyz", 1): "/readyz",
    ("healthz", 1): "/healthz",
    ("metrics", 1): "/metrics",
}
"""Paths by their first segment and their number of segments."""


def route(record: Mapping[str, Any]) -> str:
    """Return the path with placeholders for what is chosen freely; "" for one that nothing is known about."""
    resource = record.get("resource")
    if resource is None:
        segments = str(record.get("requestURI", "")).partition("?")[0].strip("/").split("/")
        return _WITHOUT_RESOURCE.get((segments[0], len(segments)), "")
    parts = ["/apis/{group}" if "group" in record else "/api", "{version}"]
    if "namespace" in record:
        parts += ["namespaces", "{namespace}"] if resource != "namespaces" else []
    parts.append(resource)
    if "name" in record or "subresource" in record:
        parts.append("{name}")
    if "subresource" in record:
        parts.append(record["subresource"])
    return "/".join(parts)


def span_name(record: Mapping[str, Any]) -> str:
    """Return `list pods`, `create pods/exec`; `GET /version`; the method alone for other paths."""
    resource, subresource = record.get("resource"), record.get("subresource")
    if resource is None:
        return f"{record.get('method', 'HTTP')} {route(record)}".rstrip()
    return f"{record.get('verb')} {resource}/{subresource}" if subresource else f"{record.get('verb')} {resource}"
