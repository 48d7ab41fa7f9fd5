"""Renders the dashboards and the alert rules: `python -m dashboards [--export-url URL] [--into FOLDER]`."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from dashboards.render import FOLDER, write
from dashboards.variables import EXPORT_URL


def main() -> None:
    """Write all files and name them."""
    parser = ArgumentParser(prog="python -m dashboards", description="Renders the dashboards and the alert rules.")
    parser.add_argument("--export-url", default=EXPORT_URL, metavar="URL", help="where /export.csv is for a browser")
    parser.add_argument("--into", type=Path, default=FOLDER, metavar="FOLDER", help="default: this package's folder")
    given = parser.parse_args()
    sys.stdout.writelines(f"{path}\n" for path in write(given.into, given.export_url))


if __name__ == "__main__":
    main()
