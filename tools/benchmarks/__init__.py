"""Makes docs/benchmarks.md of what tools/bench.sh measured."""
