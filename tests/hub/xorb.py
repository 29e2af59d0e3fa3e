"""A xorb: some chunks of files, each packed on its own, one after the other.

chunk  u8 version 0 | u24 packed length | u8 scheme | u24 unpacked length | packed bytes        (little endian)

Chunks are cut by content, about 64 KiB each, so a change in a file changes the chunks around it and no other.
"""

from dataclasses import dataclass
from itertools import pairwise

import lz4.frame

from . import errors

HEADER_SIZE = 8
PLAIN, LZ4, GROUPED_LZ4 = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Xorb:
    """The bytes as they came, and where in them each chunk begins; the last boundary is the end."""

    body: bytes
    boundaries: tuple[int, ...]

    @property
    def num_chunks(self) -> int:
        """How many chunks it holds."""
        return len(self.boundaries) - 1

    def span(self, start: int, end: int) -> tuple[int, int]:
        """First and last byte of the chunks `start <= i < end`; both are included, as in a Range header."""
        return self.boundaries[start], self.boundaries[end] - 1

    def unpacked(self, start: int, end: int) -> bytes:
        """Content of the chunks `start <= i < end`."""
        limits = pairwise(self.boundaries[start : end + 1])
        return b"".join(_unpack(self.body[first:last]) for first, last in limits)


def parse(body: bytes) -> Xorb:
    """Find the chunks, and unpack each once: a xorb that cannot be read is refused when it comes."""
    boundaries = [0]
    while boundaries[-1] < len(body):
        boundaries.append(boundaries[-1] + HEADER_SIZE + _uint24(body, boundaries[-1] + 1))
    xorb = Xorb(body, tuple(boundaries))
    try:
        xorb.unpacked(0, xorb.num_chunks)
    except (RuntimeError, ValueError) as error:
        raise errors.HubError(400, f"The xorb is damaged: {error}") from error
    return xorb


def _uint24(body: bytes, at: int) -> int:
    return int.from_bytes(body[at : at + 3], "little")


def _unpack(chunk: bytes) -> bytes:
    if len(chunk) < HEADER_SIZE:
        raise ValueError(f"a chunk of {len(chunk)} bytes ends in its header")
    version, packed, scheme = chunk[0], chunk[HEADER_SIZE:], chunk[4]
    if version != 0 or len(packed) != _uint24(chunk, 1):
        raise ValueError(f"a chunk of version {version} has {len(packed)} of its {_uint24(chunk, 1)} bytes")
    if scheme not in (PLAIN, LZ4, GROUPED_LZ4):
        raise ValueError(f"unknown compression scheme {scheme}")
    content = packed if scheme == PLAIN else lz4.frame.decompress(packed)
    if len(content) != _uint24(chunk, 5):
        raise ValueError(f"a chunk unpacks to {len(content)} bytes instead of {_uint24(chunk, 5)}")
    return _ungroup(content) if scheme == GROUPED_LZ4 else content


def _ungroup(grouped: bytes) -> bytes:
    """Undo the grouping of every fourth byte, which packs arrays of 32-bit numbers better."""
    content, at = bytearray(len(grouped)), 0
    for phase in range(4):
        size = len(content[phase::4])
        content[phase::4] = grouped[at : at + size]
        at += size
    return bytes(content)
