"""The admin listener: `python -m kube_audit_proxy.process.admin SOCKET...`, started by the supervisor."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from tornado.httpserver import HTTPServer

from kube_audit_proxy.admin.access import TokenError, ensure_token
from kube_audit_proxy.admin.application import Proxy, make_application
from kube_audit_proxy.config import AdminConfig, Config, parse
from kube_audit_proxy.process import status
from kube_audit_proxy.process.child import read_settings, say_ready, set_up_logging, until_told_to_stop
from kube_audit_proxy.telemetry.lines import VERBS
from kube_audit_proxy.tls import server_context

log = logging.getLogger(__name__)

_NICENESS = 5
"""Where processors are short, they are the gateway's first."""

_IDLE_TIMEOUT = 60.0
_MAX_BODY = 1 << 10
"""Bytes. Nobody has to send anything here."""


async def serve(sockets: Sequence[socket.socket], config: Config) -> None:
    """Answer until told to stop; downloads that have not come to their end by then break off. Raises TokenError."""
    run = status.directory(config.data_dir)
    workers = tuple(f"w{number}" for number in range(config.workers))
    at_first = status.Expected(workers, ("indexer", *(["shipper"] if config.telemetry else [])))
    proxy = Proxy(
        data_dir=config.data_dir,
        journal=config.journal,
        index=config.index,
        expected=lambda: status.expected(run) or at_first,
        known={"cluster": [each.name for each in config.clusters], "verb": VERBS},
    )
    admin = config.admin or AdminConfig()
    tls = None
    if admin.tls:
        assert config.certificate is not None and config.key is not None  # noqa: S101, PT018 - the supervisor sets both
        tls = server_context(config.certificate, config.key)
    server = HTTPServer(
        make_application(proxy, ensure_token(admin.token_file, config.data_dir)),
        ssl_options=tls,
        idle_connection_timeout=_IDLE_TIMEOUT,
        max_body_size=_MAX_BODY,
    )
    server.add_sockets(sockets)
    say_ready()
    await until_told_to_stop()
    server.stop()


def main() -> None:
    """Run the listener as its parent says."""
    set_up_logging("admin")
    os.nice(_NICENESS)
    config = parse(read_settings(), Path())
    sockets = [socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:]]
    for each in sockets:
        each.setblocking(False)
    try:
        asyncio.run(serve(sockets, config))
    except TokenError as error:
        log.error("%s", error)  # noqa: TRY400 - it says it all
        sys.exit(1)


if __name__ == "__main__":
    main()
