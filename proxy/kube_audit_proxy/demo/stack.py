"""Loki, Tempo and an OpenTelemetry Collector on loopback, run without Docker from the files that Docker mounts too."""

from __future__ import annotations

import dataclasses
import fcntl
import http.client
import os
import shutil
import signal
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import click

from kube_audit_proxy.demo.build import BuildError, cache_root, ensure
from kube_audit_proxy.demo.child import Child, free_ports
from kube_audit_proxy.demo.telemetry import PARTS, Part, Ports, settings, url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

_DEADLINE = 90.0
_POLL = 0.05
_PORT_TAKEN = "address already in use"
_PATH = "/usr/local/bin:/usr/bin:/bin"


class StackError(Exception):
    """The stack cannot start or go on; the message names the reason and the log to read."""


class _PortTakenError(StackError):
    """Somebody else took a port between the choice of it and its use."""


class TelemetryStack:
    """A stack in a directory; a context manager that starts and stops it.

    The directory is created if need be; what a stack left there before is thrown away at start unless keep is true.
    configuration is the folder with loki.yaml, tempo.yaml and otel-collector.yaml; collector_configurations are merged
    over the last. parts are the servers to start, environ adds to the variables that the files expand and wins over our
    own. Without ports, free ones are taken. progress gets lines for a person to read.

    Nothing of it survives this process, however it ends. Not for use by several threads at once.
    """

    def __init__(
        self,
        directory: Path,
        configuration: Path,
        *,
        progress: Callable[[str], None] = lambda _line: None,
        parts: Sequence[str] = tuple(PARTS),
        collector_configurations: Sequence[Path] = (),
        environ: Mapping[str, str] | None = None,
        ports: Ports | None = None,
        keep: bool = False,
    ) -> None:
        self._root = directory.absolute()
        self._configuration = configuration.absolute()
        self._progress = progress
        self._parts = {name: PARTS[name] for name in PARTS if name in parts}
        self._more = tuple(path.absolute() for path in collector_configurations)
        self._environ = dict(environ or {})
        self._given_ports = ports
        self._ports = ports or Ports()
        self._keep = keep
        self._programs: dict[str, Path] = {}
        self._children: dict[str, Child] = {}
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        """Start; see start_all()."""
        self.start_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; see stop_all()."""
        self.stop_all()

    @property
    def ports(self) -> Ports:
        """The ports of all servers, those that were not started included."""
        return self._ports

    @property
    def loki_url(self) -> str:
        """The base URL of Loki."""
        return url(self._ports.loki)

    @property
    def tempo_url(self) -> str:
        """The base URL of Tempo's queries."""
        return url(self._ports.tempo)

    @property
    def tempo_otlp(self) -> str:
        """Where Tempo itself takes spans, as OTLP over gRPC."""
        return url(self._ports.tempo_otlp_grpc)

    @property
    def otlp_grpc(self) -> str:
        """Where the collector takes lines and spans, as OTLP over gRPC."""
        return url(self._ports.otlp_grpc)

    @property
    def otlp_http(self) -> str:
        """Where the collector takes lines and spans, as OTLP over HTTP, below /v1/logs and /v1/traces."""
        return url(self._ports.otlp_http)

    @property
    def collector_metrics_url(self) -> str:
        """The collector's own metrics, for Prometheus."""
        return f"{url(self._ports.metrics)}/metrics"

    def log(self, part: str) -> Path:
        """Return the file with the output of a part."""
        return self._root / "logs" / f"{part}.log"

    def start_all(self) -> None:
        """Start all parts; return once Loki and Tempo answer queries and the collector takes lines and spans.

        Builds the servers first if they are not built yet, which takes minutes. Raises BuildError if that fails,
        StackError if a server ends or is not ready in time, OSError if the directory cannot be used; in each case
        nothing is left running.
        """
        if self._children:
            raise StackError("The stack is running already.")
        for name in self._parts:
            self._programs |= ensure(name, self._progress)
        try:
            self._take_directory()
            try:
                self._start_once()
            except _PortTakenError:
                if self._given_ports is not None:
                    raise
                self._stop_children()
                self._start_once()
        except BaseException:
            self.stop_all()
            raise

    def stop_all(self) -> None:
        """End all servers, last started first; does nothing if none runs. The directory stays for a look at it."""
        self._stop_children()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def start(self, part: str) -> None:
        """Start a part that was stopped or killed, on the same ports and data; return once it is ready.

        Raises StackError.
        """
        if self._lock is None:
            raise StackError("The stack is not running.")
        if part in self._children:
            raise StackError(f"{part} is running already.")
        self._launch(part)
        self._wait(part)

    def stop(self, part: str) -> None:
        """End a part and leave the others running; it gets the time to write what it holds. Raises StackError."""
        self._end(part, PARTS[part].patience)

    def kill(self, part: str) -> None:
        """End a part as a crash does and leave the others running. Raises StackError."""
        self._end(part, 0.0)

    def check(self) -> None:
        """Raise StackError if a part ended by itself."""
        for part, child in self._children.items():
            if child.exit_code is None:
                continue
            last = child.last_lines()
            kind = _PortTakenError if _PORT_TAKEN in last else StackError
            raise kind(f"{part} ended with code {child.exit_code}. Its log is {child.log}; the end of it:\n{last}")

    def _take_directory(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = (self._root / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"Another stack runs in {self._root}: stop it or choose another directory.") from None

    def _start_once(self) -> None:
        logs, data = self._root / "logs", self._root / "data"
        for old in [logs] if self._keep else [logs, data]:
            shutil.rmtree(old, ignore_errors=True)
        for new in (logs, data):
            new.mkdir(mode=0o700, exist_ok=True)
        if self._given_ports is None:
            self._ports = Ports(*free_ports(len(dataclasses.fields(Ports))))
        self._progress(f"starting {', '.join(self._parts)} ...")
        for part in self._parts:
            self._launch(part)
        for part in self._parts:
            self._wait(part)

    def _launch(self, part: str) -> None:
        it = self._parts[part]
        data = self._root / "data"
        argv = it.argv(self._programs[it.program], self._configuration, self._more)
        # not the caller's: a proxy variable would send loopback calls elsewhere
        environ = {"PATH": _PATH, "HOME": str(data)} | settings(self._ports, data) | self._environ
        self._children[part] = Child(part, argv, log=self.log(part), environ=environ)

    def _wait(self, part: str) -> None:
        deadline = time.monotonic() + _DEADLINE
        while not self._is_ready(self._parts[part]):
            self.check()
            if time.monotonic() > deadline:
                child = self._children[part]
                raise StackError(
                    f"{part} is not ready after {_DEADLINE:.0f} s. Its log is {child.log}; the end of it:\n"
                    f"{child.last_lines()}"
                )
            time.sleep(_POLL)

    def _is_ready(self, part: Part) -> bool:
        return all(_answers(getattr(self._ports, port), path) for port, path in part.ready)

    def _end(self, part: str, patience: float) -> None:
        if part not in self._children:
            raise StackError(f"{part} is not running.")
        self._children[part].stop(patience=patience)
        del self._children[part]

    def _stop_children(self) -> None:
        for part in reversed(tuple(self._children)):
            self._children[part].stop(patience=PARTS[part].patience)
            del self._children[part]


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _next_steps(stack: TelemetryStack) -> str:
    return f"""
Loki       {stack.loki_url}
Tempo      {stack.tempo_url}
Collector  {stack.otlp_grpc} (gRPC), {stack.otlp_http} (HTTP), {stack.collector_metrics_url}

In another terminal, start the proxy so that it sends what it records here:

  export OTEL_EXPORTER_OTLP_ENDPOINT={stack.otlp_grpc}
  make up

Ctrl-C ends all three."""


@click.command()
@click.option(
    "--configuration",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("collector-config"),
    show_default=True,
    help="Folder with loki.yaml, tempo.yaml and otel-collector.yaml.",
)
@click.option(
    "--collector-configuration",
    "more",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="A file that is merged over otel-collector.yaml, such as one of siem/; may be given several times.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of data and logs.  [default: stack, in the folder of the builds]",
)
@click.option("--keep", is_flag=True, help="Go on with the data of the last time instead of throwing them away.")
@click.option("--default-ports", is_flag=True, help="Loki on 3100, Tempo on 3200, the collector on 4317 and 4318.")
def main(
    configuration: Path, more: tuple[Path, ...], directory: Path | None, *, keep: bool, default_ports: bool
) -> None:
    """Run Loki, Tempo and an OpenTelemetry Collector until Ctrl-C, built from source once."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ours = settings(Ports(), Path())
    stack = TelemetryStack(
        directory or cache_root(os.environ) / "stack",
        configuration,
        progress=click.echo,
        collector_configurations=more,
        environ={name: value for name, value in os.environ.items() if name not in ours},
        ports=Ports() if default_ports else None,
        keep=keep,
    )
    try:
        with stack:
            click.echo(_next_steps(stack))
            while True:
                time.sleep(1.0)
                stack.check()
    except KeyboardInterrupt:
        click.echo("stopped")
    except (BuildError, StackError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
