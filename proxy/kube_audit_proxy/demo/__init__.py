"""A Kubernetes cluster on loopback, for trying the proxy and for its tests."""
