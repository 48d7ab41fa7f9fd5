"""The options that several commands share."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from kube_audit_proxy.cli.output import note
from kube_audit_proxy.cli.source import INDEX, LOKI, Source
from kube_audit_proxy.cli.text import visible
from kube_audit_proxy.index.filters import OPTIONS, Filters, in_words, parse

DATA_DIR_VARIABLE = "KUBE_AUDIT_PROXY_DATA"

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Asked:
    """The filters of a command line: parsed, and in words for people."""

    filters: Filters
    words: str


def default_data_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the proxy keeps its data unless told otherwise."""
    if named := environment.get(DATA_DIR_VARIABLE):
        return Path(named)
    home = environment.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(home).expanduser() / "kube-audit-proxy"


def data_dir_option(function: Function) -> Function:
    """Add `--data-dir`, as `data_dir: Path`."""
    option = click.option(
        "--data-dir",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        default=default_data_dir,
        help="Where the proxy keeps its data. Default: $KUBE_AUDIT_PROXY_DATA,"
        " or kube-audit-proxy in $XDG_DATA_HOME or ~/.local/share.",
    )
    return option(function)


def trail_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where the trail is; the function gets them as `source: Source`."""

    @wraps(function)
    def with_source(*, from_: str, loki_url: str | None, tenant: str | None, data_dir: Path, **arguments: Any) -> Any:
        for name, value in (("--loki-url", loki_url), ("--tenant", tenant)):
            if value is not None and from_ != LOKI:
                raise click.UsageError(f"{name} is for --from {LOKI}: give that as well.")
        return function(source=Source(from_, data_dir, loki_url, tenant), **arguments)

    decorated: Callable[..., Any] = data_dir_option(with_source)
    for option in reversed((
        click.option(
            "--from",
            "from_",
            type=click.Choice([INDEX, LOKI]),
            default=INDEX,
            show_default=True,
            help="Read the trail beside the proxy, or the one in Loki: of all proxies, and without calls"
            " whose answer has not begun. Without --since, Loki is asked for 90 days.",
        ),
        click.option(
            "--loki-url",
            metavar="URL",
            help="Where Loki is. Default: $LOKI_URL, $LOKI_ADDR. How to get in is said by logcli's variables:"
            " LOKI_BEARER_TOKEN[_FILE] or LOKI_USERNAME and LOKI_PASSWORD, LOKI_CA_CERT_PATH.",
        ),
        click.option("--tenant", metavar="NAME", help="Loki's tenant. Default: $LOKI_ORG_ID."),
    )):  # fmt: skip
        decorated = option(decorated)
    return decorated


def filter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add one option for each filter; the function gets them all as `asked: Asked`."""
    names = {option.name.replace("-", "_"): option.name for option in OPTIONS}

    @wraps(function)
    def with_filters(**arguments: Any) -> Any:
        raw: dict[str, Sequence[str]] = {names[key]: arguments.pop(key) for key in names}
        filters = parse(raw, now=datetime.now(UTC))
        return function(asked=Asked(filters, in_words(raw)), **arguments)

    decorated: Callable[..., Any] = with_filters
    for option in reversed(OPTIONS):
        decorated = click.option(f"--{option.name}", multiple=True, metavar=option.metavar, help=option.help)(decorated)
    return decorated


def limit_option(things: str) -> Callable[[Function], Function]:
    """Add `--limit`, as `limit: int`."""
    return click.option(
        "--limit",
        metavar="N",
        type=click.IntRange(min=0),
        default=100,
        show_default=True,
        help=f"How many {things} to show, the newest; 0 for all.",
    )


def follow_option(text: str) -> Callable[[Function], Function]:
    """Add `--follow`, as `follow: bool`."""
    return click.option("-f", "--follow", is_flag=True, help=text)


def output_option(*formats: str) -> Callable[[Function], Function]:
    """Add `--output`, as `output: str`; the first format is the default."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="Format; json is one object per line.",
    )


def nothing_matches(thing: str, asked: Asked) -> None:
    """Say on standard error that nothing was found, and by which filters."""
    note(f"No {thing} matches: {visible(asked.words)}." if asked.words else f"No {thing} is recorded yet.")
