"""A training step -> progress, a line of the log, or the end of a run that has gone wrong."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udasa.backends import Report
from udasa.errors import DivergedError, UserError
from udasa.recipe import Training
from udasa.train import checkpoints

if TYPE_CHECKING:
    from transformers import TrainerCallback


def first_loss(training: Training) -> float | None:
    """Return the loss where policy and reference are one, so that every log-ratio is 0; None: it hangs on the model."""
    return {
        "sigmoid": math.log(2),  # -log sigmoid(0)
        "cdpo": math.log(2),  # and so however labels are smoothed
        "robust": math.log(2),
        "hinge": 1.0,
        "ipo": 1 / (4 * training.beta**2),
        "sft": None,
    }[training.loss]


def make_watch(stage: str, expected: float | None, start: Path | None, report: Report) -> "TrainerCallback":
    """Return a callback that reports each step, completes checkpoints, and stops a run that has gone wrong.

    Args:
        stage: its name, for errors.
        expected: the loss of the first step, held to within 1e-3 in float32 and 1e-2 else, of itself where it is
            above 1; None: any loss.
        start: the adapter that the stage begins with; None: the base model.
        report: called with 1 after each step, and with the steps that a resumed run need not do again.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        since = 0.0
        tokens_before = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step:
                report(state.global_step)
                self.tokens_before = state.log_history[-1]["num_tokens"]  # TRL counts from 0 in every process
            self.since = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            report(1)
            if state.global_step >= state.max_steps:
                control.should_save = False  # transformers' own last checkpoint; the stage's result is written next

        def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            logs = given["logs"]
            if "loss" not in logs:  # the summary after the last step
                return
            state.log_history[-1]["seconds"] = time.perf_counter() - self.since
            state.log_history[-1]["num_tokens"] += self.tokens_before
            self.since = time.perf_counter()
            for name in ("loss", "grad_norm"):
                if not math.isfinite(logs[name]):
                    raise DivergedError(_not_finite(name, logs[name], stage, state.global_step, args.output_dir, start))
            in_float32 = str(given["model"].dtype) == "torch.float32"
            if expected is not None and state.global_step == 1:
                _check_first(stage, logs["loss"], expected, 1e-3 if in_float32 else 1e-2)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                checkpoints.mark(Path(args.output_dir) / f"checkpoint-{state.global_step}")
            self.since = time.perf_counter()

    return Watch()


def _not_finite(name: str, value: float, stage: str, step: int, folder: str, start: Path | None) -> str:
    good = checkpoints.newest(Path(folder)) or (start and f"the adapter in {start}")
    return (
        f"{name} is {value} at step {step} of stage '{stage}'; it must be finite. The step was not saved; the last "
        f"good checkpoint is {good or 'the base model: no stage is complete'}. "
        "Lower the learning rate, or use another dtype, and train into a new folder."
    )


def _check_first(stage: str, loss: float, expected: float, tolerance: float) -> None:
    tolerance *= max(1.0, expected)
    if abs(loss - expected) > tolerance:
        named = "ln 2 = " if expected == math.log(2) else ""
        raise UserError(
            f"The first loss of stage '{stage}' is {loss:.4f}; expected {named}{expected:.4f} within {tolerance:g}, "
            "for there the policy is its own reference. Likely causes: the reference is another model, or the adapter "
            "is not off in it; policy and reference run in different dtypes, or with dropout; the chat template gives "
            "them different tokens."
        )
