"""What of an exec's command line is kept out of the record."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote_plus

from kube_audit_proxy.kube.targets import decode_form

REDACTED = "REDACTED"

_NAME = r"(?:password|passwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key)"
_VALUE = r"""("[^"]*"|'[^']*'|[^\s"']\S*)"""

DEFAULT_PATTERNS = (
    rf"(?i){_NAME}[\"']?\s*[=:]\s*{_VALUE}",
    rf"(?i)(?:^|\s)--?[\w-]*{_NAME}\s+{_VALUE}",
    r"(?i)\b(?:bearer|basic)\s+(\S+)",
    r"://[^/\s:@]*:(?!\d+/)(\S+)@",
)
"""Values after a telling name, credentials of an Authorization header, passwords in URLs."""

_TELLING_OPTION = re.compile(r"(?i)^--?[\w-]*(?:password|passwd|secret|token|api-?key|access-?key|private-?key)$")


@dataclass(frozen=True, slots=True)
class Redaction:
    """Replaces, in each argument, what a pattern's first group matches, or the whole match where it has none.

    The argument that follows an option such as `--password` is replaced whole.
    """

    patterns: tuple[re.Pattern[str], ...]

    @classmethod
    def compile(cls, patterns: Iterable[str]) -> "Redaction":
        """Raise `re.error` for a pattern that is none."""
        return cls(tuple(map(re.compile, patterns)))

    def argv(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """The arguments with secrets replaced; without any pattern, the arguments."""
        if not self.patterns:
            return tuple(arguments)
        before = ("", *arguments)
        return tuple(
            REDACTED if _TELLING_OPTION.match(option) else self._text(argument)
            for option, argument in zip(before, arguments, strict=False)
        )

    def _text(self, text: str) -> str:
        for pattern in self.patterns:
            text = pattern.sub(_replace, text)
        return text


def _replace(match: re.Match[str]) -> str:
    if not match.re.groups or match.start(1) < 0:
        return REDACTED
    start, end = match.span(1)
    return match.string[match.start() : start] + REDACTED + match.string[end : match.end()]


def with_arguments(target: str, arguments: Iterable[str]) -> str:
    """A request target with its `command` parameters replaced by those of `arguments`."""
    path, _, query = target.partition("?")
    others = [pair for pair in query.split("&") if pair and decode_form(pair.partition("=")[0]) != "command"]
    return f"{path}?{'&'.join([f'command={quote_plus(argument)}' for argument in arguments] + others)}"
