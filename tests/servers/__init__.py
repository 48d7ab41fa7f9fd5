"""The real servers and clients that the tests run."""
