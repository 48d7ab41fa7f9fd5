"""What the admin listener serves: /metrics, /healthz, /readyz, and with the token /export.csv and /export.jsonl."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore
from urllib.parse import parse_qs

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry
from tornado.web import Application

from kube_audit_proxy.admin import health
from kube_audit_proxy.admin.access import Access
from kube_audit_proxy.admin.answers import Answer, Nothing, log_request
from kube_audit_proxy.admin.download import AT_ONCE, Download, Source
from kube_audit_proxy.admin.export import FORMATS
from kube_audit_proxy.admin.grafana_query import parse
from kube_audit_proxy.admin.lag import lags
from kube_audit_proxy.admin.metrics import ProxyCollector
from kube_audit_proxy.process import status


@dataclass(frozen=True, slots=True)
class Proxy:
    """What the listener has to know of the proxy it tells of.

    `expected` gives the processes that have to live at present; `known` is what `grafana_query.parse` takes.
    """

    data_dir: Path
    journal: Path
    index: Path
    expected: Callable[[], status.Expected]
    known: Mapping[str, Collection[str]]


def make_application(proxy: Proxy, access: Access) -> Application:
    """Make the application, for tornado's HTTPServer."""
    run = status.directory(proxy.data_dir)

    def workers() -> Sequence[str]:
        return proxy.expected().workers

    def processes() -> Sequence[str]:
        expected = proxy.expected()
        return (*expected.workers, *expected.others)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        ProxyCollector(processes, lambda: status.read(run), lambda: lags(proxy.journal, proxy.index), time.time)
    )
    source = Source(
        proxy.index,
        access,
        lambda given, now: parse(given, now=now, known=proxy.known),
        BoundedSemaphore(AT_ONCE),
    )
    return Application(
        [
            (r"/metrics", _Metrics, {"registry": registry}),
            (r"/healthz", _Health, {"judge": health.alive, "run": run, "processes": processes}),
            (r"/readyz", _Health, {"judge": health.ready, "run": run, "processes": workers}),
            *((rf"/export\.{form.ending}", Download, {"source": source, "form": form}) for form in FORMATS),
        ],
        default_handler_class=Nothing,
        log_function=log_request,
    )


class _Metrics(Answer):
    def initialize(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def get(self) -> None:
        """Answer in the format that the client likes best."""
        encode, media_type = choose_encoder(self.request.headers.get("Accept", ""))
        body = await asyncio.get_running_loop().run_in_executor(None, encode, self._registry)
        self.set_header("Content-Type", media_type)
        await self.finish(body)

    head = get


class _Health(Answer):
    def initialize(
        self,
        judge: Callable[[Sequence[str], Mapping[str, status.Snapshot], float], health.Health],
        run: Path,
        processes: Callable[[], Sequence[str]],
    ) -> None:
        self._judge = judge
        self._run = run
        self._processes = processes

    def get(self) -> None:
        """Answer 200 where all is well, and 503 otherwise."""
        found = self._judge(self._processes(), status.read(self._run), time.time())
        verbose = "verbose" in parse_qs(self.request.query, keep_blank_values=True)
        self.set_status(200 if found.good else 503)
        self.finish(found.text(self.request.path.strip("/"), verbose=verbose))

    head = get
