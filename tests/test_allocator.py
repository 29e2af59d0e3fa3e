"""What free memory is given back, asked of the real C library in processes of their own."""

import os
import subprocess
import sys

import pytest

from udasa import allocator

GIVE_BACK = """
import ctypes
from pathlib import Path
from torch import nn, zeros
from udasa import allocator

glibc = ctypes.CDLL(None)
glibc.malloc.restype, glibc.malloc.argtypes, glibc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
SIZE = 1 << 16  # bytes; such small blocks never get a mapping of their own

def megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

layer = nn.Linear(2, 2)
allocator.give_back_after(layer)
layer(zeros(2))
blocks = [glibc.malloc(SIZE) for _ in range(1600)]
for block in blocks:
    ctypes.memset(block, 1, SIZE)
for block in blocks[:-1]:  # the last one, at the top, holds the others in the heap
    glibc.free(block)
before = megabytes()
layer(zeros(2))
print(round((before - megabytes()) / 50))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize(("asked", "given"), [("1", "2"), ("0", "0"), (None, "0")])
def test_after_a_forward_pass_free_memory_is_given_back_where_pages_are_huge(asked, given):
    """A hundred megabytes."""
    env = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    env |= {} if asked is None else {"THP_MEM_ALLOC_ENABLE": asked}
    done = subprocess.run([sys.executable, "-c", GIVE_BACK], capture_output=True, text=True, env=env)
    assert (done.stdout, done.stderr) == (f"{given}\n", "")


@pytest.mark.parametrize(
    ("setting", "before", "after"),
    [
        ("always [madvise] never\n", None, "1"),
        ("[always] madvise never\n", None, "1"),
        ("always madvise [never]\n", None, None),
        (None, None, None),
        ("always [madvise] never\n", "0", "0"),
    ],
)
def test_huge_pages_are_asked_for_where_there_are_some(tmp_path, monkeypatch, setting, before, after):
    path = tmp_path / "enabled"
    if setting is not None:
        path.write_text(setting)
    monkeypatch.setattr(allocator, "_SETTING", path)
    monkeypatch.setattr(os, "environ", {} if before is None else {"THP_MEM_ALLOC_ENABLE": before})
    allocator.allow_huge_pages()
    assert os.environ.get("THP_MEM_ALLOC_ENABLE") == after


def test_the_command_line_allows_them_before_torch_is_there():
    program = """
import sys
from udasa import allocator
allocator.allow_huge_pages = lambda: print("torch" in sys.modules)
from udasa.cli import main
sys.argv = ["udasa", "where"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith("False\n"), done.stderr
