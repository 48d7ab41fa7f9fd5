"""The proxy's own credential for a cluster: where it comes from, when it is renewed, and how its lack is told."""

import asyncio
import json
import stat
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from kube_audit_proxy.cluster.credential import Credential, CredentialError, CredentialSource, load_certificate
from kube_audit_proxy.cluster.kubeconfig import Authentication, Context, ExecPlugin

NOON = 1_795_000_000.0
"""2026-11-18T11:06:40Z in Unix seconds."""


class Source:
    """A credential source and its clocks, which stand still until they are set."""

    def __init__(self, authentication: Authentication) -> None:
        context = Context("ctx", "https://h:6443", b"CA", False, "sni", "", "u", authentication)
        self.now = 50.0
        self.wall = NOON
        self.source = CredentialSource(context, lambda: self.now, lambda: self.wall)

    def get(self) -> Credential:
        """Give the credential at present."""
        return asyncio.run(self.source.credential())

    def error(self) -> str:
        """Give the sentence that says why there is none."""
        with pytest.raises(CredentialError) as caught:
            self.get()
        return str(caught.value)


def bearer(token: str, certificate: bytes = b"", key: bytes = b"") -> Credential:
    """Give a bearer credential."""
    return Credential(f"Authorization: Bearer {token}\r\n".encode(), certificate, key)


# What does not change.


@pytest.mark.parametrize(
    ("authentication", "expected"),
    [
        (Authentication(), Credential()),
        (Authentication(token="t"), bearer("t")),
        (Authentication(certificate=b"C", key=b"K"), Credential(b"", b"C", b"K")),
        (Authentication(token="t", certificate=b"C", key=b"K"), bearer("t", b"C", b"K")),
        (Authentication(username="u", password="p:\xe9"), Credential(b"Authorization: Basic dTpwOsOp\r\n")),
        (Authentication(token="t", username="u", password="p"), bearer("t")),
    ],
    ids=["nothing", "token", "certificate", "both", "basic", "token-before-basic"],
)
def test_contents_of_the_kubeconfig(authentication: Authentication, expected: Credential) -> None:
    """What stands in the kubeconfig is the credential, for as long as the proxy runs."""
    source = Source(authentication)
    first = source.get()
    assert first == expected
    source.now = 1e9
    assert source.get() is first


@pytest.mark.parametrize("token", ["t\n", "t\r\n", "a\r\nX: y", "a\n\nb", "a\0b", "a\rb"], ids=ascii)
def test_a_token_cannot_end_the_head(token: str) -> None:
    """A line end in a token would cut the impersonation off a call's head, and make it the proxy's own: refused."""
    Source(Authentication(token=token)).error()


@pytest.mark.parametrize("token", ["a\r\nX: y", "a\n\nb", "a\0b", "a\rb"], ids=ascii)
def test_a_token_file_cannot_end_the_head(tmp_path: Path, token: str) -> None:
    """Nor can a token file with more than one line."""
    path = tmp_path / "token"
    path.write_text(token, newline="")
    Source(Authentication(token_file=path)).error()


# Token files.


def test_token_file_is_read_again(tmp_path: Path) -> None:
    """A token that is rotated in its file is used ten seconds later at most, and the file is not read at each call."""
    path = tmp_path / "token"
    path.write_text(" one\n")
    source = Source(Authentication(token_file=path, certificate=b"C", key=b"K"))
    assert source.get() == bearer("one", b"C", b"K")
    path.write_text("two")
    source.now += 9.999
    assert source.get() == bearer("one", b"C", b"K")
    source.now += 0.001
    assert source.get() == bearer("two", b"C", b"K")


def test_a_refused_token_is_read_again_at_once(tmp_path: Path) -> None:
    """When the cluster did not take the token, the next call looks into the file."""
    path = tmp_path / "token"
    path.write_text("one")
    source = Source(Authentication(token_file=path))
    source.get()
    path.write_text("two")
    source.source.refused()
    assert source.get() == bearer("two")


def test_a_missing_token_file_is_told(tmp_path: Path) -> None:
    """A file that is not there is named, and once it is there the next call has its token."""
    path = tmp_path / "token"
    source = Source(Authentication(token_file=path))
    assert source.error() == f"cannot read the token file {path}: No such file or directory"
    path.write_text("t")
    assert source.get() == bearer("t")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"], ids=ascii)
def test_a_token_file_without_a_token_is_told(tmp_path: Path, content: bytes) -> None:
    """A file that has no token in it is told as such."""
    path = tmp_path / "token"
    path.write_bytes(content)
    assert str(path) in Source(Authentication(token_file=path)).error()


# Plugins.


class Plugin:
    """A credential plugin: a small script that logs its runs and prints what it is told to."""

    def __init__(self, directory: Path) -> None:
        self.script = directory / "get-token"
        self.output = directory / "output"
        self.runs = directory / "runs"
        self.script.write_text(
            "#!/bin/sh\n"
            f"printf '%s\\n' \"$KUBERNETES_EXEC_INFO\" >> '{self.runs}'\n"
            f"printf '%s' \"$*|$EXTRA|$PATH\" > '{directory}/asked'\n"
            f"cat '{self.output}'\n"
        )
        self.script.chmod(0o755)
        self.asked = directory / "asked"

    def says(self, status: object) -> None:
        """Have it print an ExecCredential with this status."""
        self.prints(
            json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status})
        )

    def prints(self, text: str) -> None:
        """Have it print a text."""
        self.output.write_text(text)

    def source(self, *, cluster_info: bool = False) -> Source:
        """Give a source that runs it."""
        plugin = ExecPlugin(
            "client.authentication.k8s.io/v1", str(self.script), ("a b", "c"), {"EXTRA": "x y"}, cluster_info
        )
        return Source(Authentication(exec_plugin=plugin))

    def infos(self) -> list[dict[str, Any]]:
        """Give what each of its runs was told."""
        return [json.loads(line) for line in self.runs.read_text().splitlines()]


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    """Give a plugin."""
    return Plugin(tmp_path)


def test_plugin_is_run_once(plugin: Plugin) -> None:
    """A token that does not expire is asked for once, whatever time passes."""
    plugin.says({"token": "one"})
    source = plugin.source()
    assert source.get() == bearer("one")
    source.now, source.wall = 1e9, NOON + 1e9
    assert source.get() == bearer("one")
    assert len(plugin.infos()) == 1


@pytest.mark.parametrize(
    "expires", ["2026-11-18T11:16:40Z", "2026-11-18T12:16:40+01:00", "2026-11-18T11:16:40.000000Z"]
)
def test_plugin_is_run_again_before_the_token_expires(plugin: Plugin, expires: str) -> None:
    """A token with an expiry is renewed half a minute before it, by the monotonic clock."""
    plugin.says({"token": "one", "expirationTimestamp": expires})
    source = plugin.source()
    assert source.get() == bearer("one")
    plugin.says({"token": "two"})
    source.now += 569.999
    assert source.get() == bearer("one")
    source.now += 0.002
    assert source.get() == bearer("two")
    assert len(plugin.infos()) == 2


def test_plugin_is_run_again_when_refused(plugin: Plugin) -> None:
    """A token that the cluster did not take is asked for anew with the next call, and then kept."""
    plugin.says({"token": "one"})
    source = plugin.source()
    source.get()
    plugin.says({"token": "two"})
    source.source.refused()
    assert [source.get(), source.get()] == [bearer("two")] * 2
    assert len(plugin.infos()) == 2


def test_an_expired_token_is_asked_for_at_every_call(plugin: Plugin) -> None:
    """A plugin that gives expired tokens is run each time, and what it gives is used: the cluster decides."""
    plugin.says({"token": "old", "expirationTimestamp": "2020-01-01T00:00:00Z"})
    source = plugin.source()
    assert [source.get(), source.get()] == [bearer("old")] * 2
    assert len(plugin.infos()) == 2


def test_calls_at_the_same_time_run_it_once(plugin: Plugin) -> None:
    """A burst of calls waits for one run of the plugin."""
    plugin.says({"token": "one"})
    source = plugin.source()

    async def burst() -> list[Credential]:
        return await asyncio.gather(*(source.source.credential() for _ in range(5)))

    assert asyncio.run(burst()) == [bearer("one")] * 5
    assert len(plugin.infos()) == 1


def test_plugin_gives_a_certificate(plugin: Plugin) -> None:
    """A plugin may give a certificate and key, with a token or without."""
    plugin.says({"clientCertificateData": "C\n", "clientKeyData": "K\n"})
    assert plugin.source().get() == Credential(b"", b"C\n", b"K\n")
    plugin.says({"clientCertificateData": "C\n", "clientKeyData": "K\n", "token": "t"})
    assert plugin.source().get() == bearer("t", b"C\n", b"K\n")


def test_what_a_plugin_is_told(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin has its arguments, our environment and its own, and knows that nobody can answer its questions."""
    monkeypatch.setenv("PATH", "/bin:/usr/bin:/ours")
    plugin.says({"token": "t"})
    plugin.source().get()
    assert plugin.asked.read_text() == "a b c|x y|/bin:/usr/bin:/ours"
    assert plugin.infos() == [
        {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "spec": {"interactive": False}}
    ]


def test_cluster_info_is_told_if_wanted(plugin: Plugin) -> None:
    """With provideClusterInfo a plugin knows the cluster it is for."""
    plugin.says({"token": "t"})
    plugin.source(cluster_info=True).get()
    (info,) = plugin.infos()
    cluster = info["spec"]["cluster"]
    assert (cluster["server"], cluster["tls-server-name"]) == ("https://h:6443", "sni")
    assert b64decode(cluster["certificate-authority-data"]) == b"CA"
    assert cluster["insecure-skip-tls-verify"] is False


def test_a_failed_plugin_is_told(plugin: Plugin) -> None:
    """A plugin that fails is told with its exit code and what it said; the next call tries again."""
    plugin.says({"token": "t"})
    good = plugin.script.read_text()
    plugin.script.write_text("#!/bin/sh\necho 'please log in: x login' >&2\nexit 3\n")
    source = plugin.source()
    assert source.error() == f"the credential plugin {str(plugin.script)!r} ended with 3: please log in: x login"
    plugin.script.write_text(good)
    assert source.get() == bearer("t")


def test_a_failed_renewal_is_told(plugin: Plugin) -> None:
    """An old token is not used on when it cannot be renewed."""
    plugin.says({"token": "t", "expirationTimestamp": "2026-11-18T11:16:40Z"})
    source = plugin.source()
    source.get()
    plugin.script.write_text("#!/bin/sh\nexit 1\n")
    source.now += 600
    assert "ended with 1" in source.error()


def test_only_the_end_of_long_complaints_is_told(plugin: Plugin) -> None:
    """A plugin's traceback does not become the answer: its last words do, and wrong UTF-8 does not break them."""
    plugin.script.write_text(
        f"#!{sys.executable}\nimport os\nos.write(2, b'x' * 1000 + b'\\xff end')\nraise SystemExit(1)\n"
    )
    told = plugin.source().error()
    assert told.endswith("x\N{REPLACEMENT CHARACTER} end")
    assert told.count("x") < 320


@pytest.mark.parametrize(
    "text",
    [
        "",
        pytest.param("hunter2", id="text"),
        "[]",
        "null",
        "{}",
        '{"status":null}',
        '{"status":"t"}',
        '{"status":[]}',
        '{"status":{"token":"t","expirationTimestamp":"soon"}}',
        '{"status":{"token":"t","expirationTimestamp":5}}',
        '{"status":{"clientCertificateData":5}}',
        '{"status":{"token":"t"}',
        pytest.param("\xff", id="binary"),
        pytest.param('{"status":{}}'),
        pytest.param(
            '{"status":{"token":""}}',
        ),
        pytest.param('{"status":{"token":5}}'),
        pytest.param(
            '{"status":{"clientCertificateData":"C"}}',
        ),
        pytest.param('{"status":{"token":"t\\n"}}', id="line-end"),
        pytest.param('{"status":{"token":"t\\r\\nX: y"}}', id="injection"),
    ],
)
def test_garbage_is_told(plugin: Plugin, text: str) -> None:
    """What is no ExecCredential with a credential in it is no credential, and is not repeated in the message."""
    plugin.output.write_bytes(text.encode("latin-1"))
    told = plugin.source().error()
    assert repr(str(plugin.script)) in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("mode", "told"),
    [(None, "No such file or directory"), (0o644, "Permission denied")],
    ids=["missing", "not-executable"],
)
def test_a_plugin_that_cannot_be_run_is_told(plugin: Plugin, mode: int | None, told: str) -> None:
    """A command that is not there, or may not be run, is named."""
    if mode is None:
        plugin.script.unlink()
    else:
        plugin.script.chmod(mode)
    assert plugin.source().error() == f"cannot run the credential plugin {str(plugin.script)!r}: {told}"


def test_a_command_that_is_on_no_path() -> None:
    """A bare name that the PATH does not have is named."""
    source = Source(
        Authentication(exec_plugin=ExecPlugin("v1", "no-such-plugin-x", (), {}, provide_cluster_info=False))
    )
    assert source.error() == "cannot run the credential plugin 'no-such-plugin-x': No such file or directory"


# Certificates as files.


def test_certificates_are_files_only_while_they_are_loaded() -> None:
    """The ssl module gets files, the key for its owner only; nothing stays behind, after an error neither."""
    seen: list[Path] = []

    def look(certificate: Path, key: Path) -> None:
        assert (certificate.read_bytes(), key.read_bytes()) == (b"C", b"K")
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        seen.extend((certificate, key))
        if len(seen) > 2:
            raise OSError("bad key")

    load_certificate(look, b"C", b"K")
    with pytest.raises(OSError, match="bad key"):
        load_certificate(look, b"C", b"K")
    assert len(seen) == 4
    assert not any(path.exists() or path.parent.exists() for path in seen)
