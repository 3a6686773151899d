"""A description of this machine: CPU, instruction sets, and the cores that this process may use."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_NOTED_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")
_DOT_PRODUCT = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The CPU as the system describes it; `flags` lists only those that matter for inference."""

    cpu: str
    architecture: str
    flags: tuple[str, ...]
    available_cores: int  # affinity and cgroup quota respected
    system: str

    @property
    def has_int8_dot_product(self) -> bool:
        """True if int8 products are summed in 32 bits. False if u8 x s8 pairs saturate at 16 bits, or if unknown."""
        return bool(_DOT_PRODUCT & set(self.flags)) or (self.architecture == "arm64" and self.system == "Darwin")


def read_machine() -> Machine:
    """Describe this machine."""
    info = _read_cpuinfo()
    present = set(info.get("flags", info.get("Features", "")).split())
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        flags=tuple(flag for flag in _NOTED_FLAGS if flag in present),
        available_cores=count_available_cores(),
        system=platform.system(),
    )


def count_available_cores() -> int:
    """Return how many whole cores this process may use, by affinity, cgroup quota and the machine's own cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = read_cgroup_quota()
    return max(1, min(cores, int(quota))) if quota is not None else cores


def read_cgroup_quota(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> float | None:
    """Return the smallest CPU quota of this process's cgroups, in cores, or None if there is none."""
    quotas = []
    for line in _read_text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder = root / path.lstrip("/")
            for level in (folder, *folder.parents):
                quotas.append(_parse_quota(_read_text(level / "cpu.max")))
                if level == root:
                    break
        elif "cpu" in controllers.split(","):
            folder = root / "cpu" / path.lstrip("/")
            pair = (_read_text(folder / "cpu.cfs_quota_us"), _read_text(folder / "cpu.cfs_period_us"))
            quotas.append(_parse_quota(" ".join(text.strip() for text in pair)))
    return min((quota for quota in quotas if quota is not None), default=None)


def _parse_quota(text: str) -> float | None:
    quota, _, period = text.strip().partition(" ")
    if not quota.isdigit() or not period.strip().isdigit():
        return None  # "max", -1 or no such file
    return int(quota) / int(period)


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _read_cpuinfo() -> dict[str, str]:
    first_core = _read_text(Path("/proc/cpuinfo")).split("\n\n")[0]
    pairs = (line.partition(":") for line in first_core.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
