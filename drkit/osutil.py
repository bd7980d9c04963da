"""System calls that Python does not wrap: syncfs, renameat2, and what is mounted where; writing what must stay; and
second processes.

Written for Linux; elsewhere each function falls back to the nearest thing that is safe, or raises
OSError(ENOSYS), which callers must expect. ctypes is imported at the first call.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

AT_FDCWD = -100
"""As a directory descriptor: relative to the working directory."""

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_SET_PDEATHSIG = 1
_NICER = 5


@functools.cache
def _libc_function(name: str) -> Any:
    """Return the C library's function, or None where it has none of that name."""
    import ctypes

    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name)
    except (AttributeError, OSError, TypeError):
        return None


def _call(function: Any, name: bytes, other: bytes | None, *args: Any) -> None:
    """Call a C function that returns -1 and sets errno; raise that as OSError about `name` and `other`."""
    import ctypes

    while function(*args) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), name, None, other)


def syncfs(fd: int) -> None:
    """Make everything that was written to the file system of `fd` durable.

    Write errors are reported only if they happened after `fd` was opened: open it before the first write.
    Where there is no syncfs all file systems are synced, and no write error is reported.
    """
    function = _libc_function("syncfs")
    if function is None:
        os.sync()
    else:
        _call(function, b"", None, fd)


def _renameat2(dir_a: int, a: bytes, dir_b: int, b: bytes, flags: int) -> None:
    function = _libc_function("renameat2")
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), a, None, b)
    import ctypes

    _call(function, a, b, dir_a, ctypes.c_char_p(a), dir_b, ctypes.c_char_p(b), ctypes.c_uint(flags))


def rename_exchange(dir_a: int, a: bytes, dir_b: int, b: bytes) -> None:
    """Let the two names, each in its directory (or AT_FDCWD), swap what they stand for, atomically.

    OSError: ENOSYS or EINVAL where the system or the file system cannot, EBUSY for a mount point, EXDEV
    across file systems and for directories of an overlay's lower layer.
    """
    _renameat2(dir_a, a, dir_b, b, _RENAME_EXCHANGE)


def rename_noreplace(dir_a: int, a: bytes, dir_b: int, b: bytes) -> None:
    """Rename `a` to `b`, each in its directory (or AT_FDCWD). FileExistsError if `b` is there.

    Where the system cannot do both at once, looking and renaming are two steps: somebody else's `b`, made in
    between, could be replaced if it is a file or an empty directory.
    """
    try:
        _renameat2(dir_a, a, dir_b, b, _RENAME_NOREPLACE)
        return
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
    with contextlib.suppress(FileNotFoundError):
        os.stat(b, dir_fd=_dir_fd(dir_b), follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), a, None, b)
    os.rename(a, b, src_dir_fd=_dir_fd(dir_a), dst_dir_fd=_dir_fd(dir_b))


def _dir_fd(fd: int) -> int | None:
    return None if fd == AT_FDCWD else fd


def fsync_dir(directory: int | bytes) -> None:
    """Make a directory's own entries durable: creations, removals and renames in it."""
    if isinstance(directory, int):
        os.fsync(directory)
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_at(fd: int, data: bytes | memoryview, at: int) -> None:
    """Write all of the data at an offset."""
    view, done = memoryview(data), 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], at + done)


def append(fd: int, data: bytes) -> None:
    """Write all of the data behind what the file has, and make it durable."""
    write_at(fd, data, os.fstat(fd).st_size)
    os.fsync(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of the data, into a pipe for instance."""
    sent = os.write(fd, data)
    if sent < len(data):
        with memoryview(data) as view:
            while sent < len(view):
                sent += os.write(fd, view[sent:])


def lock(fd: int, name: bytes, dir_fd: int) -> bool:
    """Lock a file without waiting; false if somebody else has it, or if it is not under its name any more."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError):
        return False
    return os.path.samestat(found, os.fstat(fd))


def start_python(
    *arguments: str, stdin: int | IO[bytes] | None = None, pass_fds: Sequence[int] = (), bufsize: int = -1
) -> subprocess.Popen[bytes]:
    """Start a second process of this interpreter, with no path but the standard library's, and pipes to and from it.

    With `stdin` it reads from there instead. OSError if there is none to be had.
    """
    import subprocess

    return subprocess.Popen(
        [sys.executable or "", "-I", "-S", *arguments],
        bufsize=bufsize,
        stdin=subprocess.PIPE if stdin is None else stdin,
        stdout=subprocess.PIPE,
        pass_fds=pass_fds,
        process_group=0,  # an interrupt from the keyboard is for the first process; this one ends with it
    )


def end_with_parent(parent: int) -> bool:
    """Have this process killed when the one that started it is gone, on Linux; return whether that is still there."""
    if sys.platform == "linux" and (function := _libc_function("prctl")) is not None:
        function(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def memory_file() -> IO[bytes]:
    """Return an open file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("drkit"), "w+b")
    import tempfile

    return tempfile.TemporaryFile()


def give_way() -> None:
    """Let this thread wait for others that want the processor, for as long as it lives; on Linux only.

    By five steps, to a third of its weight. Where everything is busy with something else, more steps hardly let it run:
    beside a busy loop for each processor a backup took 12 s with 0 or 5 of them, 18 s with 10, 106 s with 19.
    """
    if sys.platform == "linux":  # elsewhere it would be the whole process
        with contextlib.suppress(OSError):  # a sandbox may forbid it, and it may be as low as it gets
            own = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + _NICER)


def mount_points() -> frozenset[bytes]:
    """Return the absolute paths at which something is mounted; empty where the system does not say."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return frozenset()
    return frozenset(_unescape(fields[4]) for line in lines if len(fields := line.split(b" ")) > 4)


def _unescape(text: bytes) -> bytes:
    """Undo the octal escapes of space, tab, newline and backslash."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), text)


def process_identity(pid: int) -> str:
    """Return what no other process has or will have: boot, pid namespace, pid and start time.

    Empty where the system does not tell, or where there is no such process.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot:
            identity = f"{boot.read().strip()}/{os.readlink('/proc/self/ns/pid')}/{pid}"
        with open(f"/proc/{pid}/stat", "rb") as status:
            started = status.read().rpartition(b")")[2].split()[19]
    except (OSError, IndexError):
        return ""
    return f"{identity}/{started.decode()}"
