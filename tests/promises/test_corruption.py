"""Whatever happens to the files of a trail, `verify` names the place, and a start destroys no evidence of it."""

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from journal_rig import NOW, end, records, report, run, stages, start, write_journal, writing

from kube_audit_proxy.journal.line import LineError, parse
from kube_audit_proxy.journal.reader import segments
from kube_audit_proxy.journal.recovery import recover
from support.proxies import wait_until
from support.serving import kubeconfig, logged, serving, verify
from support.witness import until_served, witness

_SEED = 20261127


def _flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each byte changed in one bit, a random one; and of every seventh byte, every bit."""
    choose = random.Random(_SEED)  # noqa: S311 - the same each time is what is wanted
    for at in range(len(data)):
        for bit in range(8) if at % 7 == 0 else (choose.randrange(8),):
            yield at, data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def _line_of(data: bytes, at: int) -> int:
    """The number of the line in which a byte is, its newline included."""
    return data.count(b"\n", 0, at) + 1


def test_no_flipped_bit_goes_unseen(tmp_path: Path) -> None:
    """Wherever a bit of a segment is flipped, `verify` fails and names the segment and the line."""
    first, second, third = write_journal(tmp_path, 1, 4, 1)
    data = second.read_bytes()
    count = 0
    for at, flipped in _flips(data):
        second.write_bytes(flipped)
        finding = report(tmp_path).finding
        assert finding is not None, (at, flipped[at])
        line = _line_of(data, at)
        # A changed `prev` says that the line before is another one: which of the two was changed, nobody can tell.
        places = {(second.name, line), (second.name, line - 1) if line > 1 else (first.name, 1)}
        if data[at : at + 1] == b"\n":
            places.add((second.name, line + 1) if line < 4 else (third.name, 1))
        assert (finding.segment, finding.line) in places, (at, flipped[at], finding)
        assert f"at {finding.segment}, line {finding.line} " in str(finding)
        count += 1
    assert count > len(data)


def test_no_flipped_bit_of_the_last_line_goes_unseen(tmp_path: Path) -> None:
    """The last line has none after it that tells its hash; the index does, and `verify` asks it."""
    (path,) = write_journal(tmp_path, 4)
    data = path.read_bytes()
    whole = report(tmp_path)
    heads = {"w0": (whole.last_seq, whole.last_hash)}
    last = data.rindex(b"\n", 0, -1) + 1
    for at, flipped in _flips(data):
        if at < last:
            continue
        path.write_bytes(flipped)
        finding = report(tmp_path, heads).finding
        assert finding is not None, (at, flipped[at])
        assert (finding.segment, finding.line) in {(path.name, 3), (path.name, 4)}, (at, flipped[at], finding)


def test_no_cut_goes_unseen(tmp_path: Path) -> None:
    """Wherever a segment in the middle ends too soon, by a byte or nearly all of it, the place is named."""
    _, second, third = write_journal(tmp_path, 1, 4, 1)
    data = second.read_bytes()
    for size in range(len(data)):
        second.write_bytes(data[:size])
        finding = report(tmp_path).finding
        assert finding is not None, size
        whole = data[:size].count(b"\n")
        torn = size > 0 and data[size - 1] != ord("\n")
        place = (second.name, whole + 1) if torn else (third.name, 1)
        assert (finding.segment, finding.line) == place, (size, finding)


def _swap(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(range(4), 2)))
def test_two_swapped_segments_are_named(tmp_path: Path, one: int, other: int) -> None:
    """Files that were given each other's names are found at the first of them."""
    paths = write_journal(tmp_path, 3, 3, 3, 3)
    _swap(paths[one], paths[other])
    finding = report(tmp_path).finding
    assert finding is not None
    assert (finding.segment, finding.line) == (paths[one].name, 1)


@pytest.mark.parametrize("gone", range(4))
def test_a_deleted_segment_is_named(tmp_path: Path, gone: int) -> None:
    """A gap in the middle is found at the line after it; the last segment by who knew it; the first is told of."""
    paths = write_journal(tmp_path, 3, 3, 3, 3)
    whole = report(tmp_path)
    paths[gone].unlink()
    told = report(tmp_path, {"w0": (whole.last_seq, whole.last_hash)})
    if gone == 0:
        # It may have been put into an archive: retention notes what it deletes, and here there is no note.
        assert "lines before 4 are no longer kept, and 3 of them were not deleted by retention" in told.remarks
        return
    assert told.finding is not None
    place = (paths[gone + 1].name, 1) if gone < 3 else (paths[2].name, 4)
    assert (told.finding.segment, told.finding.line, told.finding.seq) == (*place, gone * 3 + 1)


def _evidence(journal: Path, before: bytes, path: Path) -> bool:
    """Whether every byte of a file is still there: in it, or in what was set aside."""
    aside = path.with_name(f"{path.name}.torn")
    return path.read_bytes() + (aside.read_bytes() if aside.exists() else b"") == before and journal.is_dir()


def test_a_start_destroys_no_evidence(tmp_path: Path) -> None:
    """Whichever byte of the newest segment is wrong at a start: it stays or is set aside, and the chain goes on."""
    template = tmp_path / "template"
    (path,) = write_journal(template, 4)
    data = path.read_bytes()
    last = data.rindex(b"\n", 0, -1) + 1
    for at, flipped in itertools.islice(_flips(data), 0, None, 3):
        journal = tmp_path / f"{at}-{flipped[at]}"
        (copy,) = write_journal(journal, 4)
        copy.write_bytes(flipped)
        shown = report(journal).finding
        found = recover(journal, "w0", clock=lambda: NOW, product="x")
        assert _evidence(journal, flipped, copy), (at, flipped[at])
        after = report(journal).finding
        if at < last - 1 and _is_line(flipped):
            assert after == shown is not None, (at, flipped[at])
            assert found.broken is not None
        shutil.rmtree(journal)


def _is_line(data: bytes) -> bool:
    """Whether the last line is one, so that nothing is cut off."""
    try:
        parse(data.splitlines()[-1])
    except LineError:
        return False
    return data.endswith(b"\n")


def test_what_is_cut_off_is_kept(tmp_path: Path) -> None:
    """A last line that is none any more may be a record that somebody spoiled: each one is kept in a file beside."""
    (path,) = write_journal(tmp_path, 4)
    whole = path.read_bytes()
    spoiled = whole[:-20] + b"\xff" + whole[-19:]
    path.write_bytes(spoiled)
    found = recover(tmp_path, "w0", clock=lambda: NOW, product="x")
    aside = path.with_name(f"{path.name}.torn")
    assert path.read_bytes() + aside.read_bytes() == spoiled
    assert found.torn == aside.stat().st_size
    assert segments(tmp_path, "w0")[0] == path

    async def test() -> None:
        async with writing(tmp_path) as writer:
            await writer.commit(start("new"), "new")
            writer.append(end("new"), "new")

    run(test)
    assert report(tmp_path).finding is None
    assert stages(tmp_path)[-2:] == [("new", "RequestReceived"), ("new", "ResponseComplete")]
    assert len(records(tmp_path)) == report(tmp_path).lines


_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a changed value": lambda line: line.replace(b"alice", b"mally"),
    "garbage": lambda line: b"\x00\xff" * (len(line) // 2) + b"\n",
}


@pytest.mark.parametrize("damage", list(_DAMAGE.values()), ids=list(_DAMAGE))
def test_the_program_starts_upon_a_damaged_trail(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """It serves, says what is wrong and where, changes nothing of it, and `verify` goes on to fail at that place."""
    journal = tmp_path / "data" / "journal"
    (path,) = write_journal(journal, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join((*lines[:2], damage(lines[2]), *lines[3:])))
    damaged, shown = path.read_bytes(), report(journal).finding
    assert shown is not None
    with witness() as upstream:
        told = kubeconfig(tmp_path / "upstream", {"plain": (upstream.server.url, b"")})
        with serving(tmp_path, told) as proxy:
            assert "w0: the journal is BROKEN at seq 3: " in proxy.log.read_text()
            until_served(proxy)
            new = set(upstream.seen())
            wait_until(lambda: new <= logged(proxy.data_dir), "the index to have the new call")
    assert path.read_bytes() == damaged
    assert report(journal).finding == shown
    done = verify(proxy.data_dir)
    assert (done.returncode, f"BROKEN: {shown}" in done.stdout) == (1, True)
