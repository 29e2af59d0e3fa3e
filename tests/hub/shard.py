"""A shard: which chunks of which xorbs make up which file. Little endian, records of 48 bytes.

header  magic (32) | u64 version | u64 footer size, 0 in an upload
file    hash (32) | u32 flags | u32 number of terms | unused (8)
  each term         xorb (32) | u32 flags | u32 unpacked length | u32 first chunk | u32 chunk after the last
  each if VERIFIED  hash of the term's chunks (32) | unused (16)
  once if DESCRIBED sha256 of the content (32) | unused (16)
bookend ff (32) | unused (16)
...     the xorbs' own chunks; they serve deduplication between users, which this Hub does not offer
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from . import errors

RECORD_SIZE = 48
VERIFIED, DESCRIBED = 1 << 31, 1 << 30
BOOKEND = b"\xff" * 32


@dataclass(frozen=True, slots=True)
class Term:
    """A run of chunks of one xorb."""

    xorb: str
    length: int
    """Bytes, unpacked."""
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class FileRecipe:
    """The terms that make up a file, in order; `sha256` is what the client says that the content hashes to."""

    xet_hash: str
    terms: tuple[Term, ...]
    sha256: str | None


def hash_text(raw: bytes) -> str:
    """A hash as addresses spell it: four 64-bit words, each with its highest digit first."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


def parse(body: bytes) -> list[FileRecipe]:
    """The files of an uploaded shard."""
    try:
        return list(_files(body))
    except struct.error as error:
        raise errors.HubError(400, f"The shard is damaged: {error}") from error


def _files(body: bytes) -> Iterator[FileRecipe]:
    at = RECORD_SIZE
    while True:
        raw, flags, num_terms = struct.unpack_from("<32s2I", body, at)
        at += RECORD_SIZE
        if raw == BOOKEND:
            return
        records = (struct.unpack_from("<32s4I", body, at + i * RECORD_SIZE) for i in range(num_terms))
        terms = tuple(Term(hash_text(xorb), length, start, end) for xorb, _, length, start, end in records)
        at += RECORD_SIZE * num_terms * (2 if flags & VERIFIED else 1)
        sha256 = None
        if flags & DESCRIBED:
            sha256 = hash_text(*struct.unpack_from("<32s", body, at))
            at += RECORD_SIZE
        yield FileRecipe(hash_text(raw), terms, sha256)
