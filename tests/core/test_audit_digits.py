"""Numbers as they stand in records."""

import json

from hypothesis import given
from hypothesis import strategies as st

from kube_audit_proxy.audit.digits import THREE_DIGITS, thousandths


@given(st.floats(min_value=-1e9, max_value=1e9))
def test_three_decimals(value: float) -> None:
    """A number stands there with three decimals, is valid JSON, and is off by no more than half a thousandth."""
    text = thousandths(value)
    assert len(text.partition(".")[2]) == 3
    assert abs(json.loads(text) - value) <= 0.000501


def test_every_number_has_three_digits() -> None:
    """The table has what formatting would give."""
    assert [f"{number:03d}" for number in range(1000)] == list(THREE_DIGITS)
