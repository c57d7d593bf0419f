"""How much energy the GPU of this process has used, where its driver tells (NVML, by the package nvidia-ml-py).

In: nothing; the first GPU that CUDA_VISIBLE_DEVICES leaves visible is asked. Out: joules since the driver was loaded,
None where there is no GPU, no NVML or no counter (before Volta). It counts all work on that GPU.
"""

from __future__ import annotations

import os


def energy_joules() -> float | None:
    """Return the joules used so far; differences of two readings are what lay between them."""
    try:
        import pynvml
    except ImportError:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return None
    first = (visible or "0").split(",")[0].strip()
    try:
        pynvml.nvmlInit()
        try:
            by_name = pynvml.nvmlDeviceGetHandleByUUID
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(first)) if first.isdigit() else by_name(first)
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
