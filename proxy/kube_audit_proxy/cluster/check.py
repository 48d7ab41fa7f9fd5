"""What a cluster says of the proxy's credential: asked at the start, so that trouble shows before the first call."""

import json
from dataclasses import dataclass
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from kube_audit_proxy.cluster.cluster import Cluster
from kube_audit_proxy.cluster.credential import CredentialError

_TIMEOUT = 10.0
_USER_AGENT = "kube-audit-proxy"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out. `problem` is empty if the cluster answered as it should."""

    version: str = ""
    own_user: str = ""
    may_impersonate: bool = False
    problem: str = ""


async def check(cluster: Cluster) -> Finding:
    """Ask a cluster for its version, for who the credential is, and whether that may impersonate users and groups."""
    try:
        version = await _ask(cluster, "/version", None)
        own_user = await _own_user(cluster)
        impersonate = [await _ask(cluster, _ACCESS_REVIEWS, _may_impersonate(kind)) for kind in ("users", "groups")]
    except CredentialError as error:
        return Finding(problem=str(error))
    except HTTPClientError as error:
        return Finding(problem=f"{cluster.context.server} answers {error.code} {error.message or ''}".strip())
    except (OSError, ValueError, KeyError) as error:
        return Finding(problem=f"{cluster.context.server} cannot be reached: {error}")
    return Finding(
        version=version["gitVersion"],
        own_user=own_user,
        may_impersonate=all(answer["status"].get("allowed") for answer in impersonate),
    )


_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_SELF_REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_SELF = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}


async def _own_user(cluster: Cluster) -> str:
    try:
        review = await _ask(cluster, _SELF_REVIEWS, _SELF)
    except HTTPClientError as error:
        if error.code == 404:
            return ""  # Kubernetes before 1.28
        raise
    name: str = review["status"]["userInfo"]["username"]
    return name


def _may_impersonate(kind: str) -> dict[str, Any]:
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "impersonate", "resource": kind}},
    }


async def _ask(cluster: Cluster, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    credential = await cluster.credential()
    address = cluster.address()
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": _USER_AGENT}
    if credential.authorization:
        name, _, value = credential.authorization.decode().strip().partition(": ")
        headers[name] = value
    request = HTTPRequest(
        cluster.context.server + path,
        method="GET" if body is None else "POST",
        headers=headers,
        body=None if body is None else json.dumps(body),
        ssl_options=address.tls,
        request_timeout=_TIMEOUT,
        connect_timeout=_TIMEOUT,
        follow_redirects=False,
    )
    response = await AsyncHTTPClient().fetch(request)
    answer: dict[str, Any] = json.loads(response.body)
    return answer
