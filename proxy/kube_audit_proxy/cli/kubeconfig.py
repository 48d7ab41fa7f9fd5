"""`kubeconfig`: a kubeconfig that leads through the proxy."""

import getpass
import re
import sys
import time
from pathlib import Path

import click

from kube_audit_proxy.cli.errors import CliError
from kube_audit_proxy.cli.options import data_dir_option
from kube_audit_proxy.cluster.proxy_kubeconfig import Way, render, write
from kube_audit_proxy.identity.impersonation import ImpersonationError
from kube_audit_proxy.identity.tokens import Grant, issue
from kube_audit_proxy.process.service import read_state

_UNITS = {"m": 60, "h": 3600, "d": 86400}


@click.command()
@click.option("--cluster", metavar="NAME", required=True, help="The cluster, as `up` or `serve` calls it.")
@click.option(
    "--user", metavar="NAME", help="Who will use it: impersonated upstream. Default: you, as the proxy itself."
)
@click.option("--group", "groups", metavar="NAME", multiple=True, help="A group of the user's; may be repeated.")
@click.option(
    "--expires", metavar="TIME", default="30d", show_default=True, help="How long it is good for: 15m, 8h, 30d."
)
@click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
              help="The file to write. Default: standard output.")  # fmt: skip
@data_dir_option
def kubeconfig(
    *, cluster: str, user: str | None, groups: tuple[str, ...], expires: str, output: Path | None, data_dir: Path
) -> None:
    """Make a kubeconfig that leads through the proxy, with a token of its own.

    The proxy keeps only the token's hash. Whoever can write to the data directory can make one.

    \b
    Examples:
      kube-audit-proxy kubeconfig --cluster demo --user jane --group team-shop -o jane.kubeconfig
      kube-audit-proxy kubeconfig --cluster prod-eu --user deploy-bot --expires 8h > bot.kubeconfig
    """  # noqa: D301 - click wants the character, not its escape
    state = read_state(data_dir)
    if state is None:
        raise CliError(
            f"no proxy has been started with {data_dir} yet",
            "start one with `kube-audit-proxy up` first, or name its --data-dir.",
        )
    if cluster not in state["clusters"]:
        raise CliError(f"the proxy serves no cluster {cluster!r}; it serves {', '.join(state['clusters'])}")
    if groups and not user:
        raise CliError("--group needs --user: you yourself act as the proxy's own credential, groups and all")
    known = state["clusters"][cluster]
    grant = Grant(user or getpass.getuser(), groups, (cluster,), bool(user), time.time() + _seconds(expires))
    try:
        token = issue(data_dir / "tokens", grant)
    except ImpersonationError as error:
        raise CliError(str(error)) from error
    way = Way(f"{cluster}-{user}" if user else cluster, cluster, token, known["namespace"])
    content = render(state["url"], state["authority"].encode(), [way])
    if output is None:
        sys.stdout.write(content)
    else:
        write(output, content)
        click.echo(f"{output} is good for {expires}: kubectl --kubeconfig {output} auth whoami", err=True)
    if user and not known["may_impersonate"]:
        click.echo(
            f"warning: when the proxy was started, its credential for {cluster} might not impersonate; calls will be "
            "answered 403 until it is granted the verb `impersonate` on users and groups",
            err=True,
        )


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+)([mhd])", text)
    if match is None or not int(match[1]):
        raise click.BadParameter(f"{text!r} is not a time such as 15m, 8h or 30d", param_hint="--expires")
    return float(int(match[1]) * _UNITS[match[2]])
