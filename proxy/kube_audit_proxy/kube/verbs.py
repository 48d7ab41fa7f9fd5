"""What kind of call a verb is: whether it may last, and whether it reads, writes or reaches into a container."""

from enum import StrEnum

from kube_audit_proxy.kube.requestinfo import RequestInfo

_LONG_RUNNING_VERBS = frozenset({"watch", "proxy"})
_LONG_RUNNING_SUBRESOURCES = frozenset({"attach", "exec", "proxy", "log", "portforward"})
_READING_VERBS = frozenset({"get", "list", "watch"})
_READING_METHODS = frozenset({"get", "head"})
_INTO_CONTAINERS = frozenset({"exec", "attach", "portforward", "proxy", "ephemeralcontainers"})


class VerbClass(StrEnum):
    """What a call can do at most."""

    READ = "read"
    WRITE = "write"
    EXEC = "exec"


def is_long_running(info: RequestInfo) -> bool:
    """Tell whether the API server lets a call last (apiserver, pkg/server/filters/longrunning.go and server/config.go).

    A log counts whether it is followed or not.
    """
    if info.verb in _LONG_RUNNING_VERBS:
        return True
    if info.is_resource:
        return info.subresource in _LONG_RUNNING_SUBRESOURCES
    return info.path.startswith("/debug/pprof/")


def verb_class(info: RequestInfo) -> VerbClass:
    """Tell what a call can do at most.

    Subresources that lead into a container are `exec` whatever the verb, because a websocket exec is a GET. So are
    all proxies: those of nodes reach the kubelet's own exec. A verb that is not known to only read is a `write`.
    """
    if not info.is_resource:
        return VerbClass.READ if info.verb in _READING_METHODS else VerbClass.WRITE
    if info.subresource in _INTO_CONTAINERS or info.verb == "proxy":
        return VerbClass.EXEC
    return VerbClass.READ if info.verb in _READING_VERBS else VerbClass.WRITE
