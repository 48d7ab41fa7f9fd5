"""`python -m kube_audit_proxy`: the program."""

from kube_audit_proxy.cli.main import main

if __name__ == "__main__":
    main()
