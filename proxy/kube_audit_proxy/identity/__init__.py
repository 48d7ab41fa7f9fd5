"""Who: credentials to a user, by a union of authenticators. A step that succeeds or ends the call."""
