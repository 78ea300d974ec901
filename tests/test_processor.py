"""What training asks of the processor."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CHILD = """
import resource, sys
import torch
from nearfield.fitting.processor import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(2**20) for _ in range(10)]  # 40 MB
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_memory()
print([faults() for _ in range(4)][-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of the GNU allocator")
def test_memory_is_kept_from_step_to_step():
    """Pages of 40 MB are handed out anew each time without the precaution, and almost none with it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    children = [
        subprocess.run([sys.executable, "-c", CHILD, wish], capture_output=True, text=True, check=True, env=environment)
        for wish in ("keep", "return")
    ]
    kept, anew = (int(child.stdout) for child in children)
    assert kept < 50
    assert anew > 1000
