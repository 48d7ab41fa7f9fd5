"""`kubectl_complete-audit`: what kubectl runs to complete `kubectl audit ...` (kubectl 1.26 and newer).

It is given the words so far and prints a candidate a line, with its description after a tab, then a directive
(kubernetes/kubectl pkg/cmd/plugin/plugin_completion.go, in cobra's format).
"""

import sys

from click.shell_completion import ShellComplete

from kube_audit_proxy.cli.main import program

NO_FILES = ":4"


def main() -> None:
    """Print the candidates for the words on the command line, of which the last is not complete."""
    *words, incomplete = sys.argv[1:] or [""]
    completions = ShellComplete(program, {}, "kubectl audit", "").get_completions(words, incomplete)
    for item in completions:
        if item.type == "plain":
            print(f"{item.value}\t{item.help}" if item.help else item.value)
    print(":0" if any(item.type != "plain" for item in completions) else NO_FILES)
