"""The most memory that a process has taken."""

import re
import sys
from pathlib import Path

import torch


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device where there is one, else of this process since it started its program."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil  # which Accelerate needs

        return psutil.Process().memory_info().peak_wset
    status = Path("/proc/self/status")
    # getrusage counts the peak of the process that started this one, too, where that was by vfork, as Python does it.
    if found := status.exists() and re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8")):
        return int(found[1]) * 1024
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
