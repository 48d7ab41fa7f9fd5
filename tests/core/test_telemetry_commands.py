"""When a command is over, and what its calls add up to."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from kube_audit_proxy.telemetry.commands import FORGOTTEN_AFTER, Commands
from kube_audit_proxy.telemetry.times import rfc3339

SECOND = 1_000_000_000
BEGIN = 1_795_428_902 * SECOND
IDLE = 5 * SECOND
ID = "0b5c6f0e-6a53-8c1e-9f6a-2f0d9d6c7b8a"


def call(**fields: Any) -> dict[str, Any]:
    """Give the end of a call of the command."""
    return {
        "command_id": ID,
        "user": "alice",
        "access_method": "kubectl",
        "command": "kubectl get",
        "command_source": "header",
        "cluster": "dev",
        "status": 200,
        "decision": "allow",
        **fields,
    }


def run(commands: Commands, start: int, duration: int = SECOND, **fields: Any) -> None:
    """Let a call begin and end."""
    commands.started(ID, BEGIN + start)
    commands.ended(call(**fields), BEGIN + start, BEGIN + start + duration)


def test_over_when_quiet() -> None:
    """A command is over when nothing has come of it for a while, and is told once."""
    commands = Commands()
    run(commands, 0)
    run(commands, 2 * SECOND)
    assert commands.over(BEGIN + 3 * SECOND + IDLE - 1, IDLE) == []
    (found,) = commands.over(BEGIN + 3 * SECOND + IDLE, IDLE)
    assert (found.calls, found.first, found.last) == (2, BEGIN, BEGIN + 3 * SECOND)
    assert commands.over(BEGIN + 20 * SECOND, IDLE) == []


def test_not_over_while_a_call_runs() -> None:
    """`logs -f` may be silent for an hour and is not over."""
    commands = Commands()
    commands.started(ID, BEGIN)
    assert commands.over(BEGIN + 3600 * SECOND, IDLE) == []
    commands.ended(call(), BEGIN, BEGIN + 3600 * SECOND)
    assert [each.calls for each in commands.over(BEGIN + 3605 * SECOND, IDLE)] == [1]


def test_goes_on_after_all() -> None:
    """Kubectl edit reads, waits for a person, and writes: the later record tells all of it."""
    commands = Commands()
    run(commands, 0)
    assert [each.calls for each in commands.over(BEGIN + 10 * SECOND, IDLE)] == [1]
    run(commands, 60 * SECOND, status=409)
    (found,) = commands.over(BEGIN + 80 * SECOND, IDLE)
    assert found.record().items() >= {"calls": 2, "status": 409, "duration_ms": 61_000.0}.items()


def test_the_record() -> None:
    """A record says who ran what, where, since when, how long, and how it went at worst."""
    commands = Commands()
    run(commands, SECOND, cluster="prod", status=201)
    run(commands, 2 * SECOND, status=403, decision="deny", exit_code=3)
    commands.ended(call(command="kubectl first"), BEGIN, BEGIN + SECOND)
    (found,) = commands.over(BEGIN + 60 * SECOND, IDLE)
    assert found.record() == {
        "kind": "command",
        "stageTimestamp": rfc3339(BEGIN + 3 * SECOND),
        "requestReceivedTimestamp": rfc3339(BEGIN),
        "command_id": ID,
        "trace_id": ID.replace("-", ""),
        "user": "alice",
        "access_method": "kubectl",
        "command": "kubectl first",
        "command_source": "header",
        "cluster": "prod",
        "clusters": "prod,dev",
        "calls": 3,
        "denied": 1,
        "status": 403,
        "exit_code": 3,
        "duration_ms": 3000.0,
    }


@pytest.mark.parametrize("when", [0, 1, 2])
def test_known_again_after_a_restart(when: int) -> None:
    """What is kept on disk is enough to go on with, wherever the process was stopped."""
    commands = Commands()
    steps: list[Callable[[Commands], None]] = [
        lambda known: known.started(ID, BEGIN),
        lambda known: known.ended(call(), BEGIN, BEGIN + SECOND),
        lambda known: run(known, 2 * SECOND),
    ]
    for number, step in enumerate(steps):
        step(commands)
        if number == when:
            commands = Commands([orjson.loads(commands.state(ID) or b"")])
    assert [each.calls for each in commands.over(BEGIN + 60 * SECOND, IDLE)] == [2]


def test_told_is_told_after_a_restart() -> None:
    """A command that was told is not told again because the process was started again."""
    commands = Commands()
    run(commands, 0)
    assert commands.over(BEGIN + 60 * SECOND, IDLE)
    state = commands.state(ID)
    assert state is not None
    assert Commands([orjson.loads(state)]).over(BEGIN + 120 * SECOND, IDLE) == []


def test_forgotten_in_the_end() -> None:
    """Memory does not grow with the number of commands there ever were; what is forgotten is to be deleted too."""
    commands = Commands()
    run(commands, 0)
    commands.over(BEGIN + 60 * SECOND, IDLE)
    commands.changed.clear()
    commands.over(BEGIN + SECOND + FORGOTTEN_AFTER, IDLE)
    assert commands.changed == {ID}
    assert commands.state(ID) is None


def test_clock_set_back() -> None:
    """A clock that is set back does not keep commands from being told for as long as it was set back."""
    commands = Commands()
    run(commands, 0)
    commands.over(BEGIN + 60 * SECOND, IDLE)
    hour = 3600 * SECOND
    commands.ended(call(), BEGIN - hour, BEGIN - hour + SECOND)
    commands.over(BEGIN - hour + 2 * SECOND, IDLE)
    commands.ended(call(command_id="another"), BEGIN - hour, BEGIN - hour + SECOND)
    assert [each.command_id for each in commands.over(BEGIN - hour + 20 * SECOND, IDLE)] == ["another"]
