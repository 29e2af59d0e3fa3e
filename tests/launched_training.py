"""A training run in one of several processes: python -m tests.launched_training MODEL OUTPUT CACHE DEVICE_BATCH_SIZE.

Each process leaves a file in CACHE that names it, once it has trained.
"""

import dataclasses
import os
import sys
from pathlib import Path


def main(model, output, cache, size):
    import torch.distributed

    from tests.train_data import SETTINGS, datasets
    from udasa.backends import ModelSpec
    from udasa.train import references, train_stages

    references.cache_folder = lambda: Path(cache)
    settings = dataclasses.replace(SETTINGS, device_batch_size=int(size), save_steps=2)
    train_stages(datasets("first", "second"), Path(output), policy=ModelSpec(model=model), training=settings)
    together = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    (Path(cache) / f"process-{os.environ['RANK']}-of-{together}").touch()


if __name__ == "__main__":
    main(*sys.argv[1:])
