"""How items are delivered to a side that is away, full, or refuses some of them."""

from collections.abc import Callable, Iterator
from threading import Event

import pytest

from kube_audit_proxy.telemetry.delivery import Delivery, Item
from kube_audit_proxy.telemetry.transport import MOST_BYTES, Answer, Verdict

TAKEN, LATER, TOO_MUCH, REFUSED = (Answer(verdict, verdict.name) for verdict in Verdict)


class Side:
    """The other side: answers by a rule, and keeps what it took."""

    where = "there"

    def __init__(self, rule: Callable[[bytes], Answer]) -> None:
        self.rule = rule
        self.taken: list[bytes] = []
        self.asked = 0

    def send(self, request: bytes) -> Answer:
        """Answer."""
        self.asked += 1
        answer = self.rule(request)
        if answer.verdict is Verdict.TAKEN:
            self.taken.append(request)
        return answer

    def close(self) -> None:
        """Have nothing to close."""


def items(*contents: bytes) -> list[Item]:
    """Give items with these contents."""
    return [Item(content, "w0", number, b"line") for number, content in enumerate(contents)]


class Patient(Event):
    """An event that is never set, and does not wait."""

    def wait(self, timeout: float | None = None) -> bool:
        """Return at once."""
        del timeout
        return self.is_set()


def delivery(side: Side, refused: list[tuple[int, str]] | None = None, stop: Event | None = None) -> Delivery:
    """Make a delivery to a side."""
    letters = refused if refused is not None else []
    return Delivery(side, b"".join, lambda item, why: letters.append((item.seq, why)), stop or Patient())


def test_all_at_once() -> None:
    """What fits into a request goes in one."""
    side = Side(lambda _: TAKEN)
    assert delivery(side).deliver(items(b"a", b"b", b"c"))
    assert side.taken == [b"abc"]


def test_again_and_again() -> None:
    """While the other side is away the same request is sent again, for as long as it takes."""
    answers: Iterator[Answer] = iter([LATER] * 100 + [TAKEN])
    side = Side(lambda _: next(answers))
    one = delivery(side)
    assert one.deliver(items(b"a", b"b"))
    assert side.taken == [b"ab"]
    assert (one.tried.delivered, one.tried.failures, one.tried.problem) == (2, {"LATER": 100}, "")


@pytest.mark.parametrize("poison", [b"d", b"ah", b"abcdefgh"])
def test_around_what_is_refused(poison: bytes) -> None:
    """Records that are refused are found among the others, which are all taken, in their order."""
    bad = {bytes((each,)) for each in poison}
    side = Side(lambda request: REFUSED if any(each in request for each in bad) else TAKEN)
    letters: list[tuple[int, str]] = []
    contents = [bytes((each,)) for each in b"abcdefgh"]
    one = delivery(side, letters)
    assert one.deliver(items(*contents))
    assert b"".join(side.taken) == b"".join(each for each in contents if each not in bad)
    assert [contents[seq] for seq, _ in letters] == sorted(bad)
    assert one.tried.delivered == 8 - len(bad)


def test_less_at_a_time() -> None:
    """A limit on what comes at once, which a whole request would meet for ever, is kept to by and by."""
    side = Side(lambda request: TOO_MUCH if len(request) > 3 else TAKEN)
    letters: list[tuple[int, str]] = []
    assert delivery(side, letters).deliver(items(*[bytes((each,)) for each in b"abcdefgh"]))
    assert b"".join(side.taken) == b"abcdefgh"
    assert not letters


def test_stopped_in_the_middle() -> None:
    """Told to stop while the other side is away, it gives up, and says that not all is delivered."""
    stop = Event()
    stop.set()
    side = Side(lambda _: LATER)
    assert not delivery(side, stop=stop).deliver(items(b"a"))
    assert side.asked == 1


def test_no_request_is_too_large() -> None:
    """Requests keep below what a server takes, unless one record is larger by itself."""
    side = Side(lambda _: TAKEN)
    large = bytes(MOST_BYTES // 3)
    assert delivery(side).deliver(items(*[large] * 8, bytes(MOST_BYTES + 1), b"x"))
    assert all(len(each) <= MOST_BYTES for each in side.taken[:-2])
    assert sum(map(len, side.taken)) == 8 * len(large) + MOST_BYTES + 2
