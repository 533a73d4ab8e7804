"""Benchmark programs that developers run; not in the wheel."""
