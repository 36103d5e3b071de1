"""Benchmarks that anyone can run: our broker and mosquitto, side by side in one run. See docs/performance.md."""
