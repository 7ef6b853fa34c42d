"""What the machine has: memory of the device that trains, and what the process holds already."""

from pathlib import Path
from typing import NamedTuple

import psutil
import torch

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


class DeviceMemory(NamedTuple):
    """name: of the device; total, free: bytes; used: bytes that this process holds of it already."""

    name: str
    total: int
    free: int
    used: int


def read_device_memory(device: torch.device) -> DeviceMemory:
    """Returns the memory of a device: of an accelerator its own, else that of the machine or of its container."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(torch.cuda.get_device_name(device), total, free, torch.cuda.memory_reserved(device))
    memory = psutil.virtual_memory()
    used = psutil.Process().memory_info().rss
    total = min(memory.total, *(read_limit(file) or memory.total for file in CGROUP_LIMITS))
    return DeviceMemory("memory", total, min(memory.available, total), used)


def read_limit(file: str) -> int | None:
    """Returns the limit in bytes that a container has; None without one."""
    path = Path(file)
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None
