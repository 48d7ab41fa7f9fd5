"""Which lines of a batch need not be read, because others repeat all that they say. Pure.

The end of a call repeats everything of its start. Where both are at hand, as they are of nearly every call, the start
says nothing that the end does not; to see that, no JSON has to be read. What is not written byte for byte as our
writers do is read.
"""

from collections.abc import Sequence

from kube_audit_proxy.journal.line import head

_START = b'"kind":"call","stage":"RequestReceived","stageTimestamp":"'
_ENDS = (
    b'"kind":"call","stage":"ResponseComplete","stageTimestamp":"',
    b'"kind":"call","stage":"Panic","stageTimestamp":"',
)
_PREVIOUS = b',"prev":"'
_CALL = b'","auditID":"'
_RECEIVED = b'","requestReceivedTimestamp":"'
_STAMP, _UUID, _HASH = 27, 36, 64


def repeated(writer: str, lines: Sequence[bytes]) -> dict[int, int]:
    """Return the positions of ends, each with that of the start all of whose members are, byte for byte, in the end."""
    begin = head(writer)
    starts: dict[bytes, tuple[int, bytes]] = {}
    found: dict[int, int] = {}
    for position, line in enumerate(lines):
        kind = line.find(b'"kind":"call"', 0, 400)
        if line.startswith(_START, kind):
            call = kind + len(_START) + _STAMP
            if _is_start(begin, line, kind, call):
                starts[line[call : call + len(_CALL) + _UUID]] = position, line[call:-1]
        elif line.startswith(_ENDS, kind):
            call = line.find(_CALL, kind)
            known = starts.pop(line[call : call + len(_CALL) + _UUID], None)
            # A quote after the comma: what was repeated has ended where a member ends.
            if known is not None and line.startswith(known[1] + b',"', call):
                found[position] = known[0]
    return found


def _is_start(begin: bytes, line: bytes, kind: int, call: int) -> bool:
    """Tell whether all before and around the members of a start is as it has to be."""
    previous = kind - _HASH - 2
    received = call + len(_CALL) + _UUID
    stamp = received + len(_RECEIVED)
    return (
        line.startswith(begin)
        and line[len(begin) : previous - len(_PREVIOUS)].isdigit()
        and line.startswith(_PREVIOUS, previous - len(_PREVIOUS))
        and line[previous : kind - 2].isalnum()
        and line.startswith(b'",', kind - 2)
        and line.startswith(_CALL, call)
        and line.startswith(_RECEIVED, received)
        # With a time of its own it would say one thing that its end does not.
        and line[stamp : stamp + _STAMP + 1] == line[call - _STAMP : call + 1]
        and line.endswith(b"}")
    )
