"""The one place where expected errors become what a person reads: `error: ...`, then a hint, on standard error."""

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from kube_audit_proxy.cli.text import visible

TROUBLE, USAGE = 1, 2
CLOSED_PIPE, INTERRUPTED = 128 + 13, 128 + 2  # as shells report SIGPIPE and SIGINT


class CliError(click.ClickException):
    """An expected error: what is wrong, what to do about it, and the exit code."""

    def __init__(self, message: str, hint: str = "", exit_code: int = TROUBLE) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code  # type: ignore[misc] # click declares it of the class and reads it of the object

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the error and the hint."""
        message = "\n".join(map(visible, self.message.split("\n")))  # it may quote a file, or another program
        click.echo(f"error: {message}", file=file, err=True)
        if self.hint:
            click.echo(f"hint: {self.hint}", file=file, err=True)


@contextmanager
def reported() -> Iterator[None]:
    """Turn the errors that are to be expected within into CliError or a quiet end."""
    # Imported here: `--help` and `--version` need neither.
    from kube_audit_proxy.index.filters import FilterError  # noqa: PLC0415
    from kube_audit_proxy.index.schema import NoIndex  # noqa: PLC0415

    try:
        yield
        sys.stdout.flush()
    except FilterError as error:
        raise CliError(str(error), exit_code=USAGE) from None
    except NoIndex as error:
        raise CliError(
            f"no audit trail to read: {error}",
            "start the proxy with `kube-audit-proxy up` first, or name its --data-dir.",
        ) from None
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CLOSED_PIPE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except sqlite3.DatabaseError as error:
        raise CliError(
            f"the index cannot be read: {error}",
            "it can be built again from the journal: `kube-audit-proxy index --rebuild`.",
        ) from None
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None
