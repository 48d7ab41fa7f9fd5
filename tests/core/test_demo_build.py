"""How the demo finds its servers, without building any."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from kube_audit_proxy.demo import build

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a module's folder."""
    path = tmp_path / "module"
    path.mkdir()
    (path / "go.mod").write_text("module a\n", encoding="utf-8")
    (path / "go.sum").write_text("b v1 h1:c\n", encoding="utf-8")
    return path


def _program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_same_module_has_same_key(folder: Path) -> None:
    """A second start finds what the first one built."""
    module = build.MODULES["etcd"]
    assert build.cache_key(module, folder) == build.cache_key(module, folder)


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "main.go"])
def test_changed_file_changes_key(folder: Path, name: str) -> None:
    """A new version of a dependency or of our own source is built anew."""
    module = build.MODULES["etcd"]
    before = build.cache_key(module, folder)
    (folder / name).write_text("changed\n", encoding="utf-8")
    assert build.cache_key(module, folder) != before


def test_changed_stamp_changes_key(folder: Path) -> None:
    """A program that would report another version is built anew."""
    module = build.MODULES["etcd"]
    other = dataclasses.replace(module, stamps={"main.version": "v2"})
    assert build.cache_key(module, folder) != build.cache_key(other, folder)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"KUBE_AUDIT_PROXY_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/kube-audit-proxy"),
    ],
)
def test_cache_follows_environment(environ: dict[str, str], expected: str) -> None:
    """Our own variable wins over the desktop's convention."""
    assert str(build.cache_root(environ)) == expected


def test_without_go_one_sentence_says_what_to_do(tmp_path: Path) -> None:
    """Somebody without Go learns in one sentence what to install or how to do without."""
    environ = {"PATH": str(tmp_path), "KUBE_AUDIT_PROXY_CACHE": str(tmp_path / "cache")}
    with pytest.raises(build.BuildError) as caught:
        build.ensure("etcd", print, environ=environ)
    message = str(caught.value)
    assert "https://go.dev/dl/" in message
    assert "KUBECONFIG" in message
    assert "\n" not in message
    assert not (tmp_path / "cache").exists()


def test_cached_program_needs_no_go(tmp_path: Path) -> None:
    """What is built already is used even where Go has gone."""
    environ = {"PATH": str(tmp_path), "KUBE_AUDIT_PROXY_CACHE": str(tmp_path / "cache")}
    modules = tmp_path / "cache"
    key = build.cache_key(build.MODULES["etcd"], build.module_folder("etcd"))
    etcd = _program(modules / f"etcd-{key}" / "etcd")
    assert build.ensure("etcd", print, environ=environ) == {"etcd": etcd}


def test_installed_assets_are_used(tmp_path: Path) -> None:
    """A server in KUBEBUILDER_ASSETS is not built."""
    etcd = _program(tmp_path / "assets" / "etcd")
    environ = {"PATH": "", "KUBEBUILDER_ASSETS": str(etcd.parent), "KUBE_AUDIT_PROXY_CACHE": str(tmp_path / "cache")}
    assert build.ensure("etcd", print, environ=environ) == {"etcd": etcd}


@pytest.mark.parametrize("name", ["kubectl-1.28", "kubectl-1.30", "kubectl-1.33"])
def test_old_kubectl_is_never_the_installed_one(tmp_path: Path, name: str) -> None:
    """An old client of the tests is not silently replaced by the new one of KUBEBUILDER_ASSETS."""
    new = _program(tmp_path / "assets" / "kubectl")
    environ = {"PATH": "", "KUBEBUILDER_ASSETS": str(new.parent), "KUBE_AUDIT_PROXY_CACHE": str(tmp_path / "cache")}
    with pytest.raises(build.BuildError):
        build.ensure(name, print, environ=environ)


@pytest.mark.parametrize("name", build.MODULES)
def test_every_module_is_in_the_package(name: str) -> None:
    """An installed package has what it needs to build each server."""
    assert {"go.mod", "go.sum"} <= {path.name for path in build.module_folder(name).iterdir()}
