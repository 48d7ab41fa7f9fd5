"""Targets, queries, selectors, command lines and answers of any kind: read without a fault, or a secret left."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_audit_proxy.audit.redaction import DEFAULT_PATTERNS, Redaction
from kube_audit_proxy.gateway.describe import describe_client, describe_connection, describe_request
from kube_audit_proxy.gateway.route import split_target
from kube_audit_proxy.kube.headers import kubectl_command, kubectl_session, truncate_user_agent
from kube_audit_proxy.kube.protobuf import delimited_fields
from kube_audit_proxy.kube.query import exec_options, portforward_ports, redact_query
from kube_audit_proxy.kube.requestinfo import RequestInfo, refusal, request_info
from kube_audit_proxy.kube.selectors import is_label_selector, required_field
from kube_audit_proxy.kube.status import Status, forbidden, json_fields, parse_status
from kube_audit_proxy.kube.targets import BadTarget, query_pairs
from kube_audit_proxy.kube.verbs import is_long_running, verb_class

_REDACTION = Redaction.compile(DEFAULT_PATTERNS)
_TOKEN = "kap_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
_EVERY_BYTE = st.characters(min_codepoint=0, max_codepoint=0xFF)
"""What a target is made of: each byte of it is one character."""

_SEGMENTS = st.sampled_from((
    "api", "apis", "v1", "apps", "namespaces", "default", "pods", "p", "watch", "proxy", "status", "exec", "log", "..",
    ".", "", "%2e%2e", "%2F", "%2f..", "%252f", "..;", ";a", "a;b", "%5C", "\\", "%00", "%", "%zz", "%C3%A9", "e%CC%81",
    "%C0%AF", "%c0%ae%c0%ae", "%FF", "\xe9", "*", "@", ":80", "https:p:1", "#", "~", "%7E", "API", "clusters", " ",
    "\t",
)) | st.text(_EVERY_BYTE, max_size=4)  # fmt: skip
_QUERIES = st.sampled_from((
    "", "?", "?watch=1", "?watch=0&watch=1", "?watch", "?fieldSelector=metadata.name%3Da", "?labelSelector=a%3Db",
    "?limit=1",
    "?fieldSelector=metadata.name=a,b", "?%77atch=%31", "?watch=1;a", "?a=%zz&watch=1", "?command=a&command=b",
    "?/../..",
    "??", "?a#b", "?limit=x&fieldSelector=metadata.name%3Da",
)) | st.text(_EVERY_BYTE, max_size=8).map("?{}".format)  # fmt: skip
_TARGETS = st.builds(
    lambda segments, query: "/" + "/".join(segments) + query, st.lists(_SEGMENTS, max_size=9), _QUERIES
) | st.text(_EVERY_BYTE, max_size=30)
_METHODS = st.sampled_from(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "get", ""))


@settings(max_examples=250)
@given(_METHODS, _TARGETS)
def test_every_target_has_a_record(method: str, target: str) -> None:
    """Whatever is asked for, it is described in JSON; what the API server could not read is refused, never raised."""
    cluster, within = split_target(target)
    asked = describe_request(method, within, _REDACTION)
    known = json.loads(b"{%b}" % b",".join(filter(None, (describe_connection(cluster, "192.0.2.7"), asked.members))))
    assert known.get("method", "") == method
    if asked.info is None:
        assert asked.refused or not method
        return
    assert json.loads(forbidden("jane", asked.info).body())["code"] == 403
    assert (verb_class(asked.info), is_long_running(asked.info)) == (asked.verb_class, asked.long_running)


@settings(max_examples=250)
@given(_TARGETS)
def test_the_quick_look_and_the_careful_one_agree(target: str) -> None:
    """A target that is too long for the quick look is refused for the same reason as without what makes it long."""
    longer = f"{target}{'&' if '?' in target else '?'}{'x' * 10_000}"
    assert "fragment" in (refusal(target) or "") or refusal(longer) == refusal(target)


@settings(max_examples=250)
@given(_METHODS, _TARGETS)
def test_what_is_not_refused_is_read_alike_by_every_hop(method: str, target: str) -> None:
    """A target that passes means the same once it was decoded and encoded anew, as some hop may do."""
    try:
        info = request_info(method, target)
    except BadTarget:
        return
    if refusal(target) is None and info.subresource != "proxy":
        path, mark, query = target.partition("?")
        assert request_info(method, quote(info.path) + mark + query) == info
        assert info.path.count("/") == path.count("/")


@settings(max_examples=250)
@given(st.text(st.sampled_from("a=!,\\ metadata.name.()\t<>in/0notin-_\xe9\0"), max_size=60), st.integers(1, 3000))
def test_selectors_of_any_kind_are_read_or_refused(text: str, times: int) -> None:
    """A selector of whatever length is parsed or is wrong, and takes no more than its length to find out."""
    is_label_selector(text * times)
    try:
        found = required_field(text * times, "metadata.name")
    except ValueError:
        return
    assert found is None or f"metadata.name={found}" in f"{text * times}".replace("==", "=").replace("\\", "")


# Secrets.

_SECRET_KEYS = (
    "token",
    "access_token",
    "id-token",
    "X-Amz-Security-Token",
    "sig",
    "client.secret",
    "PassWord",
    "api_key",
)


@st.composite
def _keys(draw: st.DrawFn) -> str:
    """Give a key that is called like a secret, with any of its characters escaped."""
    name = draw(st.sampled_from(_SECRET_KEYS))
    escaped = draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    return "".join(f"%{ord(char):02x}" if odd else char for char, odd in zip(name, escaped, strict=True))


@settings(max_examples=250)
@given(
    st.lists(st.text(st.sampled_from("ab=%&;?+tokensig41"), max_size=8), max_size=4),
    _keys(),
    st.sampled_from(("", ";", "%zz", "a=b;", "=", "==")),
    st.integers(0, 4),
)
def test_a_secret_in_a_query_never_survives(pairs: list[str], key: str, around: str, at: int) -> None:
    """The value of a key that is called like a secret is gone, however it is written and whatever is around."""
    secret = f"{around if around.endswith(';') else ''}{key}={_TOKEN}{around}"
    target = "/api/v1/pods?" + "&".join([*pairs[:at], secret, *pairs[at:]])
    shown = redact_query(target)
    assert _TOKEN not in shown
    assert not [value for _, value in query_pairs(shown.partition("?")[2]) if _TOKEN in value]
    assert _TOKEN.encode() not in describe_request("GET", target, _REDACTION).members


_CARRIERS = (
    f"--token={_TOKEN}", f"--password {_TOKEN}", f"Authorization: Bearer {_TOKEN}", f"authorization:bearer\t{_TOKEN}",
    f"API_TOKEN={_TOKEN}", f"export DB_PASSWORD='{_TOKEN}'", f'{{"token": "{_TOKEN}"}}',
    f"https://jane:{_TOKEN}@example.com",
    f"Basic {_TOKEN}", f"access-key={_TOKEN}", f"client_secret = {_TOKEN}", f"private_key:{_TOKEN}",
)  # fmt: skip


@settings(max_examples=250)
@given(
    st.lists(st.text(max_size=10), max_size=3), st.sampled_from(_CARRIERS), st.text(max_size=10), st.text(max_size=10)
)
def test_a_secret_on_a_command_line_never_survives(argv: list[str], carrier: str, before: str, after: str) -> None:
    """Whatever an exec runs, a secret after a telling word is in no field of its record, alone or within a script."""
    for words in ([*argv, carrier], ["sh", "-c", f"{before} {carrier} {after}"]):
        query = "&".join(f"command={quote_plus(word, errors='replace')}" for word in words)
        asked = describe_request("POST", f"/api/v1/namespaces/x/pods/p/exec?{query}", _REDACTION)
        assert _TOKEN.encode() not in asked.members
        assert quote(_TOKEN).encode() not in asked.members


@pytest.mark.parametrize("option", ["--password", "-token", "--api-key", "--client-secret"])
def test_the_argument_after_a_telling_option_never_survives(option: str) -> None:
    """A secret that is an argument of its own is replaced whole."""
    asked = describe_request("GET", f"/api/v1/namespaces/x/pods/p/exec?command={option}&command={_TOKEN}", _REDACTION)
    assert _TOKEN.encode() not in asked.members


# What clients and servers say.


@settings(max_examples=250)
@given(st.text(), st.text(), st.sampled_from(("", "websocket", "SPDY/3.1")))
def test_what_a_client_says_of_itself_has_a_record(user_agent: str, command: str, upgrade: str) -> None:
    """Any User-Agent and Kubectl-Command that can arrive can be recorded, in bounded length."""
    agent, command = (text.encode("utf-8", "replace").decode() for text in (user_agent, command))
    known = json.loads(b"{%b}" % describe_client(agent, command, upgrade))
    assert known.get("userAgent", "") == truncate_user_agent(agent)
    assert known.get("command", "") == kubectl_command(command)
    assert known.get("command", "").isprintable()
    assert len(truncate_user_agent(agent * 2000)) <= 1024 + len("...TRUNCATED")
    assert len(kubectl_command(command * 2000)) <= 256
    assert kubectl_session(command) is None or len(command) == 36


@settings(max_examples=250)
@given(st.binary(max_size=60), st.integers(0, 300))
def test_any_answer_can_be_read_for_its_reason(garbage: bytes, cut: int) -> None:
    """No body of a failure raises, in JSON or protobuf, cut off or damaged; what is read of it can be recorded."""
    whole = Status(403, "Forbidden", 'pods is forbidden: "\u202e\x1b[31m"', retry_after_seconds=1).body()
    for body in (garbage, whole[:cut], whole[:cut] + garbage, b"k8s\0" + garbage, b"[" * 5000, b'{"a":' * 5000):
        json_fields(body)
        list(delimited_fields(body))
        for content_type in ("application/json", "application/vnd.kubernetes.protobuf", "", "text/html"):
            for text in parse_status(body, content_type, "") or ():
                text.encode()


@settings(max_examples=250)
@given(st.text(st.sampled_from("&=;%+,0123456789abcommandportstywr\xe9\0"), max_size=60))
def test_options_of_streams_are_read_from_any_query(query: str) -> None:
    """No query raises; ports are ports."""
    assert all(isinstance(argument, str) for argument in exec_options(query).argv)
    assert all(0 < port < 1 << 16 for port in portforward_ports(query))


@given(_METHODS, _TARGETS)
def test_no_meaning_is_remembered_wrongly(method: str, target: str) -> None:
    """What is remembered of a target is what would be found out again, also for one that differs only in its method."""

    def found(asked: str) -> RequestInfo | None:
        try:
            return request_info(asked, target)
        except BadTarget:
            return None

    first = [found(each) for each in (method, "GET", method)]
    assert first[0] == first[2]
    if first[0] is not None and first[1] is not None:
        assert first[0].path == first[1].path
