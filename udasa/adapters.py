"""A PEFT adapter, named by its folder or Hub id -> its two files on this machine, and which ones they are."""

import json
from pathlib import Path
from typing import NamedTuple

from udasa.backends import Identity, ModelSpec
from udasa.digests import files_sha256
from udasa.errors import UserError

FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What an adapter is: its settings and its weights. Pickled weights are not loaded."""


class Adapter(NamedTuple):
    """An adapter on this machine."""

    folder: Path
    identity: Identity

    @property
    def rank(self) -> int:
        """The largest rank of its matrices."""
        config = json.loads((self.folder / FILES[0]).read_text(encoding="utf-8"))
        return int(max([config["r"], *config.get("rank_pattern", {}).values()]))


def find_adapter(spec: ModelSpec) -> Adapter | None:
    """Find the adapter of `spec` on this machine, or fetch it from the Hub at its revision; None if it has none.

    Raises:
        UserError: a folder that is no adapter, or a Hub id without a pinned revision.
    """
    if spec.adapter is None:
        return None
    folder = Path(spec.adapter)
    if folder.is_dir() or spec.adapter.count("/") != 1:
        return Adapter(folder, _identity(spec.adapter, None, "local folder", folder))
    if spec.adapter_revision is None:
        raise UserError(
            f"The adapter {spec.adapter} is no folder here, and as a Hub id it has no revision. Pin its commit sha "
            "(adapter_revision), so that the build can be repeated."
        )
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(spec.adapter, revision=spec.adapter_revision, allow_patterns=list(FILES)))
    return Adapter(folder, _identity(spec.adapter, spec.adapter_revision, "Hub", folder))


def _identity(name: str, revision: str | None, origin: str, folder: Path) -> Identity:
    return Identity(model=name, revision=revision, origin=origin, sha256=adapter_digest(folder))


def adapter_digest(folder: Path) -> str:
    """Return one sha256 over an adapter's settings and weights.

    Raises:
        UserError: the folder holds no adapter.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise UserError(f"{folder} is not a PEFT adapter folder: it holds no {' and no '.join(missing)}.")
    return files_sha256(folder / name for name in FILES)
