"""profile.json of a run: what its parts took and how much memory they needed."""

from __future__ import annotations

from typing import Any

from limbeck.runs.run_costs import RunCosts
from limbeck.system.background_writer import BackgroundWriter
from limbeck.system.environment import peak_bytes
from limbeck.training.trainer import Run


def profile_content(
    run: Run, costs: RunCosts, image_every: int, writer: BackgroundWriter
) -> dict[str, Any]:
    """Content of profile.json.

    Seconds and operations are of the whole run, operations extrapolated from one step.
    Bytes are the peak of each part of one step beyond what stays allocated.

    Args:
        run: the run.
        costs: its costs in all sessions.
        image_every: steps between recorded images.
        writer: has written its files in the background.
    """
    profile, steps = run.profile, run.experiment.steps
    num_images = steps // image_every + (steps % image_every > 0)
    repeats = {"images": num_images}
    peak = peak_bytes(run.prior.device)
    if "peak_device_bytes" in peak:
        peak["peak_device_bytes"] = max(peak["peak_device_bytes"], profile.peak_device_bytes)
    return {
        "seconds": {part: round(value, 3) for part, value in profile.seconds.items()},
        "elapsed": round(costs.elapsed, 3),
        "cpu_seconds": round(costs.cpu_seconds, 3),
        "evaluations": costs.rows,
        "flops": {part: n * repeats.get(part, steps) for part, n in profile.flops.items()},
        "bytes": profile.bytes,
        "background": {
            "seconds": round(writer.busy_seconds, 3),
            "blocked": round(writer.blocked_seconds, 3),
        },
        **peak,
    }
