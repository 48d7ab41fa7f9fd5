"""Text from records, made fit for a terminal. Pure.

What stands in a record was chosen by whoever made the call. Nothing of it may act on the terminal of who reads it.
"""

from collections.abc import Mapping
from typing import Any


def visible(text: str) -> str:
    r"""Return the text with all that is not printable written out: `\x1b`, `\n`, `\u202e`.

    That is every control character, escape sequence and line end, and what turns the direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def visible_json(line: str) -> str:
    r"""Return a line of JSON that means the same, with all that is not printable as `\u001b`."""
    if line.isprintable():
        return line
    return "".join(
        character if character.isprintable() else "".join(f"\\u{unit:04x}" for unit in _utf16(character))
        for character in line
    )


def visible_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with all its texts made visible."""
    return {field: _visible_value(value) for field, value in record.items()}


def _visible_value(value: Any) -> Any:
    match value:
        case str():
            return visible(value)
        case list():
            return [_visible_value(item) for item in value]
        case _:
            return value


_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def _escaped(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _utf16(character: str) -> list[int]:
    units = character.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2)]
