"""Memory of a process: its peak, and what it keeps for reuse."""

import ctypes
import re
import sys
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt


def keep_freed_memory() -> None:
    """Lets glibc keep up to 64 MiB that were freed, and blocks of up to 32 MiB, for the next tensors; does nothing with another C library.

    By default it returns much of what a layer computed to the system, which has to clear it for the next layer. These are the values
    that its thresholds reach on their own once large blocks have been freed.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_TRIM_THRESHOLD, 2**26)
        library.mallopt(_MMAP_THRESHOLD, 2**25)


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
