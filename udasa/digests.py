"""What a value or a file is known by: the same on every machine and in every process."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, as hex; it is read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(paths: Iterable[Path]) -> str:
    """Return one sha256 over files, as hex: of a line `name:sha256` each, in this order."""
    return hashlib.sha256("".join(f"{path.name}:{file_sha256(path)}\n" for path in paths).encode()).hexdigest()


def stable_hash(*parts: object) -> int:
    """Return 63 bits of SHA-256 over the parts: the same on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
