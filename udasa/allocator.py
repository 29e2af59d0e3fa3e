"""The memory of tensors on a CPU under Linux: pages of 2 MB, and free memory given back before a peak.

Torch takes tensors from glibc, which keeps what is freed, since fetching it again costs a fault for each page of 4 KB.
A training step is at its peak in the loss; what its forward pass left free is a fifth of that, and of no use to the
loss, whose tensors are larger. Huge pages save more faults than giving it back costs. Numbers do not change; the
figures are in docs/performance.md.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_ASKED = "THP_MEM_ALLOC_ENABLE"
"""Torch asks for huge pages, for tensors of 2 MB and more, if this is 1 when it makes its first tensor."""
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""What Linux allows, in brackets: `always [madvise] never`."""


def allow_huge_pages() -> None:
    """Let torch ask for huge pages, unless the environment says otherwise or Linux has none.

    Only a process that has not made a tensor yet is helped, so it is for the command line, before torch is imported.
    """
    if _SETTING.is_file() and "[never]" not in _SETTING.read_text():
        os.environ.setdefault(_ASKED, "1")


def give_back() -> None:
    """Give free memory back to the system, where glibc keeps it."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def give_back_after(module: "nn.Module") -> None:
    """Give free memory back after each forward pass of a module; without huge pages it would cost time, and is not."""
    if os.environ.get(_ASKED) == "1":
        module.register_forward_hook(lambda *_: give_back())
