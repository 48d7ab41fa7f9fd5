"""The papers tell the truth: what they link is there."""

import re
from pathlib import Path

import pytest

from kube_audit_proxy.admin.metrics import COUNTERS, GAUGES, HISTOGRAMS

_ROOT = Path(__file__).parents[2]
PAPERS = sorted(_ROOT.glob("docs/*.md"))
_LINK = re.compile(r"\[(`?)([^\]`]+)`?\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(paper: Path) -> None:
    """Each file that a paper links exists; where the link is the name of a test, that test is in it."""
    for code, text, target in _LINK.findall(paper.read_text("utf-8")):
        linked = (paper.parent / target).resolve()
        assert linked.exists(), target
        if code and text.startswith("test_"):
            assert re.search(rf"^def {text}\(", linked.read_text("utf-8"), re.MULTILINE), (text, target)


@pytest.mark.parametrize("name", ["security.md", "operations.md"])
def test_claims_name_their_tests(name: str) -> None:
    """The papers on security and operations rest on tests, not on words."""
    assert len(re.findall(r"\[`test_\w+`\]\(", (_ROOT / "docs" / name).read_text("utf-8"))) >= 20


def test_every_metric_is_explained() -> None:
    """The paper on operations says what each metric tells, in the words of the metric itself."""
    paper = (_ROOT / "docs" / "operations.md").read_text("utf-8")
    assert [each.name for each in (*COUNTERS, *GAUGES, *HISTOGRAMS) if each.help not in paper] == []
