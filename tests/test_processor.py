"""What training asks of the processor."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CHILD = """
import resource
import torch
from nearfield.fitting.acceleration import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(2**20) for _ in range(40)]  # 160 MB
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 2**20

with kept_memory():
    found = [faults() for _ in range(4)][-1]
    during = resident()
print(found, during - resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of the GNU allocator")
def test_memory_is_kept_from_step_to_step_and_returned_at_the_end():
    """Otherwise most of the 40960 pages of 160 MB are handed out anew each time."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True, env=environment)
    faults, returned = map(int, child.stdout.split())
    assert faults < 50
    assert returned > 140
