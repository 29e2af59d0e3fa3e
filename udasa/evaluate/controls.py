"""A task and its control over the same items -> `net`: what is left of acc_bytes when the control's is taken off."""

import math
from typing import Any


def subtract_controls(found: dict[str, Any]) -> None:
    """Add the metric `net` to every task whose YAML names a `control` that ran too; items are joined by their ids.

    `found` is what lm-eval's evaluate returned; its samples, results and directions are added to.
    """
    for task, config in found.get("configs", {}).items():
        control = (config.get("metadata") or {}).get("control")
        if control not in found["samples"]:
            continue
        baseline = {sample["doc"]["id"]: sample["acc_bytes"] for sample in found["samples"][control]}
        nets = []
        for sample in found["samples"][task]:
            sample["net"] = sample["acc_bytes"] - baseline[sample["doc"]["id"]]
            sample["metrics"] = [*sample["metrics"], "net"]
            nets.append(sample["net"])
        found["results"][task]["net,none"] = math.fsum(nets) / len(nets)
        found["higher_is_better"][task]["net"] = True
