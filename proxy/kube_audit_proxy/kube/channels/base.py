"""What all observers of a stream have in common."""


class StreamObserver:
    """Reads along with a stream that passes through the gateway, and tells what the audit record wants to know.

    It gets a copy of what each side sends, in any pieces, and holds a bounded part of it. It never raises and never
    changes the stream: bytes that it cannot read make it `broken`, after which it ignores the rest. This class
    observes nothing; each kind of stream overrides what it can tell.
    """

    def client_data(self, data: bytes) -> None:
        """Take bytes that the client sent."""

    def server_data(self, data: bytes) -> None:
        """Take bytes that the server sent."""

    @property
    def wants_client(self) -> bool:
        """Whether any further bytes of the client could tell something; once false, always false."""
        return False

    @property
    def wants_server(self) -> bool:
        """Whether any further bytes of the server could tell something; once false, always false."""
        return False

    @property
    def fault(self) -> str:
        """What is wrong with the bytes of the stream; empty as long as they could be read."""
        return ""

    @property
    def broken(self) -> bool:
        """Whether the stream could not be read to its end."""
        return bool(self.fault)

    @property
    def ended(self) -> bool:
        """Whether the server has told how the command ended, after which it does not matter who hangs up first."""
        return False

    @property
    def exit_code(self) -> int | None:
        """The exit code of the command, if the stream told it."""
        return None

    @property
    def reason(self) -> str:
        """The reason that the server gave for a failure, or the empty string."""
        return ""

    @property
    def message(self) -> str:
        """The message that the server gave for a failure, or the empty string."""
        return ""

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports that were connected to, in the order of their first connection."""
        return ()
