"""The program `kube-audit-proxy`, which is also `kubectl audit`: finds the command and runs it."""

import sys
from importlib import import_module
from pathlib import Path

import click

from kube_audit_proxy import __version__
from kube_audit_proxy.cli.errors import reported

# Each command is the function of this name in this module of `cli`, imported only when it is asked for. The text is
# what `--help` of the program lists.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("up", "up", "Start the proxy in front of your clusters, and follow the trail."),
    "serve": ("serve", "serve", "Start the proxy from a configuration file, for servers."),
    "kubeconfig": ("kubeconfig", "kubeconfig", "Make a kubeconfig that leads through the proxy."),
    "log": ("log", "log", "Show API calls: who did what, where and when."),
    "commands": ("commands", "commands", "Show commands, and the API calls each became."),
    "export": ("export", "export", "Write all matching API calls to a file: CSV or JSON lines."),
    "verify": ("verify", "verify", "Prove that no record is missing or altered."),
    "ship": ("ship", "ship", "Show how far shipping to Loki and Tempo has come, or ship again."),
    "index": ("index", "index", "Bring the index up to the journal, or build it again."),
    "completion": ("completion", "completion", "Print the completion script for a shell."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for, and reports expected errors of all of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is no such."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, function, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"kube_audit_proxy.cli.{module}"), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        with reported():
            return super().invoke(ctx)


def program_name() -> str:
    """Return how this program was called: `kubectl audit` where kubectl ran it as its plugin."""
    name = Path(sys.argv[0]).name
    return "kubectl audit" if name in {"kubectl-audit", "kubectl_audit"} else "kube-audit-proxy"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def program() -> None:
    """An audited gateway to Kubernetes: every call is on disk before it reaches the cluster."""


def main() -> None:
    """Run the program."""
    program(prog_name=program_name())
