"""What a call asks for, in the vocabulary of its record: pure, from the request alone."""

from dataclasses import dataclass
from typing import Any

from kube_audit_proxy.audit.redaction import Redaction, with_arguments
from kube_audit_proxy.gateway.headers import Scrubbed
from kube_audit_proxy.identity.user import User
from kube_audit_proxy.kube.headers import access_method, kubectl_command, kubectl_session, truncate_user_agent
from kube_audit_proxy.kube.query import exec_options, redact_query
from kube_audit_proxy.kube.requestinfo import RequestInfo

_RUNS_IN_CONTAINER = frozenset({"exec", "attach"})


@dataclass(frozen=True, slots=True)
class ClientClaims:
    """What the client says of itself."""

    command: str
    session: str


def describe_resource(fields: dict[str, Any], info: RequestInfo) -> None:
    """Add the fields that the path and query give."""
    fields["verb"] = info.verb
    if not info.is_resource:
        return
    known = (
        ("group", info.group),
        ("version", info.version),
        ("resource", info.resource),
        ("subresource", info.subresource),
        ("namespace", info.namespace),
        ("name", info.name),
        ("fieldSelector", info.field_selector),
        ("labelSelector", info.label_selector),
    )
    fields |= {key: value for key, value in known if value}


def describe_target(fields: dict[str, Any], info: RequestInfo | None, target: str, redaction: Redaction) -> None:
    """Add requestURI, and for exec and attach what is run and how, all of it redacted."""
    if info is not None and info.subresource in _RUNS_IN_CONTAINER:
        options = exec_options(target.partition("?")[2])
        shown = redaction.argv(options.argv)
        if shown != options.argv:
            target = with_arguments(target, shown)
        if shown:
            fields["exec_argv"] = shown
        if options.container:
            fields["exec_container"] = options.container
        fields["exec_tty"] = options.tty
        fields["exec_stdin"] = options.stdin
    fields["requestURI"] = redact_query(target)


def describe_client(fields: dict[str, Any], scrubbed: Scrubbed) -> ClientClaims:
    """Add what the client says of itself, and give what tells its commands apart."""
    if scrubbed.user_agent:
        fields["userAgent"] = truncate_user_agent(scrubbed.user_agent)
    fields["access_method"] = access_method(scrubbed.user_agent, scrubbed.kubectl_command)
    if scrubbed.upgrade:
        fields["upgrade"] = scrubbed.upgrade
    command = kubectl_command(scrubbed.kubectl_command) if scrubbed.kubectl_command else ""
    session = kubectl_session(scrubbed.kubectl_session) or "" if scrubbed.kubectl_session else ""
    return ClientClaims(command, session)


def describe_user(fields: dict[str, Any], user: User) -> None:
    """Add who the call is made by."""
    fields["user"] = user.name
    if user.groups:
        fields["groups"] = user.groups
    fields["authenticator"] = user.authenticator


def describe_identity(fields: dict[str, Any], user: User, own_user: str) -> None:
    """Add in whose name it goes upstream; `own_user` is the name of the proxy's own credential, if that is known."""
    fields["impersonated"] = user.impersonated
    upstream_user = user.name if user.impersonated else own_user
    if upstream_user:
        fields["upstream_user"] = upstream_user
