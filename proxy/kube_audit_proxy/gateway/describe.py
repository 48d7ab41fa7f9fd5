"""What is recorded of a call, as serialized members: pure, and remembered where calls tend to say the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

from kube_audit_proxy.audit.call import members
from kube_audit_proxy.audit.fields import AccessMethod
from kube_audit_proxy.audit.redaction import Redaction, with_arguments
from kube_audit_proxy.identity.user import User
from kube_audit_proxy.kube.headers import access_method, kubectl_command, truncate_user_agent
from kube_audit_proxy.kube.query import exec_options, redact_query
from kube_audit_proxy.kube.requestinfo import RequestInfo, refusal, request_info
from kube_audit_proxy.kube.targets import BadTarget
from kube_audit_proxy.kube.verbs import VerbClass, is_long_running, verb_class

_RUNS_IN_CONTAINER = frozenset({"exec", "attach"})
_LONGEST_REMEMBERED: Final = 512
"""Characters of the longest target whose description is remembered."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What a request asks for."""

    info: RequestInfo | None
    """None if the API server could make nothing of it either."""
    refused: str
    """Why it is refused, if it is."""
    members: bytes
    verb_class: VerbClass | None = None
    """What it can do at most; None where that cannot be told."""
    long_running: bool = False
    foreign: bool = False
    """Whether the answer is some pod's, service's or node's own, and may say anything of itself."""


NOTHING_ASKED: Final = Asked(None, "", b"")
"""Of a call that broke off before anything could be known."""


def describer(redaction: Redaction) -> Callable[[str, str], Asked]:
    """Return `describe_request` for this redaction; it remembers what it said of short targets."""
    remembered = lru_cache(maxsize=4096)(partial(describe_request, redaction=redaction))

    def describe(method: str, target: str) -> Asked:
        if len(target) <= _LONGEST_REMEMBERED:
            return remembered(method, target)
        return describe_request(method, target, redaction)

    return describe


def describe_request(method: str, target: str, redaction: Redaction) -> Asked:
    """Work out what a request asks for; `target` is the one within the cluster."""
    if not method:
        return NOTHING_ASKED
    known: dict[str, Any] = {"method": method}
    info: RequestInfo | None = None
    refused = ""
    try:
        info = request_info(method, target)
    except BadTarget as error:
        refused = str(error)
    else:
        refused = refusal(target) or ""
        known |= _info_members(info)
    if info is not None and info.subresource in _RUNS_IN_CONTAINER:
        options = exec_options(target.partition("?")[2])
        shown = redaction.argv(options.argv)
        if shown != options.argv:
            target = with_arguments(target, shown)
        known |= {"exec_tty": options.tty, "exec_stdin": options.stdin}
        known |= {"exec_argv": shown} if shown and info.subresource == "exec" else {}
        known |= {"exec_container": options.container} if options.container else {}
    known["requestURI"] = redact_query(target)
    if info is None:
        return Asked(info, refused, members(known))
    foreign = info.subresource == "proxy"
    return Asked(info, refused, members(known), verb_class(info), is_long_running(info), foreign)


def _info_members(info: RequestInfo) -> dict[str, str]:
    known = {"verb": info.verb}
    if info.is_resource:
        known |= {
            "group": info.group,
            "version": info.version,
            "resource": info.resource,
            "subresource": info.subresource,
            "namespace": info.namespace,
            "name": info.name,
            "fieldSelector": info.field_selector,
            "labelSelector": info.label_selector,
        }
    return {key: value for key, value in known.items() if value}


def describe_connection(cluster: str, address: str) -> bytes:
    """Say which cluster was named, and from where."""
    return _describe_connection(cluster[:253], address)  # strangers choose it: what is remembered has to be short


@lru_cache(maxsize=1024)
def _describe_connection(cluster: str, address: str) -> bytes:
    # What is asked of a cluster stands together, and so does what a client says of itself (telemetry/entries.py).
    known: dict[str, Any] = {"sourceIPs": [address]} if address else {}
    return members(known | {"cluster": cluster} if cluster else known)


def describe_client(user_agent: str, command: str, upgrade: str) -> bytes:
    """Say what the client says of itself; `command` is its Kubectl-Command."""
    method = access_method(user_agent, command)
    return _describe_client(truncate_user_agent(user_agent), method, kubectl_command(command), upgrade)


@lru_cache(maxsize=1024)
def _describe_client(user_agent: str, method: AccessMethod, command: str, upgrade: str) -> bytes:
    known = {
        "userAgent": user_agent,
        "access_method": method,
        "upgrade": upgrade,
        "command": command,
    }
    if known["command"]:
        known["command_source"] = "header"
    return members({key: value for key, value in known.items() if value})


@lru_cache(maxsize=1024)
def describe_user(name: str, groups: Sequence[str], authenticator: str) -> bytes:
    """Say who the call is made by."""
    known: dict[str, Any] = {"user": name, "authenticator": authenticator}
    return members(known | {"groups": groups} if groups else known)


@lru_cache(maxsize=1024)
def describe_identity(user: User, own_user: str) -> bytes:
    """Say in whose name the call goes upstream; `own_user` is that of the proxy's own credential, where known."""
    upstream_user = user.name if user.impersonated else own_user
    known: dict[str, Any] = {"impersonated": user.impersonated}
    return members(known | {"upstream_user": upstream_user} if upstream_user else known)
