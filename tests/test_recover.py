"""recover.py, as it lies in a repository, with no drkit installed: everything comes back."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from drkit import recovery
from drkit.backup import BackupOptions, backup
from drkit.model import Snapshot
from drkit.progress import NullProgress
from drkit.repo import Repository
from drkit.store.local import LocalStore
from tests.support.mini_repo import MiniRepo, named, scan, sha, tree_hash
from tests.support.recovering import directory, file, flip, numbered, packs, right_files, run


@pytest.fixture
def repo(tmp_path: Path) -> MiniRepo:
    return MiniRepo(tmp_path / "repo", frame=1 << 14, chunk=1 << 12, pack_size=1 << 15)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with one of everything that a normal user can make."""
    source = tmp_path / "source"
    (source / "docs/deep/er").mkdir(parents=True)
    (source / "docs/a.md").write_bytes(b"# A\n")
    (source / "docs/deep/er/b.bin").write_bytes(bytes(range(256)) * 300)
    (source / "docs-and-more").write_bytes(b"sorted after docs/")
    (source / "empty").touch()
    (source / "empty-directory").mkdir(mode=0o555)
    (source / "holes").write_bytes(b"x" + bytes(1 << 20) + b"y" + bytes(1 << 20))
    (source / "link").symlink_to("/etc/passwd")
    (source / "dangling").symlink_to(b"nowhere \xff")
    (source / "twin").hardlink_to(source / "docs/a.md")
    os.mkfifo(source / "pipe", 0o640)
    Path(os.fsdecode(os.fsencode(source) + b"/odd \xff\n")).write_bytes(b"odd")
    (source / "secret").write_bytes(b"no one may read this")
    (source / "secret").chmod(0)
    (source / "suid").write_bytes(b"program")
    (source / "suid").chmod(0o4755)
    with contextlib.suppress(OSError):  # where the file system has none
        os.setxattr(source / "docs", "user.color", b"\0blue")
    for number, path in enumerate(sorted(source.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, 10**18 + number * 1_000_000_001), follow_symlinks=False)
    return source


@pytest.mark.parametrize("decoder", ["zstandard", "command"])
def test_everything_comes_back(repo: MiniRepo, source: Path, target: Path, decoder: str) -> None:
    if decoder == "command" and not shutil.which("zstd"):
        pytest.skip("there is no zstd command")
    entries = scan(source)
    repo.chunk = 1 << 18  # all zeros: a hole
    repo.backup(entries)
    result = run(repo, "--target", target, decoder=decoder)
    assert (result.code, result.lost) == (0, [])
    assert f"tree hash equal: {tree_hash(entries)}" in result.out
    assert scan(target) == entries
    assert (target / "twin").samefile(target / "docs/a.md")
    assert (target / "holes").stat().st_blocks * 512 < 1 << 20


def test_many_files_and_a_long_one(repo: MiniRepo, target: Path) -> None:
    """Lists of segments, lists of blobs, several packs, many frames."""
    entries = [*numbered(1500), file("long", os.urandom(99 << 12) + b"the end")]
    repo.backup(entries)
    assert len(packs(repo)) > 3
    result = run(repo, "--target", target)
    assert result.code == 0
    assert "restored 1501 files, 15 directories" in result.out
    assert right_files(target, entries) == {record["path"] for record, _ in entries if record["type"] == "f"}


def test_list_shows_what_can_be_restored(repo: MiniRepo) -> None:
    first = repo.backup(numbered(3), {b"d00": "plug"}, tags=["rejected"])
    second = repo.backup(numbered(2), **named("source", b"/odd \xff"))
    repo.root.joinpath("snapshots/not a snapshot").touch()
    result = run(repo, "--list")
    assert result.code == 0
    assert result.out.splitlines() == [
        f"20250101T000000.000001Z  {first[:16]}  /source  3 files, 1 plugins [rejected]",
        f"20250101T000000.000002Z  {second[:16]}  /odd \\xff  2 files, 0 plugins",
    ]


def test_choice_of_a_snapshot(repo: MiniRepo, target: Path) -> None:
    ids = [repo.backup([file(name)], tags=tags) for name, tags in (("old", []), ("new", ["x"]), ("bad", ["rejected"]))]
    assert run(repo, "--target", target).code == 0
    assert [path.name for path in target.iterdir()] == ["new"]
    for number, name in enumerate(("old", "new", "bad")):
        assert run(repo, "--target", target / "more" / name, ids[number][:12]).code == 0
        assert (target / "more" / name / name).exists()
    assert run(repo, "--check", "no-such-id").code == 2
    assert "3 snapshots" in run(repo, "--check", "").err


def test_plugins_by_path_and_name(repo: MiniRepo, target: Path) -> None:
    entries = [
        directory("p"), file("p-x"), directory("p/one", mode=0o700), file("p/one/f", b"1"), directory("p/one/sub"),
        directory("p/two"), file("p/two/f", b"2"), file("p0"),
    ]  # fmt: skip
    entries.sort(key=lambda entry: entry[0]["path"].replace("/", "\0"))
    repo.backup(entries, {b"p/one": "same", b"p/one/sub": "sub", b"p/two": "same"})
    assert f"tree hash equal: {tree_hash(entries, b'p/one')}" in run(repo, "--target", target, "--plugin", "p/one").out
    assert sorted(path.name for path in target.iterdir()) == ["f", "sub"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert run(repo, "--check", "--plugin", "sub").code == 0
    ambiguous = run(repo, "--target", target / "x", "--plugin", "same")
    assert (ambiguous.code, (target / "x").exists()) == (2, False)
    assert "p/one\n  p/two" in ambiguous.err
    assert run(repo, "--check", "--plugin", "nobody").code == 2


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (["*.md"], {"a.md", "d/b.md"}),
        (["d"], {"d/b.md", "d/c", "d/e/f"}),
        (["/a.md", "d/e"], {"a.md", "d/e/f"}),
        (["**/f"], {"d/e/f"}),
        (["d/*"], {"d/b.md", "d/c", "d/e/f"}),
        (["*/f"], None),
    ],
)
def test_include(repo: MiniRepo, target: Path, globs: list[str], expected: set[str] | None) -> None:
    entries = [
        file("a.md"),
        directory("d"),
        file("d/b.md"),
        file("d/c"),
        directory("d/e"),
        file("d/e/f"),
        directory("x"),
    ]
    repo.backup(entries)
    result = run(repo, "--target", target, *(word for glob in globs for word in ("--include", glob)))
    assert result.code == (0 if expected else 2)
    assert right_files(target, entries) == (expected or set())
    assert not (target / "x").exists()


def test_a_target_that_holds_something_is_refused(repo: MiniRepo, target: Path) -> None:
    repo.backup([file("f", b"new")])
    target.mkdir()
    (target / "f").write_bytes(b"old")
    assert run(repo, "--target", target).code == 2
    assert (target / "f").read_bytes() == b"old"


def test_check_finds_damage_and_writes_nothing(repo: MiniRepo, tmp_path: Path) -> None:
    repo.backup(numbered(300))
    before = sorted(tmp_path.rglob("*"))
    assert "tree hash equal" in run(repo, "--check").out
    flip(packs(repo)[0], 3000)
    result = run(repo, "--check")
    assert (result.code, bool(result.lost)) == (3, True)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "recover.py"] == before


def test_what_the_system_refuses_is_told(repo: MiniRepo, target: Path) -> None:
    """Only the attribute is missing: the content is proved, but the exit code is not 0."""
    repo.backup([file("f", xattrs={"no-such-namespace.x": "AAAA"})])
    result = run(repo, "--target", target)
    assert (result.code, (target / "f").read_bytes()) == (3, b"content")
    assert "NOT SET extended attribute 'no-such-namespace.x', 1 times, first on f" in result.out
    assert "tree hash equal" in result.out


def test_without_any_zstd_it_says_what_to_install(repo: MiniRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.backup([file("f")])
    monkeypatch.setenv("PATH", "")
    result = run(repo, "--check", decoder="command")
    assert (result.code, "install the command" in result.err) == (2, True)
    assert run(repo, "--list", decoder="command").code == 0


def test_the_program_is_plain_python_3_8() -> None:
    tree = ast.parse(recovery.files()["recover.py"], feature_version=(3, 8))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module).partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert modules <= sys.stdlib_module_names


def test_the_page_tells_the_truth(repo: MiniRepo, target: Path) -> None:
    if not shutil.which("zstd"):
        pytest.skip("there is no zstd command")
    page = recovery.files()["RECOVER.md"].decode()
    entries = [directory("docs"), file("docs/a.md", b"hello world\n")]
    snapshot = repo.backup(entries, {b"docs": "NAME"})
    commands = re.findall(r"^python3 recover.py (.*?) *(?:#.*)?$", page, re.MULTILINE)
    assert len(commands) == 6
    for number, command in enumerate(commands):
        words = command.replace("/new/empty/dir", str(target / str(number))).replace("3f9a", snapshot[:8])
        assert run(repo, *words.replace("'", "").split()).code == 0
    for line, expected in (("cd packs", ""), ("zstd -dc", ""), ("grep -a -o", sha(b"hello world\n").hex())):
        command = re.search(rf"^{line}.*$", page.replace("`", "\n"), re.MULTILINE)
        assert command
        done = subprocess.run(["sh", "-ec", command[0]], cwd=repo.root, capture_output=True, text=True, check=True)
        assert expected in done.stdout
        assert bool(expected) == bool(done.stdout)


# -- repositories that drkit wrote


def back_up(root: Path, source: Path) -> Snapshot:
    """Back up with drkit itself, into a new repository or one that is there."""
    store = LocalStore(str(root))
    if not root.exists():
        Repository.create(store, now=datetime.now(UTC))
    repository = Repository.open(store)
    more: Any = {"options": BackupOptions(), "progress": NullProgress(), "cache_dir": None}
    backup(repository, os.fsencode(source), now=lambda: datetime.now(UTC), **more)
    return repository.load(repository.resolve("latest"))


@pytest.mark.parametrize("decoder", ["zstandard", "command"])
def test_a_real_repository_comes_back(tmp_path: Path, source: Path, target: Path, decoder: str) -> None:
    if decoder == "command" and not shutil.which("zstd"):
        pytest.skip("there is no zstd command")
    (source / "docs/.claude-plugin").mkdir()
    (source / "docs/.claude-plugin/plugin.json").write_text('{"name": "the-docs"}')
    (source / "large").write_bytes(os.urandom(5 << 20))
    for i in range(700):
        (source / f"docs/deep/{i}").write_bytes(b"%d" % i)
    root = tmp_path / "real"
    back_up(root, source)
    (source / "docs/a.md").write_bytes(b"changed\n")
    (source / "docs/deep/er/b.bin").unlink()
    entries = scan(source)
    snapshot = back_up(root, source)
    result = run(root, "--target", target, decoder=decoder)
    assert (result.code, result.lost) == (0, [])
    assert f"tree hash equal: {snapshot.tree_sha256}" in result.out
    assert snapshot.tree_sha256 == tree_hash(entries)
    assert scan(target) == entries
    shutil.move(root / "index", root.with_name("index"))
    assert run(root, "--target", target.with_name("docs"), "--plugin", "the-docs", decoder=decoder).code == 0
    assert len(scan(target.with_name("docs"))) == sum(
        record.get("path", "").startswith("docs/") for record, _ in entries
    )
    for pack in root.glob("packs/*/*"):
        pack.chmod(0o644)
        os.truncate(pack, pack.stat().st_size - 9)
    assert run(root, "--check", decoder=decoder).code == 20
    shutil.move(root.with_name("index"), root)
    assert run(root, "--check", decoder=decoder).code == 0  # through the index alone


def test_both_writers_cut_the_same_manifest(repo: MiniRepo, tmp_path: Path, source: Path) -> None:
    for i in range(1500):
        (source / f"docs/deep/{i}").write_bytes(b"%d" % i)
    repo.chunk = 4 << 20  # the zeros of `holes` are one chunk for FastCDC
    repo.backup(scan(source))
    mine = json.loads(next(repo.root.glob("snapshots/*")).read_bytes())
    snapshot = back_up(tmp_path / "real", source)
    assert snapshot.manifest.level == mine["manifest"]["level"] == 1
    assert [child.id for child in snapshot.manifest.children] == [child["id"] for child in mine["manifest"]["children"]]
    assert snapshot.tree_sha256 == mine["tree_sha256"]
