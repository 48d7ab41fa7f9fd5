"""Which command a call belongs to."""

import hashlib
import uuid


def command_id(user: str, session: str) -> str:
    """The id of the command that all calls of `user` with this Kubectl-Session make up.

    The user is part of it: a session id is a client's claim, and one who sends somebody else's changes nothing for
    that somebody. Replicas agree on it without talking to each other.
    """
    digest = bytearray(hashlib.sha256(f"{user}\0{session}".encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80  # version 8 (RFC 9562, 5.8)
    digest[8] = digest[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(digest)))
