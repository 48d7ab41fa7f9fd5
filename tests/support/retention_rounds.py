"""Does a round of retention for each line on its input, as the indexer does: `retention_rounds.py SETTINGS`.

After each round it prints how many segments there are.
"""

import json
import sys
from contextlib import closing
from pathlib import Path

from kube_audit_proxy.config import parse
from kube_audit_proxy.index.indexer import index_once
from kube_audit_proxy.index.schema import open_for_writing
from kube_audit_proxy.journal.reader import segments
from kube_audit_proxy.process.indexer import make_retention


def tell(what: object) -> None:
    """Print a line, at once."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


config = parse(json.loads(sys.argv[1]), Path())
with closing(open_for_writing(config.index)) as db:
    index_once(db, config.journal)
    steps = make_retention(config).chores(db)
    tell("")
    for _ in sys.stdin:
        for _ in range(10):
            next(steps)
        tell(len(segments(config.journal, "gateway-1")))
