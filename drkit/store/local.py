"""A directory as a store. What a crash may leave behind is in docs/format.md, section 10."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from operator import itemgetter

from drkit import osutil
from drkit.errors import EndsBefore, NoSpace, ObjectExists, ObjectNotFound, StoreCorrupt, StoreError
from drkit.store.base import ObjectInfo
from drkit.store.checks import TEMPORARY, check_name, check_prefix, check_range, is_component

FOLDERS = ("index", "locks", "packs", "snapshots")
"""The top folders that every backup needs."""

# O_NONBLOCK: opening a FIFO that somebody put in an object's place must not wait for a writer.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# An exclusive lock over NFS needs a descriptor that can write.
_LOCK = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_TEMPORARY = TEMPORARY.encode()
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_UNREADABLE = {errno.ELOOP, errno.EIO}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EOPNOTSUPP}


class LocalStore:
    """The directory `path` as a store, safe against kill -9 and against other processes.

    Symbolic links to folders are followed, so that `packs` may be on another disk; in the place of an object a link
    is damage. Nothing is held open between calls.
    """

    def __init__(self, path: bytes | str) -> None:
        self._root = os.path.abspath(os.fsencode(path))

    @property
    def url(self) -> str:
        """The absolute path, or where it is not UTF-8 a `file:` URL: text that opens the same store again."""
        try:
            return self._root.decode()
        except UnicodeDecodeError:
            from urllib.parse import quote_from_bytes

            return f"file://{quote_from_bytes(self._root)}"

    @property
    def directory(self) -> bytes:
        """The absolute path."""
        return self._root

    def prepare(self) -> None:
        """Make the root and the folders that every backup needs, durably; what is there already stays as it is.

        A store that has folders is not mistaken for an empty mount point. The other folders, among them one for each
        first two digits of packs, are made by the first put that needs them: 256 empty ones would take a megabyte.
        """
        with self._translated("make", "folders"):
            _make_folder(self._root)
            for name in FOLDERS:
                _make_folder(os.path.join(self._root, name.encode()))

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        """Store `data` under `name`, durably, or leave everything as it was.

        ObjectExists means that the object is there durably, whoever wrote it. StoreError if the root is missing, or
        if a folder would have to be made in an empty root: then its disk is probably not mounted.
        """
        path = self._path(name)
        view = memoryview(data).cast("B")
        with self._translated("write", name), self._folder(path) as folder:
            base = os.path.basename(path)
            try:
                if _is_there(folder, base, name) and not overwrite:
                    raise FileExistsError(errno.EEXIST, "is there already")
                with _temporary(folder) as (fd, temporary):
                    _write(fd, view)
                    os.fsync(fd)
                    _publish(folder, temporary, base, overwrite=overwrite)
                    _sync_folder(folder)
                    with suppress(OSError):  # the mode guards against accidents only; not every file system has it
                        os.fchmod(fd, 0o444)
            except FileExistsError:
                _sync_folder(folder)  # its writer may have been killed before it did this
                raise

    def get(self, name: str) -> bytes:
        """Return the whole object."""
        with self._reading(name) as (fd, size):
            data = _read(fd, 0, size)
        if len(data) != size:
            raise StoreCorrupt(f"{name} in {self.url} ended after {len(data)} of {size} bytes")
        return data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return the bytes of [offset, offset+length). StoreCorrupt if the object ends before that."""
        check_range(offset, length)
        with self._reading(name) as (fd, size):
            data = _read(fd, offset, min(length, size - offset)) if offset < size else b""
        if len(data) != length or offset + length > size:
            raise EndsBefore(f"{name} in {self.url} has {size} bytes, not {length} at offset {offset}", data=data)
        return data

    def stat(self, name: str) -> ObjectInfo:
        """Return size and stamp. StoreCorrupt if there is something that is no file."""
        with self._translated("read", name):
            status = os.stat(self._path(name), follow_symlinks=False)
            self._check_is_file(name, status)
        return ObjectInfo(name, status.st_size, status.st_mtime)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects in order of names, folder by folder. StoreError if the root is missing."""
        check_prefix(prefix)
        folder, slash, stem = prefix.rpartition("/")
        return self._walk(folder + slash, stem, after)

    def delete(self, name: str) -> None:
        """Remove the object, durably: what is deleted after it is never gone before it."""
        path = self._path(name)
        with self._translated("delete", name):
            folder = os.open(os.path.dirname(path), _FOLDER)
            try:
                os.unlink(os.path.basename(path), dir_fd=folder)
                _sync_folder(folder)
            finally:
                os.close(folder)

    def clean_leftovers(self) -> int:
        """Remove temporary files whose writers are gone, and return how many there were.

        A file that cannot be locked belongs to a writer at work, or to another user, and stays. Folders that a killed
        writer made are made durable: a put takes one that it finds for durable.
        """
        with self._translated("clean", "leftovers"):
            for name in (b"", b"packs", b"parity"):
                with suppress(FileNotFoundError):
                    _sync_folder(os.path.join(self._root, name))
            return _clean(self._root)

    def close(self) -> None:
        """Nothing is held open."""

    def _path(self, name: str) -> bytes:
        check_name(name)
        return os.path.join(self._root, name.encode("ascii"))

    @contextmanager
    def _translated(self, action: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._translate(error, action, name) from error

    def _translate(self, error: OSError, action: str, name: str) -> StoreError:
        message = f"cannot {action} {name} in {self.url}: {error.strerror}"
        if error.errno in _FULL:
            return NoSpace(message)
        if error.errno in _DENIED:
            hint = f"check the owner and the mode of {self.url}, and that it is not mounted read-only"
            return StoreError(message, hint=hint)
        if action == "write" and error.errno == errno.EEXIST:
            return ObjectExists(f"{name} is already in {self.url}")
        if action in {"read", "delete"} and error.errno in _ABSENT:
            return ObjectNotFound(f"there is no object {name} in {self.url}")
        if action == "read" and error.errno in _UNREADABLE:
            return StoreCorrupt(message)
        return StoreError(message, hint=f"check that the disk of {self.url} is there and sound, and try again")

    def _not_mounted(self, problem: str) -> StoreError:
        return StoreError(
            f"the store directory {self.url} is {problem}",
            hint="check that its disk is mounted, or make a repository there with 'drkit init'",
        )

    @contextmanager
    def _folder(self, path: bytes) -> Iterator[int]:
        """Open the folder that `path` is to be in, made if it is missing."""
        parent = os.path.dirname(path)
        try:
            folder = os.open(parent, _FOLDER)
        except FileNotFoundError:
            if not os.path.isdir(self._root):
                raise self._not_mounted("missing") from None
            if not os.listdir(self._root):
                raise self._not_mounted("empty") from None
            _make_folder(parent)
            folder = os.open(parent, _FOLDER)
        try:
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _reading(self, name: str) -> Iterator[tuple[int, int]]:
        """Open an object: its descriptor and its size."""
        path = self._path(name)
        with self._translated("read", name):
            fd = os.open(path, _READ)
            try:
                status = os.fstat(fd)
                self._check_is_file(name, status)
                yield fd, status.st_size
            finally:
                os.close(fd)

    def _check_is_file(self, name: str, status: os.stat_result) -> None:
        if stat.S_ISDIR(status.st_mode):
            raise ObjectNotFound(f"there is no object {name} in {self.url}, but a directory")
        if not stat.S_ISREG(status.st_mode):
            raise StoreCorrupt(f"{name} in {self.url} is not a regular file")

    def _walk(self, folder: str, stem: str, after: str) -> Iterator[ObjectInfo]:
        for name, info in self._scan(folder, stem, after):
            if info is None:
                yield from self._walk(name, "", after)
            else:
                yield info

    def _scan(self, folder: str, stem: str, after: str) -> Iterable[tuple[str, ObjectInfo | None]]:
        """Return what is in one folder, in order: objects, and with None and a slash the folders to descend into."""
        rows: list[tuple[str, ObjectInfo | None]] = []
        with self._translated("list", folder or "objects"):
            try:
                entries = os.scandir(os.path.join(self._root, folder.encode("ascii")))
            except (FileNotFoundError, NotADirectoryError):
                if os.path.isdir(self._root):
                    return rows
                raise self._not_mounted("missing") from None
            with entries:
                for entry in entries:
                    base = os.fsdecode(entry.name)
                    if not (base.startswith(stem) and is_component(base)):
                        continue
                    name = folder + base
                    if entry.is_dir():
                        name += "/"
                        if name > after or after.startswith(name):
                            rows.append((name, None))
                    elif name > after:
                        with suppress(FileNotFoundError):  # deleted since
                            status = entry.stat(follow_symlinks=False)
                            if stat.S_ISREG(status.st_mode):
                                rows.append((name, ObjectInfo(name, status.st_size, status.st_mtime)))
        rows.sort(key=itemgetter(0))
        return rows


@contextmanager
def _temporary(folder: int) -> Iterator[tuple[int, bytes]]:
    """Open a new locked file in `folder`: descriptor and name. An exception removes it."""
    fd, name = _create(folder)
    try:
        yield fd, name
    except BaseException:
        with suppress(OSError):  # published already, or left for the next cleaning
            os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(fd)


def _create(folder: int) -> tuple[int, bytes]:
    for _ in range(16):
        name = _TEMPORARY + os.urandom(8).hex().encode()
        fd = os.open(name, _CREATE, 0o644, dir_fd=folder)
        # Between open and lock a cleaner may take the file for a leftover: then it is locked or has no name.
        if _lock(fd) and os.fstat(fd).st_nlink:
            return fd, name
        os.close(fd)
    raise OSError(errno.EAGAIN, "temporary files are removed as fast as they are made")


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # no locks on this file system: then no cleaner can lock the file either
    return True


def _write(fd: int, view: memoryview) -> None:
    written = 0
    while written < len(view):
        written += os.write(fd, view[written:])
    size = os.fstat(fd).st_size
    if size != len(view):
        raise OSError(errno.EIO, f"{len(view)} bytes were written, but the file has {size}")


def _publish(folder: int, temporary: bytes, base: bytes, *, overwrite: bool) -> None:
    """Give the file its name. FileExistsError if the name is taken and `overwrite` is false."""
    if overwrite:
        os.replace(temporary, base, src_dir_fd=folder, dst_dir_fd=folder)
        return
    try:
        # Killed before the unlink, the file has two names; the next cleaning takes the temporary one away.
        os.link(temporary, base, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        osutil.rename_noreplace(folder, temporary, folder, base)
    else:
        os.unlink(temporary, dir_fd=folder)


def _is_there(folder: int, base: bytes, name: str) -> bool:
    """Whether something has the name. A directory is no object: an empty one is removed, another is a StoreError."""
    try:
        status = os.stat(base, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            return True
        os.rmdir(base, dir_fd=folder)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        raise StoreError(
            f"a directory lies in the place of {name}", hint="move it out of the repository, then run the command again"
        ) from error
    return False


def _sync_folder(folder: int | bytes) -> None:
    """Make a folder's entries durable, where its file system knows how to."""
    try:
        osutil.fsync_dir(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _make_folder(path: bytes) -> None:
    """Make a folder and its missing parents, each durable before the next."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        _make_folder(parent)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    _sync_folder(parent)


def _read(fd: int, offset: int, length: int) -> bytes:
    """Return `length` bytes, or fewer if the file ends before that."""
    data = os.pread(fd, length, offset)
    while data and len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _clean(folder: bytes) -> int:
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except (FileNotFoundError, PermissionError):  # gone since, or another user's
        return 0
    removed = 0
    for entry in entries:
        if entry.name.startswith(_TEMPORARY):
            removed += _remove_leftover(entry.path)
        elif entry.is_dir():
            removed += _clean(entry.path)
    return removed


def _remove_leftover(path: bytes) -> bool:
    try:
        fd = os.open(path, _LOCK)
    except OSError:  # published since, another user's, or not a file
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError:  # somebody writes it, or the file system has no locks
        return False
    finally:
        os.close(fd)
    return True
