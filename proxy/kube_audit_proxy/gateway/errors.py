"""Why a call does not run its course: by whose doing."""

from kube_audit_proxy.kube.status import Status


class Refusal(Exception):  # noqa: N818 - a decision, not an accident
    """The proxy will not pass the call on: `status` says why, in words meant for the person who made it."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


class ClientGoneError(Exception):
    """The client closed its connection before its answer was complete."""


class UpstreamError(Exception):
    """The API server could not be reached, or ended its answer too soon. The text is fit for the user."""


class UpstreamConnectError(UpstreamError):
    """No connection to the API server: nothing of the call has been sent."""


class UpstreamIdleClosedError(UpstreamError):
    """A kept connection was closed before the first byte of the answer: the call may be lost or may have run."""


class UpstreamTimeoutError(UpstreamError):
    """The API server did not begin to answer in time."""
