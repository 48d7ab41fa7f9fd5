"""Where the frames of a websocket end, in bytes that come whole or in any pieces."""

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from kube_audit_proxy.kube.channels.frames import FrameCutter

_MASK = b"\x12\x34\x56\x78"
_SIZES = st.sampled_from((0, 1, 2, 125, 126, 127, 300, 65_535, 65_536, 70_000))


def _frame(size: int, *, masked: bool) -> bytes:
    flag = 0x80 if masked else 0
    if size < 126:
        length = bytes([flag | size])
    elif size < 1 << 16:
        length = bytes([flag | 126]) + size.to_bytes(2)
    else:
        length = bytes([flag | 127]) + size.to_bytes(8)
    return b"\x82" + length + (_MASK if masked else b"") + b"\xff" * size


_FRAMES = st.lists(st.builds(_frame, _SIZES, masked=st.booleans()), min_size=1, max_size=6)


@given(_FRAMES)
def test_each_frame_is_a_piece(frames: list[bytes]) -> None:
    """Frames that come together are told apart."""
    assert FrameCutter().cut(b"".join(frames)) == frames


@given(_FRAMES, st.data())
def test_pieces_end_with_frames_however_they_come(frames: list[bytes], data: st.DataObject) -> None:
    """No piece goes beyond the end of a frame, and none of the bytes is lost or held back."""
    wire = b"".join(frames)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(wire) - 1)), max_size=8)))
    cutter = FrameCutter()
    pieces: list[bytes] = []
    for start, end in pairwise([0, *cuts, len(wire)]):
        cut = cutter.cut(wire[start:end])
        assert b"".join(cut) == wire[start:end]
        pieces += cut
    ends = set(accumulate(map(len, pieces)))
    assert set(accumulate(map(len, frames))) <= ends
    assert ends <= set(accumulate(map(len, frames))) | set(cuts)


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_no_bytes_are_lost_of_what_is_no_websocket(parts: list[bytes]) -> None:
    """Whatever comes goes on as it came."""
    cutter = FrameCutter()
    assert all(b"".join(cutter.cut(part)) == part for part in parts)
