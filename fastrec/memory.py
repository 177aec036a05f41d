"""What takes memory that grows with the square of something says how much before it takes it."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__: list[str] = []

SHARE = 0.5  # of the memory that is available: the default of every `budget=`
UNKNOWN = 4 * 2**30  # bytes that are taken to be available where the system does not say
CGROUP = Path('/sys/fs/cgroup')
# limit and use of a control group, relative to its folder: of version 2, of version 1
CGROUP_FILES = (('memory.max', 'memory.current'), ('memory/memory.limit_in_bytes', 'memory/memory.usage_in_bytes'))


def available_memory() -> int:
    """Bytes that this process may still take: what the machine has left, and no more than its control group allows."""
    return max(0, min(_left_of_machine(), *_left_of_groups()))


def default_budget() -> int:
    """Bytes that a `budget=None` stands for: half of what is available."""
    return int(SHARE * available_memory())


def require_memory(
    needed: float,  # bytes, at the peak
    what: str,  # what takes them
    way_out: str,  # what to do instead
    budget: int | None = None,  # bytes that it may take; None: half of what is available
    call: str
    | None = '{}',  # how to raise the budget: what is to be written, {} for 'budget=...'; None: there is no way
) -> None:
    """`MemoryError` if `needed` bytes are more than the budget; nothing has been taken then."""
    allowed = default_budget() if budget is None else budget
    if needed <= allowed:
        return
    of = 'half of the memory that is available' if budget is None else 'as given'
    allow = '' if call is None else f'{call.format(f"budget={math.ceil(needed)}")} allows it; else '
    text = (
        f'{what} takes {in_words(needed)} ({math.ceil(needed):,} bytes), and the budget is {in_words(allowed)} '
        f'({int(allowed):,} bytes, {of}): '
    )
    raise MemoryError(text + allow + way_out)


def in_words(n_bytes: float) -> str:
    """'1.5 GiB', or MiB of what is smaller."""
    return f'{n_bytes / 2**30:.1f} GiB' if n_bytes >= 2**30 else f'{n_bytes / 2**20:.0f} MiB'


def _left_of_machine() -> int:
    """Linux says what it could free; others how many pages are free."""
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        kibibytes = next(line.split()[1] for line in lines if line.startswith('MemAvailable:'))
        return int(kibibytes) * 1024
    except (OSError, StopIteration):
        pass
    for pages in ('SC_AVPHYS_PAGES', 'SC_PHYS_PAGES'):
        try:
            return os.sysconf(pages) * os.sysconf('SC_PAGE_SIZE')
        except (AttributeError, ValueError, OSError):
            continue
    return UNKNOWN


def _left_of_groups() -> list[int]:
    """What the control groups that this process is in leave, as far as they are limited."""
    res = []
    for folder in _group_folders():
        for limit_file, used_file in CGROUP_FILES:
            try:
                limit = (folder / limit_file).read_text().strip()
                used = (folder / used_file).read_text().strip()
            except OSError:
                continue
            if limit.isdigit() and used.isdigit():
                res.append(int(limit) - int(used))
    return res or [2**63]


def _group_folders() -> list[Path]:
    """The folder of the control groups, and those of this process and the groups around it."""
    res = [CGROUP]
    try:
        lines = Path('/proc/self/cgroup').read_text().splitlines()
    except OSError:
        return res
    for line in lines:
        path = line.rpartition(':')[2].strip('/')
        while path:
            res.append(CGROUP / path)
            path = path.rpartition('/')[0]
    return res
