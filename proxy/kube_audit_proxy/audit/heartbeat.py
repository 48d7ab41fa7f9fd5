"""The record that a writer is there although nobody calls, and how far shipping has come. Pure."""

from dataclasses import dataclass

from kube_audit_proxy.audit.call import members


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How a writer is. `lag_seconds` and `shipped_seq` are None where nothing is known of a shipper."""

    product: str
    calls: int
    refused: int
    journal_bytes: int
    shipped_seq: int | None = None
    lag_seconds: float | None = None
    dead_letters: int | None = None
    ending: bool = False
    """It is the last one: the writer ends in good order."""

    def body(self, now: str) -> bytes:
        """Return the members of its line."""
        known = {
            "kind": "heartbeat",
            "stageTimestamp": now,
            "product": self.product,
            "calls": self.calls,
            "refused": self.refused,
            "journal_bytes": self.journal_bytes,
            "shipped_seq": self.shipped_seq,
            "lag_seconds": self.lag_seconds,
            "dead_letters": self.dead_letters,
            "ending": self.ending or None,
        }
        return members({key: value for key, value in known.items() if value is not None})
