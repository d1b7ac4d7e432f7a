"""Speed beside the peer, in one run: ``python -m benchmarks`` (all), ``python -m benchmarks NAME ...`` (some)."""
