"""Small version of benchmarks/faults.py: what is killed goes on to the same bits."""

import pytest
from benchmarks.faults import trial


@pytest.mark.slow
def test_what_is_killed_goes_on_to_the_same_bits():
    found = trial(kills=2, workers_killed=1)
    assert found == {"two workers": (1, 1), "killed whole": (2, 2), "worker killed": (1, 1)}
