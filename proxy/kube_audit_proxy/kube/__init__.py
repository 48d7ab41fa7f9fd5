"""What requests, answers and streams of Kubernetes mean. Pure functions and readers of bytes, without any I/O."""
