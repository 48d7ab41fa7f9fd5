"""Kubeconfig files are read as kubectl reads them, and those for the proxy's users can be read back."""

import os
import stat
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube_audit_proxy.cluster.kubeconfig import (
    EVERY_CONTEXT,
    Authentication,
    Context,
    ExecPlugin,
    KubeconfigError,
    default_paths,
    in_cluster,
    load,
    slug,
)
from kube_audit_proxy.cluster.proxy_kubeconfig import Way, render, write

Content = dict[str, Any]


def content(
    *names: str, current: str = "", cluster: Content | None = None, user: Content | None = None, prefix: str = ""
) -> Content:
    """Give a kubeconfig with contexts of these names, each with a cluster and a user of its own."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        **({"current-context": current} if current else {}),
        "contexts": [
            {"name": name, "context": {"cluster": f"{name}-c", "user": f"{name}-u", "namespace": f"{prefix}{name}"}}
            for name in names
        ],
        "clusters": [
            {"name": f"{name}-c", "cluster": {"server": f"https://{prefix}{name}:6443", **(cluster or {})}}
            for name in names
        ],
        "users": [
            {"name": f"{name}-u", "user": {"token": f"{prefix}{name}-t"} if user is None else user} for name in names
        ],
    }


def put(path: Path, what: Content | str) -> Path:
    """Write a kubeconfig."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(what if isinstance(what, str) else yaml.safe_dump(what))
    return path


def one(tmp_path: Path, *, cluster: Content | None = None, user: Content | None = None) -> Context:
    """Give the only context of a kubeconfig with this cluster and user."""
    path = put(tmp_path / "home" / "config", content("a", current="a", cluster=cluster, user=user))
    return load([path]).contexts["a"]


def error(paths: list[Path], *only: str) -> str:
    """Give the sentence with which these files are refused."""
    with pytest.raises(KubeconfigError) as caught:
        load(paths, only)
    return str(caught.value)


# Which files, which contexts.


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/h"}, ["/h/.kube/config"]),
        ({"HOME": "/h", "KUBECONFIG": ""}, ["/h/.kube/config"]),
        ({"HOME": "/h", "KUBECONFIG": "/a"}, ["/a"]),
        ({"HOME": "/h", "KUBECONFIG": os.pathsep.join(["/a", "b", "", "/c"])}, ["/a", "b", "/c"]),
        ({"HOME": "/h", "KUBECONFIG": os.pathsep}, ["/h/.kube/config"]),
    ],
    ids=["home", "empty", "one", "several", "only-separators"],
)
def test_default_paths(environ: dict[str, str], expected: list[str]) -> None:
    """The files are those of KUBECONFIG, empty entries left out, or the one in the home directory."""
    assert default_paths(environ) == tuple(map(Path, expected))


def test_one_context(tmp_path: Path) -> None:
    """A context has all that its cluster and user say."""
    path = put(tmp_path / "config", content("a", "b", current="b"))
    found = load([path])
    assert found.current == "b"
    assert found.contexts == {
        "b": Context("b", "https://b:6443", b"", False, "", "b", "b-u", Authentication(token="b-t"))
    }


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ([], ["b"]),
        (["a"], ["a"]),
        (["c", "a"], ["c", "a"]),
        ([EVERY_CONTEXT], ["a", "b", "c"]),
        (["a", EVERY_CONTEXT], ["a", "b", "c"]),
    ],
    ids=str,
)
def test_which_contexts(tmp_path: Path, only: list[str], expected: list[str]) -> None:
    """Without names it is the current context; names are read in their order, and * is all of them."""
    assert list(load([put(tmp_path / "config", content("a", "b", "c", current="b"))], only).contexts) == expected


def test_no_current_context_is_no_context(tmp_path: Path) -> None:
    """Where nothing is current and nothing was asked for, there is nothing, without an error."""
    found = load([put(tmp_path / "config", content("a"))])
    assert (dict(found.contexts), found.current) == ({}, "")


def test_contexts_that_were_not_asked_for_may_be_broken(tmp_path: Path) -> None:
    """A broken context is trouble only for whoever wants it."""
    broken = content("a", "b", current="a")
    broken["clusters"].pop()
    path = put(tmp_path / "config", broken)
    assert list(load([path]).contexts) == ["a"]
    assert "'b-c'" in error([path], EVERY_CONTEXT)


# Merging.


def test_the_first_to_name_something_wins(tmp_path: Path) -> None:
    """Of two files that name the same, the first counts, whole; what only one names is added."""
    first = put(tmp_path / "1", content("a", "b", current="a", prefix="first-"))
    second = put(tmp_path / "2", content("b", "c", current="c", prefix="second-"))
    found = load([first, second], [EVERY_CONTEXT])
    assert found.current == "a"
    assert {name: (one.server, one.namespace, one.authentication.token) for name, one in found.contexts.items()} == {
        "a": ("https://first-a:6443", "first-a", "first-a-t"),
        "b": ("https://first-b:6443", "first-b", "first-b-t"),
        "c": ("https://second-c:6443", "second-c", "second-c-t"),
    }


def test_nothing_is_merged_within_a_name(tmp_path: Path) -> None:
    """A user of the first file gets nothing from the second one's user of the same name."""
    first = put(tmp_path / "1", content("a", current="a", user={"username": "x"}))
    second = put(tmp_path / "2", content("a", current="a", user={"token": "stranger"}))
    assert load([first, second]).contexts["a"].authentication == Authentication(username="x")


def test_the_first_current_context_counts(tmp_path: Path) -> None:
    """The current context is that of the first file that has one, and may be defined in another."""
    first = put(tmp_path / "1", content("a"))
    second = put(tmp_path / "2", content("b", current="a"))
    third = put(tmp_path / "3", content("c", current="c"))
    assert load([first, second, third]).current == "a"
    assert list(load([first, second, third]).contexts) == ["a"]


def test_a_context_may_be_put_together_from_files(tmp_path: Path) -> None:
    """Context, cluster and user may each be in a file of their own."""
    whole = content("a", current="a")
    paths = [put(tmp_path / kind, {kind: whole[kind]}) for kind in ("users", "clusters", "contexts")]
    assert load(paths, ["a"]).contexts["a"].authentication.token == "a-t"


def test_missing_files_are_passed_over(tmp_path: Path) -> None:
    """Files that are not there count as empty, all of them too."""
    path = put(tmp_path / "config", content("a", current="a"))
    assert list(load([tmp_path / "nothing", path]).contexts) == ["a"]
    assert not load([tmp_path / "nothing"]).contexts


@pytest.mark.parametrize("text", ["", "---\n", "# nothing yet\n"], ids=["empty", "marker", "comment"])
def test_empty_files_are_passed_over(tmp_path: Path, text: str) -> None:
    """A file without content counts as one that is not there."""
    path = put(tmp_path / "config", content("a", current="a"))
    assert list(load([put(tmp_path / "empty", text), path]).contexts) == ["a"]


@pytest.mark.parametrize("kind", ["clusters", "users", "contexts"])
def test_null_lists(tmp_path: Path, kind: str) -> None:
    """A list that is null (`kubectl config` writes it so) counts as empty."""
    path = put(tmp_path / "config", {**content("a"), kind: None})
    assert not load([path]).contexts


def test_relative_paths_are_relative_to_their_own_file(tmp_path: Path) -> None:
    """A path is looked up beside the file that names it, whichever file names the context."""
    (tmp_path / "1").mkdir()
    put(tmp_path / "2" / "pki" / "ca.pem", "authority")
    put(tmp_path / "3" / "cert.pem", "certificate")
    put(tmp_path / "3" / "key.pem", "key")
    whole = content(
        "a",
        current="a",
        cluster={"certificate-authority": "pki/ca.pem"},
        user={"client-certificate": "cert.pem", "client-key": str(tmp_path / "3" / "key.pem"), "tokenFile": "../token"},
    )
    paths = [
        put(tmp_path / "1" / "config", {**whole, "clusters": [], "users": []}),
        put(tmp_path / "2" / "config", {"clusters": whole["clusters"]}),
        put(tmp_path / "3" / "config", {"users": whole["users"]}),
    ]
    found = load(paths).contexts["a"]
    assert found.authority == b"authority"
    assert (found.authentication.certificate, found.authentication.key) == (b"certificate", b"key")
    assert found.authentication.token_file == tmp_path / "3" / ".." / "token"


# Clusters.


@pytest.mark.parametrize(
    "server", ["https://h", "https://h:1/", "http://h", "https://h/k8s/clusters/c-1/", "https://[::1]:1"]
)
def test_servers(tmp_path: Path, server: str) -> None:
    """A server is an http or https URL, with or without a path, taken without its last slash."""
    assert one(tmp_path, cluster={"server": server}).server == server.rstrip("/")


@pytest.mark.parametrize("server", ["", "h:6443", "ftp://h", "https://", "https:///x", "//h"])
def test_no_servers(tmp_path: Path, server: str) -> None:
    """Anything else is refused with the context's name and the value."""
    with pytest.raises(KubeconfigError, match="context 'a': the server") as caught:
        one(tmp_path, cluster={"server": server})
    assert repr(server) in str(caught.value)


def test_tls_settings(tmp_path: Path) -> None:
    """Whether and by which name the server is verified is taken over."""
    found = one(tmp_path, cluster={"insecure-skip-tls-verify": True, "tls-server-name": "n"})
    assert (found.skip_tls_verify, found.tls_server_name) == (True, "n")


def test_data_comes_before_files(tmp_path: Path) -> None:
    """Where both are given the data counts and the file is not even looked for."""
    data = {"certificate-authority-data": b64encode(b"A").decode(), "certificate-authority": "/nowhere"}
    user = {
        "client-certificate-data": b64encode(b"C").decode(),
        "client-certificate": "/nowhere",
        "client-key-data": b64encode(b"\x00\xff").decode(),
        "client-key": "/nowhere",
    }
    found = one(tmp_path, cluster=data, user=user)
    assert found.authority == b"A"
    assert found.authentication == Authentication(certificate=b"C", key=b"\x00\xff")


def test_data_may_have_line_ends(tmp_path: Path) -> None:
    """Base64 that was wrapped (a YAML block) is read, as kubectl does."""
    encoded = b64encode(b"A" * 100).decode()
    data = {"certificate-authority-data": f"{encoded[:64]}\n{encoded[64:]}\n"}
    assert one(tmp_path, cluster=data).authority == b"A" * 100


# Users.


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({}, Authentication()),
        ({"token": "t"}, Authentication(token="t")),
        ({"tokenFile": "/t"}, Authentication(token_file=Path("/t"))),
        ({"username": "u", "password": "p"}, Authentication(username="u", password="p")),
        (
            {"exec": {"apiVersion": "v1", "command": "aws", "args": ["eks", 1], "env": [{"name": "A", "value": "b"}]}},
            Authentication(exec_plugin=ExecPlugin("v1", "aws", ("eks", "1"), {"A": "b"}, provide_cluster_info=False)),
        ),
        (
            {"exec": {"apiVersion": "v1", "command": "/bin/x", "args": None, "env": None, "provideClusterInfo": True}},
            Authentication(exec_plugin=ExecPlugin("v1", "/bin/x", (), {}, provide_cluster_info=True)),
        ),
    ],
    ids=["nothing", "token", "file", "basic", "plugin", "plugin-nulls"],
)
def test_users(tmp_path: Path, user: Content, expected: Authentication) -> None:
    """Each way to prove who one is is taken over."""
    assert one(tmp_path, user=user).authentication == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("aws", "aws"),
        ("./get-token", "{home}/get-token"),
        ("bin/get-token", "{home}/bin/get-token"),
        ("../get-token", "{home}/../get-token"),
        ("/usr/bin/get-token", "/usr/bin/get-token"),
    ],
)
def test_plugin_paths(tmp_path: Path, command: str, expected: str) -> None:
    """A plugin with a slash is found beside its kubeconfig; a bare name is left to the PATH."""
    plugin = one(tmp_path, user={"exec": {"command": command}}).authentication.exec_plugin
    assert plugin is not None
    assert plugin.command == expected.format(home=tmp_path / "home")


def test_a_context_without_its_user_is_anonymous(tmp_path: Path) -> None:
    """A user that is not in the kubeconfig proves nothing, as with kubectl."""
    path = put(tmp_path / "config", {**content("a", current="a"), "users": []})
    assert load([path]).contexts["a"].authentication == Authentication()


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """A context that ends up in a log shows no secret."""
    user = {"token": "hunter2", "password": "hunter2", "client-key-data": b64encode(b"hunter2").decode()}
    assert "hunter2" not in repr(one(tmp_path, user=user))


@pytest.mark.parametrize("key", ["as", "as-groups", "as-uid", "as-user-extra"])
def test_impersonation_is_not_dropped_in_silence(tmp_path: Path, key: str) -> None:
    """A kubeconfig that acts as somebody else is refused rather than used as oneself."""
    value: Any = {"as": "viewer", "as-uid": "1", "as-groups": ["g"], "as-user-extra": {"k": ["v"]}}[key]
    with pytest.raises(KubeconfigError):
        one(tmp_path, user={"token": "t", key: value})


# Errors.


@pytest.mark.parametrize(
    ("cluster", "user", "sentence"),
    [
        (
            {"proxy-url": "http://p"},
            {},
            "context 'a': proxy-url is not supported; use --context to leave this cluster out",
        ),
        ({"certificate-authority-data": "!"}, {}, "context 'a': certificate-authority-data is not base64"),
        ({}, {"client-key-data": "YWJ"}, "context 'a': client-key-data is not base64"),
        (
            {"certificate-authority": "/nowhere/ca"},
            {},
            "context 'a': cannot read its certificate-authority /nowhere/ca: No such file or directory",
        ),
        ({}, {"client-key": "/"}, "context 'a': cannot read its client-key /: Is a directory"),
        ({}, {"auth-provider": {}}, "context 'a': auth-provider was removed from Kubernetes; use an exec plugin"),
        ({}, {"exec": {"args": ["x"]}}, "context 'a': its exec plugin names no command"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, cluster: Content, user: Content, sentence: str) -> None:
    """What the proxy cannot use is told by the context's name and what is wrong with it."""
    with pytest.raises(KubeconfigError) as caught:
        one(tmp_path, cluster=cluster, user=user)
    assert str(caught.value) == sentence


def test_unknown_contexts(tmp_path: Path) -> None:
    """A context that is not there is told with those that are, a current one too."""
    path = put(tmp_path / "config", content("b", "a", current="gone"))
    assert error([path], "x") == "there is no context 'x' in the kubeconfig (there are: a, b)"
    assert error([path]) == "there is no context 'gone' in the kubeconfig (there are: a, b)"
    assert error([tmp_path / "nothing"], "x") == "there is no context 'x' in the kubeconfig (there are: none)"


def test_unknown_clusters(tmp_path: Path) -> None:
    """A context whose cluster is not there is told with both names."""
    path = put(tmp_path / "config", {**content("a", current="a"), "clusters": []})
    assert error([path]) == "context 'a' names the cluster 'a-c', which is not in the kubeconfig"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "is not valid YAML"),
        ("\x00", "is not valid YAML"),
        ("- a", "is not a kubeconfig"),
        ("text", "is not a kubeconfig"),
    ],
    ids=["yaml", "binary", "list", "text"],
)
def test_files_that_are_none(tmp_path: Path, text: str, told: str) -> None:
    """A file that is no kubeconfig is named."""
    path = put(tmp_path / "config", text)
    assert error([path]).startswith(f"{path} {told}")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is there and cannot be read is an error, not an empty one."""
    assert error([tmp_path]) == f"cannot read {tmp_path}: Is a directory"


@pytest.mark.parametrize(
    "changes",
    [
        {"contexts": [{"context": {}}]},
        {"contexts": "text"},
        {"clusters": [{"name": "a-c", "cluster": {"server": None}}]},
        {"clusters": [{"name": "a-c", "cluster": {"server": 5}}]},
        {"clusters": [{"name": "a-c", "cluster": {"server": "https://h", "certificate-authority-data": "\xe9"}}]},
        {"users": [{"name": "a-u", "user": {"exec": {"command": "x", "env": [{"name": "A"}]}}}]},
        {"users": [{"name": "a-u", "user": {"exec": "x"}}]},
    ],
    ids=str,
)
def test_malformed_files_are_told(tmp_path: Path, changes: Content) -> None:
    """A kubeconfig with the wrong shape is told by a sentence."""
    error([put(tmp_path / "config", {**content("a", current="a"), **changes})])


# In a pod.


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """Give a service account's files."""
    put(tmp_path / "token", "t\n")
    put(tmp_path / "ca.crt", "authority")
    put(tmp_path / "namespace", "shop\n")
    return tmp_path


@pytest.mark.parametrize(
    ("host", "server"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
)
def test_in_cluster(mounted: Path, host: str, server: str) -> None:
    """In a pod the service account is the credential, and its token is read from its file, which changes."""
    found = in_cluster({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}, mounted)
    assert found is not None
    assert (found.server, found.authority, found.namespace) == (server, b"authority", "shop")
    assert found.authentication == Authentication(token_file=mounted / "token")
    assert not found.skip_tls_verify


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"KUBERNETES_SERVICE_HOST": "h"},
        {"KUBERNETES_SERVICE_PORT": "1"},
        {"KUBERNETES_SERVICE_HOST": "", "KUBERNETES_SERVICE_PORT": "1"},
    ],
    ids=["nothing", "host", "port", "empty"],
)
def test_not_in_cluster(mounted: Path, environ: dict[str, str]) -> None:
    """Without the variables of a pod, or without a service account, this is no pod."""
    assert in_cluster(environ, mounted) is None
    whole = {"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "1"}
    assert in_cluster(whole, mounted / "nothing") is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("demo", "demo"),
        ("Prod_EU", "prod-eu"),
        ("arn:aws:eks:eu-west-1:123:cluster/shop", "arn-aws-eks-eu-west-1-123-cluster-shop"),
        ("kubernetes-admin@kubernetes", "kubernetes-admin-kubernetes"),
        ("--a__b--", "a-b"),
        ("M\xdcnchen", "m-nchen"),
        ("\N{SNOWMAN}", ""),
        ("", ""),
        pytest.param("x" * 100, "x" * 63),
    ],
)
def test_slug(name: str, expected: str) -> None:
    """A context's name becomes one that can stand in a path, with single dashes inside."""
    assert slug(name) == expected


# For the proxy's users.


def test_render_is_read_back(tmp_path: Path) -> None:
    """A rendered kubeconfig leads each context to its cluster behind the proxy; the first is the current one."""
    ways = [Way("demo", "demo", "kap_1", "shop"), Way("jane@prod: x", "prod-eu", "kap_2"), Way("jane", "demo", "kap_3")]
    path = put(tmp_path / "config", render("https://127.0.0.1:8443", b"-----BEGIN-----\n", ways))
    found = load([path], [EVERY_CONTEXT])
    assert found.current == "demo"
    assert {
        name: (one.server, one.authority, one.namespace, one.authentication) for name, one in found.contexts.items()
    } == {
        way.context: (
            f"https://127.0.0.1:8443/clusters/{way.cluster}",
            b"-----BEGIN-----\n",
            way.namespace,
            Authentication(token=way.token),
        )
        for way in ways
    }
    assert not any(one.skip_tls_verify or one.tls_server_name for one in found.contexts.values())


def test_render_has_nothing_it_need_not_have(tmp_path: Path) -> None:
    """Without an authority of its own the system's are trusted, and without a namespace none is set."""
    text = render("https://kube.example.com", b"", [Way("a", "a", "t")])
    assert "certificate-authority" not in text
    assert "namespace" not in text
    assert load([put(tmp_path / "config", text)]).contexts["a"].authority == b""


@pytest.mark.parametrize("name", ["yes", "5", "a: b", "- x", "#", "'", "\N{SNOWMAN}", "null", "a\nb"], ids=ascii)
def test_render_quotes_names(tmp_path: Path, name: str) -> None:
    """A name that YAML could take for something else is read back as the name it is."""
    path = put(tmp_path / "config", render("https://h", b"", [Way(name, "c", name, name)]))
    found = load([path]).contexts[name]
    assert (found.name, found.namespace, found.authentication.token) == (name, name, name)


def test_write_is_private_and_whole(tmp_path: Path) -> None:
    """A file with a token is the owner's alone, also where an open one stood before, and nothing is left beside it."""
    path = put(tmp_path / "config", "old")
    path.chmod(0o644)
    write(path, "new\n")
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
