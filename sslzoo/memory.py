"""Peak memory of a process."""

import re
import sys
from pathlib import Path

import torch


def peak_memory(device: torch.device) -> int:
    """Bytes on the GPU, or on the host if there is none, since the start of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil  # which Accelerate needs

        return psutil.Process().memory_info().peak_wset
    status = Path("/proc/self/status")
    # Unlike VmHWM, getrusage includes the peak of the parent if this process was started by vfork, as Python's subprocess does.
    if found := status.exists() and re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8")):
        return int(found[1]) * 1024
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
