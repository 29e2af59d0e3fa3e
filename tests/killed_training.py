"""A training run that kills itself with SIGKILL at a given place, in a process of its own."""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

SAVE_STEPS = 2


def settings():
    import dataclasses

    from tests.train_data import SETTINGS

    return dataclasses.replace(SETTINGS, save_steps=SAVE_STEPS, device_batch_size=2)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def run(policy, output, cache, place, stage, step):
    """Train, and die in `stage`: before `step` is logged, or in writing its checkpoint."""
    from udasa.backends import ModelSpec
    from udasa.train import references, train_stages

    references.cache_folder = lambda: Path(cache)
    now = []

    @contextmanager
    def progress(name, total):
        now[:] = [name, 0]

        def report(n):
            now[1] += n
            if place == "step" and now == [f"train {stage}", step]:
                die()

        yield report

    if place == "checkpoint":
        from transformers import Trainer

        whole = Trainer._save_rng_state  # after the optimiser's state, before the trainer's

        def save(trainer, folder):
            if now[0] == f"train {stage}" and trainer.state.global_step == step:
                die()
            whole(trainer, folder)

        Trainer._save_rng_state = save
    from tests.train_data import datasets

    train_stages(
        datasets("first", "second", num=24),
        Path(output),
        policy=ModelSpec(model=policy),
        training=settings(),
        progress=progress,
    )
