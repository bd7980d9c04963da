"""A directory as a store, when writers are killed, disks are full, and others write and clean at the same time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drkit import osutil
from drkit.errors import NoSpace, ObjectExists, ObjectNotFound, StoreError
from drkit.store.local import LocalStore
from tests.support.crash import crash_points, enospc_points, trace_calls

NAME = "packs/ab/object"
OLD, NEW = b"old content", b"new and longer content"
MakeStore = Callable[[], LocalStore]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> LocalStore:
    store = LocalStore(bytes(root))
    store.prepare()
    return store


@pytest.fixture
def make_store(root: Path) -> MakeStore:
    """A function that makes the store anew: two folders with one object, as small as it can be."""

    def make() -> LocalStore:
        shutil.rmtree(root, ignore_errors=True)
        (root / "packs/ab").mkdir(parents=True)
        (root / "packs/ab/neighbour").write_bytes(b"neighbour")
        return LocalStore(str(root))

    return make


@pytest.fixture
def make_store_with_old(make_store: MakeStore) -> MakeStore:
    def make() -> LocalStore:
        store = make_store()
        store.put(NAME, OLD)
        return store

    return make


def temporaries(root: Path) -> list[Path]:
    return list(root.rglob(".tmp-*"))


def content(store: LocalStore) -> bytes | None:
    """What readers see of the object, by each way of reading."""
    listed = [info for info in store.list("packs/") if info.name != "packs/ab/neighbour"]
    try:
        data = store.get(NAME)
    except ObjectNotFound:
        assert listed == []
        return None
    assert listed == [store.stat(NAME)]
    assert store.get_range(NAME, 0, listed[0].size) == data
    return data


def check_usable(store: LocalStore, root: Path, expected: set[bytes | None]) -> bytes | None:
    """The object is whole or not there, what is left over can be cleaned, and the put can be made again."""
    data = content(store)
    assert data in expected
    store.clean_leftovers()
    assert temporaries(root) == []
    assert content(store) == data
    if data is None:
        store.put(NAME, NEW)
    else:
        with pytest.raises(ObjectExists):
            store.put(NAME, NEW)
    assert content(store) == (data or NEW)
    assert store.get("packs/ab/neighbour") == b"neighbour"
    return data


def put_new(store: LocalStore) -> None:
    store.put(NAME, NEW)


def replace_by_new(store: LocalStore) -> None:
    store.put(NAME, NEW, overwrite=True)


def test_put_calls_in_the_durable_order(make_store: MakeStore) -> None:
    written = ["open", "write", "write (half)", "fsync"]
    assert trace_calls(make_store, put_new) == [*written, "link", "unlink", "fsync", "fchmod"]
    assert trace_calls(make_store, replace_by_new) == [*written, "replace", "fsync", "fchmod"]


def test_put_survives_kill_at_every_call(make_store: MakeStore, root: Path) -> None:
    seen = [check_usable(point.state, root, {None, NEW}) for point in crash_points(make_store, put_new)]
    assert seen == [None] * 5 + [NEW] * 3


def test_replacing_survives_kill_at_every_call(make_store_with_old: MakeStore, root: Path) -> None:
    points = crash_points(make_store_with_old, replace_by_new)
    seen = [check_usable(point.state, root, {OLD, NEW}) for point in points]
    assert seen == [OLD] * 5 + [NEW] * 2


def test_put_into_a_new_folder_survives_kill_at_every_call(make_store: MakeStore) -> None:
    def put(store: LocalStore) -> None:
        store.put("new/deep/object", NEW)

    for point in crash_points(make_store, put):
        assert [info.size for info in point.state.list("new/")] in ([], [len(NEW)])
        point.state.put("new/deep/object", NEW, overwrite=True)
        assert point.state.get("new/deep/object") == NEW


def test_delete_survives_kill_at_every_call(make_store_with_old: MakeStore, root: Path) -> None:
    seen = [content(point.state) for point in crash_points(make_store_with_old, lambda store: store.delete(NAME))]
    assert seen == [OLD, None]


def test_new_folders_are_durable_before_they_are_used(make_store: MakeStore) -> None:
    calls = trace_calls(make_store, lambda store: store.put("new/deep/object", b""))
    assert calls == ["mkdir", "fsync", "mkdir", "fsync", "open", "fsync", "link", "unlink", "fsync", "fchmod"]


def test_object_found_there_is_made_durable(make_store_with_old: MakeStore) -> None:
    def put(store: LocalStore) -> None:
        with pytest.raises(ObjectExists):
            store.put(NAME, NEW)

    assert trace_calls(make_store_with_old, put) == ["fsync"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("lasting", [False, True])
def test_full_disk_leaves_nothing_behind(make_store: MakeStore, root: Path, code: int, lasting: bool) -> None:
    points = list(enospc_points(make_store, put_new, code=code, lasting=lasting))
    assert [point.call for point in points] == ["open", "write", "write (half)", "fsync", "link", "fsync"]
    for point in enospc_points(make_store, put_new, code=code, lasting=lasting):
        assert isinstance(point.error, NoSpace)
        assert NAME in str(point.error)
        assert str(root) in str(point.error)
        assert temporaries(root) == []
        check_usable(point.state, root, {None, NEW} if point.number == point.total else {None})


def test_failing_disk_is_a_store_error(make_store_with_old: MakeStore, root: Path) -> None:
    for point in enospc_points(make_store_with_old, replace_by_new, code=errno.EIO):
        assert isinstance(point.error, StoreError)
        assert temporaries(root) == []
        check_usable(point.state, root, {OLD, NEW} if point.number == point.total else {OLD})


def test_leftovers_are_cleaned_everywhere_and_counted(store: LocalStore, root: Path) -> None:
    store.put(NAME, NEW)
    for folder in ("", "packs", "packs/ab", "snapshots"):
        (root / folder / ".tmp-1234").write_bytes(b"half")
    (root / "packs/.tmp-folder").mkdir()
    (root / "packs/.tmp-link").symlink_to(root / NAME)
    assert store.clean_leftovers() == 4
    assert store.clean_leftovers() == 0
    assert sorted(path.name for path in temporaries(root)) == [".tmp-folder", ".tmp-link"]
    assert store.get(NAME) == NEW


def test_leftover_with_two_names_keeps_the_object(store: LocalStore, root: Path) -> None:
    store.put(NAME, NEW)
    (root / NAME).chmod(0o644)  # its writer was killed before this
    os.link(root / NAME, root / "packs/ab/.tmp-1234")
    assert store.clean_leftovers() == 1
    assert content(store) == NEW


WRITER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL)
fcntl.flock(fd, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer_at_work(store: LocalStore, root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a locked temporary file."""
    (root / "packs/ab").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root / "packs/ab/.tmp-1234")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_leftover_of_a_living_writer_stays(
    store: LocalStore, root: Path, writer_at_work: subprocess.Popen[str]
) -> None:
    assert store.clean_leftovers() == 0
    assert len(temporaries(root)) == 1
    writer_at_work.kill()
    writer_at_work.wait(timeout=10)
    assert store.clean_leftovers() == 1


def test_cleaning_does_not_touch_a_put_in_progress(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[int] = []
    link = os.link

    def link_after_cleaning(*args: object, **kwargs: object) -> None:
        cleaned.append(LocalStore(str(root)).clean_leftovers())
        link(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", link_after_cleaning)
    store.put(NAME, NEW)
    assert cleaned == [0]
    assert content(store) == NEW


def test_temporary_file_taken_by_a_cleaner_before_it_was_locked(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[int] = []
    flock = fcntl.flock

    def flock_too_late(fd: int, operation: int) -> None:
        if not removed:
            removed.append(fd)
            removed.append(store.clean_leftovers())
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock_too_late)
    store.put(NAME, NEW)
    assert removed[1:] == [1]
    assert content(store) == NEW
    assert temporaries(root) == []


def test_file_system_without_locks(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(fd: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    store.put(NAME, NEW)
    assert content(store) == NEW
    (root / "packs/ab/.tmp-1234").write_bytes(b"perhaps somebody's")
    assert store.clean_leftovers() == 0


@pytest.mark.parametrize("renameat2", [True, False])
def test_file_system_without_hard_links(
    make_store: MakeStore, root: Path, monkeypatch: pytest.MonkeyPatch, renameat2: bool
) -> None:
    def no_links(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links")

    def no_renameat2(*args: object) -> None:
        raise OSError(errno.EINVAL, "no flags")

    monkeypatch.setattr(os, "link", no_links)
    if not renameat2:
        monkeypatch.setattr(osutil, "_renameat2", no_renameat2)
    for point in crash_points(make_store, put_new):
        check_usable(point.state, root, {None, NEW})
    store = make_store()
    store.put(NAME, OLD)
    with pytest.raises(ObjectExists):
        store.put(NAME, NEW)
    assert content(store) == OLD


def test_another_writer_wins_at_the_last_moment(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_too_late(*args: object, **kwargs: object) -> None:
        (root / NAME).write_bytes(OLD)
        link(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", link_too_late)
    with pytest.raises(ObjectExists):
        store.put(NAME, NEW)
    assert content(store) == OLD
    assert temporaries(root) == []


def test_folders_of_a_killed_writer_are_made_durable(make_store: MakeStore) -> None:
    calls = trace_calls(make_store, lambda store: store.clean_leftovers())
    assert calls == ["fsync", "fsync"]  # the root, and packs
