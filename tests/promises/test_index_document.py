"""docs/record.md is what the program does: its tables are the vocabulary, its example a record, its check works."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kube_audit_proxy.audit.document import CHECK, document
from kube_audit_proxy.audit.fields import FIELDS
from kube_audit_proxy.export.csv import COLUMNS
from kube_audit_proxy.index.rows import parse
from support.journals import JournalWriter, random_calls

RECORD = Path(__file__).parents[2] / "docs" / "record.md"


def test_the_file_is_what_is_rendered() -> None:
    """If this fails: `python -m kube_audit_proxy.audit.document`."""
    assert RECORD.read_text(encoding="utf-8") == document()


def test_every_field_and_column_is_in_it() -> None:
    """No field and no column of the CSV is left out, and every row has all its cells."""
    lines = document().splitlines()
    assert [line for line in lines if line.startswith("| `")] == [line for line in lines if line.count(" | ") == 5][2:]
    for field in FIELDS:
        assert sum(line.startswith(f"| `{field.name}` | ") for line in lines) == 1
    for title, field_name in COLUMNS:
        assert f"| {title} | `{field_name}` |" in lines


def test_the_example_is_a_record() -> None:
    """The example is read as a call, and all its fields are in the vocabulary."""
    found = re.search(r"```json\n(.*?)```", document(), re.DOTALL)
    assert found is not None
    record = json.loads(found[1])
    assert set(record) <= {field.name for field in FIELDS}
    assert parse(json.dumps(record).encode()) is not None


@pytest.mark.skipif(not shutil.which("jq") or not shutil.which("sha256sum"), reason="needs jq and sha256sum")
def test_the_check_by_hand_works(tmp_path: Path) -> None:
    """The shell lines say nothing about a sound chain, over several files, and name the line after a changed one."""
    writer = JournalWriter(tmp_path / "journal", "gateway-1")
    for number, lines in enumerate(random_calls(15)):
        writer.write(*lines)
        if number == 7:
            writer.open_segment()
    with writer.path.open("ab") as newest:
        newest.write(bytes(1000))  # as the segment that is being written has
    assert check(tmp_path) == ""
    first = min(writer.directory.iterdir())
    sound = first.read_bytes().splitlines(keepends=True)
    first.write_bytes(b"".join((*sound[:3], sound[3].replace(b"call", b"cell"), *sound[4:])))
    assert check(tmp_path) == "line 5 does not follow the line before\n"
    first.write_bytes(b"".join((*sound[:3], *sound[4:])))
    assert check(tmp_path) == "line 4 does not follow the line before\n"


def check(data_dir: Path) -> str:
    """Run the lines of the document."""
    environment = {"DATA_DIR": str(data_dir), "WRITER": "gateway-1", "PATH": "/usr/bin:/bin:/usr/local/bin"}
    done = subprocess.run(["sh", "-c", CHECK], env=environment, capture_output=True, check=True, text=True)
    return done.stdout + done.stderr
