"""What is asked of the index of trigrams to find a text. Pure.

The answer may be too much: all trigrams of a text can be in words that do not have the text. Who asks looks again.
"""

from collections.abc import Iterable, Sequence

from kube_audit_proxy.index.rows import SEPARATOR

MOST_TERMS = 300
"""Trigrams that a text of one or two characters can begin, and still be worth looking for."""

TERMS = f"SELECT term FROM trigram_terms WHERE term >= ? AND term < ? LIMIT {MOST_TERMS}"  # noqa: S608 - a number

SAMPLE = 100
"""Words, at most, by which it is judged how common trigrams are."""

_RAREST = 4
"""Trigrams that are looked for: all of them together cost more than to look at what has these."""


def searchable(text: str) -> str:
    """Return what is given to the index for a text: it stops at a NUL; and every character is to begin a trigram."""
    return f"{_without_nul(text)}{SEPARATOR}{SEPARATOR}"


def expression(text: str, sample: Sequence[str]) -> str | None:
    """Return what words in which a text is have to match; None for one that is too short to tell.

    `sample` are some of the words that there are.
    """
    text = _without_nul(text)
    if len(text) < 3:
        return None
    found = {text[at : at + 3]: at for at in range(len(text) - 2)}
    rarest = sorted(found, key=lambda term: (sum(term in words for words in sample), found[term]))[:_RAREST]
    return " AND ".join(map(_quoted, sorted(rarest, key=found.__getitem__)))


def terms_expression(terms: Iterable[str]) -> str:
    """Return what words match that have one of these trigrams; "" if there are none."""
    return " OR ".join(map(_quoted, terms))


def _quoted(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'


def _without_nul(text: str) -> str:
    return text.replace("\0", SEPARATOR)
