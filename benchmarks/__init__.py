"""How good and how fast nearfield is, against what is known: each module prints one table, bars beside the numbers.

Run one with ``python -m benchmarks.NAME``. A row that misses its bar says "short"; the exit code is 0 either way.
"""
