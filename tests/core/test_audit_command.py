"""Which command a call belongs to."""

import uuid

import pytest

from kube_audit_proxy.audit.command import command_id

SESSION = "5b0efac0-9c8f-4b6f-9a44-38c5f1a1b6a2"
OTHER = "5b0efac0-9c8f-4b6f-9a44-38c5f1a1b6a3"


def test_same_user_and_session_are_one_command() -> None:
    """All calls of one kubectl have one id, on every replica and after every restart: it is this very one."""
    assert command_id("alice", SESSION) == command_id("alice", SESSION) == "cdea1387-479e-8b9b-a9ee-afc03a079ca1"


@pytest.mark.parametrize(
    ("user", "session"),
    [
        ("bob", SESSION),
        ("alice", OTHER),
        ("Alice", SESSION),
        ("", SESSION),
        ("alice ", SESSION),
        ("alic", "e" + SESSION),
    ],
)
def test_others_are_other_commands(user: str, session: str) -> None:
    """Another user's call with a session that was seen elsewhere is a command of its own, as is another session."""
    assert command_id(user, session) != command_id("alice", SESSION)


@pytest.mark.parametrize("user", ["alice", "", "m\xfcller@example.com", "\N{SNOWMAN}" * 300, 'a"b\\c'])
def test_it_is_a_uuid(user: str) -> None:
    """The id is a UUID of version 8 in its usual form, whatever the user is called."""
    found = command_id(user, SESSION)
    parsed = uuid.UUID(found)
    assert str(parsed) == found
    assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)
