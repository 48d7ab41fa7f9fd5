"""`completion`: prints what makes a shell complete the program's commands and options."""

from pathlib import Path

import click
from click.shell_completion import get_completion_class

from kube_audit_proxy.cli.main import program

PROGRAM = "kube-audit-proxy"

INSTALL = {
    "bash": f"{PROGRAM} completion bash > ~/.local/share/bash-completion/completions/{PROGRAM}",
    "zsh": f'{PROGRAM} completion zsh > "${{fpath[1]}}/_{PROGRAM}"',
    "fish": f"{PROGRAM} completion fish > ~/.config/fish/completions/{PROGRAM}.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(INSTALL)))
def completion(shell: str) -> None:
    """Print the completion script for SHELL. Its first comment says how to install it.

    \b
    Examples:
      source <(kube-audit-proxy completion bash)
      kube-audit-proxy completion fish | source
    """  # noqa: D301 - click wants the character, not its escape
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"there is no completion for {shell}")
    variable = f"_{Path(PROGRAM).name.replace('-', '_').upper()}_COMPLETE"
    lines = found(program, {}, PROGRAM, variable).source().strip().splitlines()
    # zsh looks for #compdef on the first line.
    at = 1 if lines[0].startswith("#compdef") else 0
    click.echo("\n".join((*lines[:at], f"# To install: {INSTALL[shell]}", *lines[at:])))
