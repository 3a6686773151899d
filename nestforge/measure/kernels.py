"""Where an engine spends its time, kernel by kernel."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from nestforge.engines.base import Images, Kernel, Session

TIMED_RUNS = 10


def measure_kernels(session: Session, images_nchw: Images) -> list[Kernel]:
    """Return the kernels that take time, `time_ms` being the median of some runs for the whole batch.

    Empty where the session was not opened with `profile`, or the engine does not say.
    """
    times_ms: defaultdict[Kernel, list[float]] = defaultdict(list)
    session.run(images_nchw)  # the first run is slower
    for _ in range(TIMED_RUNS):
        session.run(images_nchw)
        for kernel in session.list_kernels():
            if kernel.time_ms:
                times_ms[replace(kernel, time_ms=None)].append(kernel.time_ms)
    return [replace(kernel, time_ms=float(np.median(values))) for kernel, values in times_ms.items()]
