"""Which cluster a request target names."""

import pytest

from kube_audit_proxy.gateway.route import split_target


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/clusters/demo/api/v1/pods?limit=500", ("demo", "/api/v1/pods?limit=500")),
        ("/clusters/demo/", ("demo", "/")),
        ("/clusters/demo", ("demo", "/")),
        ("/clusters/demo?x=/y", ("demo", "/?x=/y")),
        ("/clusters/demo/?x", ("demo", "/?x")),
        ("/clusters/prod-eu1/version", ("prod-eu1", "/version")),
    ],
)
def test_prefix_is_cut_off(target: str, expected: tuple[str, str]) -> None:
    """The cluster is the segment after /clusters/, and the rest is a target of its own, query included."""
    assert split_target(target) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/clusters/a/clusters/b/api", ("a", "/clusters/b/api")),
        ("/clusters/a//api", ("a", "//api")),
        ("/clusters/a/../b/api", ("a", "/../b/api")),
        ("/clusters/../a/api", ("..", "/a/api")),
        ("/clusters/a%2Fb/api", ("a%2Fb", "/api")),
        ("/clusters/%64emo/api", ("%64emo", "/api")),
        ("/clusters/Demo/api", ("Demo", "/api")),
        ("/clusters/a#b/api", ("a#b", "/api")),
        ("/clusters/a;b/api", ("a;b", "/api")),
        ("/clusters/a\\b/api", ("a\\b", "/api")),
        ("/clusters/\xe9/api", ("\xe9", "/api")),
    ],
)
def test_one_prefix_and_nothing_else(target: str, expected: tuple[str, str]) -> None:
    """One prefix is cut off on a segment's end; nothing is decoded, normalized or cut off again."""
    assert split_target(target) == expected


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/pods",
        "/",
        "",
        "*",
        "/clusters",
        "/clusters?x",
        "/clustersx/demo",
        "/Clusters/demo/api",
        "//clusters/demo/api",
        "/x/clusters/demo/api",
        "clusters/demo/api",
        "https://proxy/clusters/demo/api",
        "/%63lusters/demo/api",
        "/?/clusters/demo/",
    ],
)
def test_other_targets_name_none(target: str) -> None:
    """Where the target does not begin with the prefix it names no cluster and stays as it was."""
    assert split_target(target) == ("", target)


@pytest.mark.parametrize("target", ["/clusters/", "/clusters//api/v1/pods", "/clusters/?x", "/clusters//"])
def test_an_empty_name_is_none(target: str) -> None:
    """An empty segment names no cluster."""
    assert split_target(target)[0] == ""


@pytest.mark.parametrize("target", ["/clusters/", "/clusters//api/v1/pods"])
def test_an_empty_name_leaves_the_target_as_it_was(target: str) -> None:
    """What is recorded of a request that names no cluster is its whole target."""
    assert split_target(target) == ("", target)
