"""Which trail a command reads, and how it is opened."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kube_audit_proxy.cli.errors import CliError
from kube_audit_proxy.cli.text import visible
from kube_audit_proxy.export.trail import IndexTrail, Trail
from kube_audit_proxy.index.schema import FILE_NAME

INDEX, LOKI = "index", "loki"


@dataclass(frozen=True, slots=True)
class Source:
    """What a command line says of the trail: which, and where."""

    which: str
    data_dir: Path
    loki_url: str | None = None
    tenant: str | None = None


@contextmanager
def opened(source: Source) -> Iterator[Trail]:
    """Open the trail. What Loki does not give, now or later, is a CliError."""
    if source.which == INDEX:
        with IndexTrail(source.data_dir / FILE_NAME) as trail:
            yield trail
        return
    # Imported here: who reads the index does not wait for what speaks HTTP.
    from kube_audit_proxy.loki.client import Loki, LokiError, access  # noqa: PLC0415
    from kube_audit_proxy.loki.trail import LokiTrail  # noqa: PLC0415

    try:
        with LokiTrail(Loki(access(source.loki_url, source.tenant, os.environ))) as trail:
            yield trail
    except LokiError as error:
        raise CliError(f"the trail in Loki cannot be read: {visible(str(error))}", error.hint) from None
