"""The telemetry servers get the settings that their configuration files name."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from kube_audit_proxy.demo.build import MODULES
from kube_audit_proxy.demo.telemetry import PARTS, Ports, settings

CONFIGURATION = Path(__file__).parents[2] / "collector-config"
_VARIABLE = re.compile(r"\$\{(?:env:)?(\w+):-([^}]*)\}")
_ROW = re.compile(r"^# ([A-Z][A-Z_]+)  +(\S+)", re.MULTILINE)


def _used(part: str) -> dict[str, str]:
    return dict(_VARIABLE.findall((CONFIGURATION / PARTS[part].file).read_text("utf-8")))


@pytest.mark.parametrize("part", PARTS)
def test_every_variable_is_in_the_table_with_its_default(part: str) -> None:
    """The table at the top of a configuration file is complete and true."""
    assert dict(_ROW.findall((CONFIGURATION / PARTS[part].file).read_text("utf-8"))) == _used(part)


def test_every_setting_is_a_variable_of_a_file() -> None:
    """No setting is misspelt: some file expands it."""
    used = {name for part in PARTS for name in _used(part)}
    assert set(settings(Ports(), Path("/data"))) <= used


def test_default_ports_are_those_of_the_files() -> None:
    """A stack on the default ports is where the files say that it is, and no two servers share a port."""
    ours = settings(Ports(), Path("/data"))
    theirs = {name: value for part in PARTS for name, value in _used(part).items()}
    assert {name for name in ours if ours[name] != theirs[name]} == {"LOKI_DATA", "TEMPO_DATA", "OTELCOL_DATA"}
    assert len(set(dataclasses.astuple(Ports()))) == len(dataclasses.fields(Ports))


@pytest.mark.parametrize("part", PARTS)
def test_every_part_can_be_built(part: str) -> None:
    """Each part is a module that builds the part's program."""
    assert PARTS[part].program in MODULES[part].packages


def test_siem_files_are_merged_over_the_collectors_own() -> None:
    """More files follow the collector's own on its command line; Loki gets none."""
    own, more = Path("/c"), [Path("/siem/a.yaml")]
    assert PARTS["collector"].argv(Path("/otelcol"), own, more) == [
        "/otelcol",
        "--config=/c/otel-collector.yaml",
        "--config=/siem/a.yaml",
    ]
    assert PARTS["loki"].argv(Path("/loki"), own, more) == [
        "/loki",
        "-config.file=/c/loki.yaml",
        "-config.expand-env=true",
    ]
