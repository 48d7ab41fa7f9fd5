"""What a call costs, measured against peers in the same run: `python -m benchmarks`."""
