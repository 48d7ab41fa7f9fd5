"""The trail read back from Loki: the same questions as of the index, and the same answers."""
