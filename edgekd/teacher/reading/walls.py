"""What the child that reads a stranger's file gives up before it reads. See child.py for what that guarantees."""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import signal
import struct
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

AVAILABLE = resource is not None and hasattr(os, "fork")
MB = 10**6
SPARE_MB = 128  # what Python and torch need beside the tensors

# System calls by architecture, from the kernel's tables: to talk, to start programs, to signal, to change folders and
# files. The first number is openat's, which is refused for writing only; what replaces it (openat2) always.
CALLS = {
    "x86_64": (0xC000003E, 257, {
        "socket": 41, "connect": 42, "bind": 49, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62,
        "ptrace": 101, "execveat": 322, "clone3": 435, "open": 2, "creat": 85, "openat2": 437, "truncate": 76,
        "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84, "link": 86, "unlink": 87, "symlink": 88, "chmod": 90,
        "fchmod": 91, "mkdirat": 258, "unlinkat": 263, "renameat": 264, "linkat": 265, "symlinkat": 266,
        "fchmodat": 268, "renameat2": 316, "process_vm_writev": 311, "io_uring_setup": 425, "mount": 165,
    }),
    "aarch64": (0xC00000B7, 56, {
        "socket": 198, "connect": 203, "bind": 200, "clone": 220, "execve": 221, "kill": 129, "ptrace": 117,
        "execveat": 281, "clone3": 435, "openat2": 437, "truncate": 45, "ftruncate": 46, "mkdirat": 34, "unlinkat": 35,
        "symlinkat": 36, "linkat": 37, "renameat": 38, "fchmod": 52, "fchmodat": 53, "renameat2": 276,
        "process_vm_writev": 271, "io_uring_setup": 425, "mount": 40,
    }),
}  # fmt: skip


def go_behind(size: int, cpu_s: int, *kept: int) -> None:
    """Leaves open files (but `kept`), network, processes, and resources beyond what a file of `size` bytes needs."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    _close_all_but(*kept)
    if sys.platform.startswith("linux"):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _limit("RLIMIT_AS", pages * os.sysconf("SC_PAGE_SIZE") + 2 * size + SPARE_MB * MB)
        _leave_network()
    for name, bound in (("RLIMIT_FSIZE", 0), ("RLIMIT_NPROC", 0), ("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", 64)):
        _limit(name, bound)
    _limit("RLIMIT_CPU", cpu_s, grace=1)  # SIGXCPU, which says why, a second before SIGKILL


def _close_all_but(*kept: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in {0, 1, 2} - set(kept):
        os.dup2(null, standard)
    bounds = [2, *sorted(fd for fd in kept if fd > 2), resource.getrlimit(resource.RLIMIT_NOFILE)[0]]
    for low, high in itertools.pairwise(bounds):
        os.closerange(low + 1, high)


def _limit(name: str, bound: int, grace: int = 0) -> None:
    number = getattr(resource, name)
    hard = resource.getrlimit(number)[1]
    most = bound + grace if hard == resource.RLIM_INFINITY else min(bound + grace, hard)
    resource.setrlimit(number, (min(bound, most), most))


def _leave_network() -> None:
    """Each step that the kernel refuses is left out: containers often forbid one, old kernels lack another."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: ends with its parent
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    new_user, new_network = 0x10000000, 0x40000000
    if libc.unshare(new_network) != 0:
        libc.unshare(new_user | new_network)
    if (program := _filter(platform.machine())) is not None:
        code = ctypes.create_string_buffer(program)
        head = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
        libc.prctl(22, 2, head, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _filter(machine: str) -> bytes | None:
    """The program that the kernel runs at every system call (linux/filter.h): allowed, or refused with EPERM."""
    if machine not in CALLS:
        return None
    audit, openat, denied = CALLS[machine]
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | 1
    steps = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, refuse)]  # another architecture's numbers
    steps += [(load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]  # x32's numbers
    for call in denied.values():
        steps += [(equal, 0, 1, call), (give, 0, 0, refuse)]
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    steps += [(equal, 1, 0, openat), (give, 0, 0, allow), (load, 0, 0, 32), (any_bit, 0, 1, writing)]  # 32: its flags
    steps += [(give, 0, 0, refuse), (give, 0, 0, allow)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
