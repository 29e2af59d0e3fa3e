"""A training run for `accelerate launch`: python -m tests.launched_training MODEL OUTPUT CACHE DEVICE_BATCH_SIZE."""

import dataclasses
import sys
from pathlib import Path


def main(model, output, cache, size):
    from tests.train_data import SETTINGS, datasets
    from udasa.backends import ModelSpec
    from udasa.train import references, train_stages

    references.cache_folder = lambda: Path(cache)
    settings = dataclasses.replace(SETTINGS, device_batch_size=int(size), save_steps=2)
    train_stages(datasets("first", "second"), Path(output), policy=ModelSpec(model=model), training=settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
