"""A directory as a store: its folders and modes, and odd things in the place of objects."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drkit.errors import ObjectExists, ObjectNotFound, StoreCorrupt, StoreError, UsageError
from drkit.store import open_store
from drkit.store.local import LocalStore
from tests.support.crash import crash_points

NAME = "packs/ab/object"
NEW = b"new and longer content"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> LocalStore:
    store = LocalStore(bytes(root))
    store.prepare()
    return store


@pytest.fixture
def folder(store: LocalStore, root: Path) -> Path:
    """The folder of NAME, as a put would have made it."""
    (root / "packs/ab").mkdir(mode=0o700)
    return root / "packs/ab"


def content(store: LocalStore) -> bytes | None:
    return store.get(NAME) if [info.name for info in store.list("packs/")] == [NAME] else None


def test_objects_are_read_only_and_folders_private(store: LocalStore, root: Path) -> None:
    store.put(NAME, b"")
    store.put("new/object", b"")
    assert stat.S_IMODE((root / NAME).stat().st_mode) == 0o444
    for folder in (root, root / "packs", root / "packs/ab", root / "new"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_prepare_makes_the_top_folders_and_may_be_repeated(store: LocalStore, root: Path) -> None:
    assert sorted(path.name for path in root.rglob("*")) == ["index", "locks", "packs", "snapshots"]
    store.put(NAME, NEW)
    store.prepare()
    assert [path.name for path in (root / "packs").iterdir()] == ["ab"]
    assert store.get(NAME) == NEW


def test_prepare_makes_parents_and_survives_kill(tmp_path: Path) -> None:
    def make_state() -> LocalStore:
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        return LocalStore(str(tmp_path / "a/b/store"))

    for point in crash_points(make_state, LocalStore.prepare, limit=12):
        point.state.prepare()
        assert len(list((tmp_path / "a/b/store").iterdir())) == 4
        point.state.put(NAME, NEW)
        assert content(point.state) == NEW


def test_prepare_where_a_file_is(root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(StoreError, match="cannot make folders"):
        LocalStore(str(root)).prepare()


def test_missing_root_is_not_made_by_put(root: Path) -> None:
    store = LocalStore(str(root))
    for name in ("drkit.json", NAME):
        with pytest.raises(StoreError, match="is missing") as caught:
            store.put(name, b"")
        assert "mounted" in caught.value.hint
    assert not root.exists()
    with pytest.raises(ObjectNotFound):
        store.get(NAME)
    with pytest.raises(ObjectNotFound):
        store.delete(NAME)
    with pytest.raises(StoreError, match="is missing"):
        list(store.list("packs/"))


def test_empty_mount_point_is_not_filled(root: Path) -> None:
    root.mkdir()
    with pytest.raises(StoreError, match="is empty"):
        LocalStore(str(root)).put(NAME, b"")
    assert list(root.iterdir()) == []


def test_temporary_files_are_hidden(store: LocalStore, root: Path, folder: Path) -> None:
    (folder / ".tmp-1234").write_bytes(b"half")
    (root / ".tmp-1234").write_bytes(b"half")
    assert list(store.list("")) == list(store.list("packs/ab/.tmp-")) == []


def test_short_writes_are_continued(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    store.put(NAME, NEW)
    assert content(store) == NEW


def test_file_of_another_length_is_not_published(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def lying_write(fd: int, data: memoryview) -> int:
        write(fd, data[:5])
        return len(data)

    monkeypatch.setattr(os, "write", lying_write)
    with pytest.raises(StoreError, match="the file has 5"):
        store.put(NAME, NEW)
    assert content(store) is None


def test_short_reads_are_continued_and_a_cut_object_is_noticed(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(NAME, NEW)
    (root / NAME).chmod(0o644)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 5), offset))
    assert content(store) == NEW

    def cut_and_read(fd: int, length: int, offset: int) -> bytes:
        os.truncate(root / NAME, 3)
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", cut_and_read)
    with pytest.raises(StoreCorrupt, match="ended after 3 of 22"):
        store.get(NAME)
    os.truncate(root / NAME, 22)
    with pytest.raises(StoreCorrupt):
        store.get_range(NAME, 0, 22)


def test_unreadable_sector_is_damage(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(NAME, NEW)

    def broken(fd: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    for read in (store.get, lambda name: store.get_range(name, 0, 1)):
        with pytest.raises(StoreCorrupt, match=NAME):
            read(NAME)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_denied_access_names_the_directory(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def denied(*args: object, **kwargs: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", denied)
    for call in (store.get, store.delete, lambda name: store.put(name, b"")):
        with pytest.raises(StoreError) as caught:
            call(NAME)
        assert type(caught.value) is StoreError
        assert str(root) in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(store: LocalStore, folder: Path) -> None:
    folder.chmod(0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        store.put(NAME, b"")
    assert os.listdir(folder) == []


@pytest.mark.parametrize("odd", ["link", "dangling", "fifo", "device"])
def test_odd_things_in_the_place_of_an_object(store: LocalStore, root: Path, folder: Path, odd: str) -> None:
    path = folder / "object"
    if odd == "link":
        (root / "secret").write_bytes(b"secret")
        path.symlink_to(root / "secret")
    elif odd == "dangling":
        path.symlink_to("nowhere")
    elif odd == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for read in (store.get, store.stat, lambda name: store.get_range(name, 0, 1)):
        with pytest.raises(StoreCorrupt, match=NAME):
            read(NAME)
    assert list(store.list("packs/")) == []
    with pytest.raises(ObjectExists):
        store.put(NAME, NEW)
    store.put(NAME, NEW, overwrite=True)
    assert content(store) == NEW
    assert not path.is_symlink()


def test_link_in_the_place_of_an_object_can_be_deleted(store: LocalStore, root: Path, folder: Path) -> None:
    (root / "secret").write_bytes(b"secret")
    (folder / "object").symlink_to(root / "secret")
    store.delete(NAME)
    assert (root / "secret").exists()
    assert content(store) is None


def test_foreign_files_are_not_listed(store: LocalStore, root: Path) -> None:
    store.put(NAME, NEW)
    for name in (b"\xff", "ä".encode(), b"line\nbreak"):
        (root / "packs/ab" / os.fsdecode(name)).write_bytes(b"")
    assert [info.name for info in store.list("")] == [NAME]


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOENT])
def test_folder_that_cannot_be_read_is_not_cleaned_but_is_no_empty_list(
    store: LocalStore, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (root / "lost+found").mkdir()
    (root / "snapshots/.tmp-1234").write_bytes(b"")
    scandir = os.scandir

    def closed_to_us(path: bytes) -> Iterator[os.DirEntry[bytes]]:
        if os.path.basename(path.rstrip(b"/")) in {b"lost+found", b"ab"}:
            raise OSError(code, os.strerror(code), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed_to_us)
    assert store.clean_leftovers() == 1
    assert list(store.list("snapshots/")) == []
    if code == errno.EACCES:
        with pytest.raises(StoreError, match="cannot list packs/ab/"):
            list(store.list(""))


def test_lost_and_found_is_no_part_of_the_store(store: LocalStore, root: Path) -> None:
    (root / "lost+found").mkdir()
    (root / "lost+found/#1234").write_bytes(b"")
    assert list(store.list("")) == []
    with pytest.raises(UsageError):
        store.put("lost+found/x", b"")


def test_folder_on_another_disk(store: LocalStore, root: Path, tmp_path: Path) -> None:
    shutil.move(root / "packs", tmp_path / "elsewhere")
    (root / "packs").symlink_to(tmp_path / "elsewhere")
    store.put(NAME, NEW)
    assert content(store) == NEW
    (tmp_path / "elsewhere/ab/.tmp-1234").write_bytes(b"")
    assert store.clean_leftovers() == 1


def test_folder_that_contains_itself_is_an_error(store: LocalStore, root: Path, folder: Path) -> None:
    (folder / "loop").symlink_to(root / "packs")
    with pytest.raises(StoreError, match="cannot list"):
        list(store.list(""))


def test_root_with_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = bytes(tmp_path) + b"/st\xffre"
    store = LocalStore(path)
    store.prepare()
    store.put(NAME, NEW)
    assert [info.name for info in store.list("")] == [NAME]
    again = open_store(store.url.encode().decode())  # text, as it is recorded and printed
    assert again.directory == path
    assert again.get(NAME) == NEW


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_stays_open(store: LocalStore) -> None:
    before = os.listdir("/proc/self/fd")
    store.put(NAME, NEW)
    store.get(NAME)
    next(iter(store.list("")))
    with pytest.raises(ObjectExists):
        store.put(NAME, NEW)
    with pytest.raises(StoreError):
        store.put(NAME + "/below", NEW)
    store.clean_leftovers()
    store.delete(NAME)
    assert os.listdir("/proc/self/fd") == before
