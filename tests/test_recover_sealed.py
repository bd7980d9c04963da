"""recover.py and encrypted repositories: everything comes back with the key, and nothing without it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.backup import BackupOptions, backup
from drkit.model import Snapshot
from drkit.progress import NullProgress
from drkit.recovery import recover
from drkit.repo import Repository
from drkit.seal import KeySource, Secret
from drkit.seal.cipher import HEAD, STORED, TAG
from drkit.seal.keys import next_epoch, open_slots, rotate
from drkit.seal.secret import key_lines, parse_key
from drkit.store.local import LocalStore
from tests.support.mini_repo import scan, tree_hash
from tests.support.recovering import Result, run

KEY = Secret("keyfile", hashlib.sha256(b"the key of these tests").digest())
OTHER = Secret("keyfile", hashlib.sha256(b"another key").digest())
PHRASE = Secret("passphrase", "a phrase with an \u00fc".encode())


def now() -> datetime:
    return datetime.now(UTC)


class Sealed:
    """An encrypted repository in a directory, its source and its key file."""

    def __init__(self, home: Path, *secrets: Secret) -> None:
        self.root, self.source, self.target = home / "repo", home / "source", home / "target"
        self.key_file = home / "key"
        self.key_file.write_bytes(base64.b64encode(KEY.data) + b"\n")
        self.key_file.chmod(0o600)
        self.keys = KeySource({"DRKIT_KEY_FILE": str(self.key_file)})
        self.source.mkdir()
        for number in range(40):
            self.write(f"p{number % 4}/skills/s{number}.md", hashlib.shake_256(b"%d" % number).digest(9_000))
            self.write(f"p{number % 4}/.claude-plugin/plugin.json", b'{"name":"same"}')
        self.write("empty", b"")
        self.write("large", os.urandom(3 << 20))
        Repository.create(LocalStore(str(self.root)), now=now(), secrets=secrets or (KEY,))

    def write(self, path: str, data: bytes) -> None:
        (self.source / path).parent.mkdir(parents=True, exist_ok=True)
        (self.source / path).write_bytes(data)

    def open(self) -> Repository:
        return Repository.open(LocalStore(str(self.root)), keys=self.keys)

    def back_up(self, *tags: str) -> Snapshot:
        more: Any = {"options": BackupOptions(tags=tags), "progress": NullProgress(), "cache_dir": None}
        repo = self.open()
        backup(repo, os.fsencode(self.source), now=now, **more)
        return repo.load(repo.resolve("latest"))

    def recover(self, *arguments: str | Path, key: Path | None = None, **more: Any) -> Result:
        return run(self.root, *arguments, "--key-file", key or self.key_file, **more)

    def objects(self, folder: str) -> list[Path]:
        return sorted(path for path in (self.root / folder).rglob("*") if path.is_file())


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    made = Sealed(tmp_path)
    made.back_up()
    return made


def change(path: Path, edit: Callable[[bytes], bytes]) -> None:
    path.chmod(0o644)
    path.write_bytes(edit(path.read_bytes()))


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes((data[at] ^ 1,)) + data[at:][1:]


@pytest.mark.parametrize("decoder", ["zstandard", "command"])
def test_everything_comes_back(sealed: Sealed, decoder: str) -> None:
    if decoder == "command" and not shutil.which("zstd"):
        pytest.skip("there is no zstd command")
    sealed.write("p0/skills/s0.md", b"changed")
    snapshot = sealed.back_up("second")
    result = sealed.recover("--target", sealed.target, decoder=decoder)
    assert (result.code, result.lost) == (0, [])
    assert f"tree hash equal: {snapshot.tree_sha256}" in result.out
    assert snapshot.tree_sha256 == tree_hash(scan(sealed.source)) == tree_hash(scan(sealed.target))
    listed = sealed.recover("--list", decoder=decoder).out.splitlines()
    assert [line.endswith("[second]") for line in listed] == [False, True]
    assert sealed.recover("--check", "--plugin", "p1", decoder=decoder).code == 0
    shutil.rmtree(sealed.root / "index")
    assert sealed.recover("--check", decoder=decoder).code == 0
    for file in ("drkit.json", "RECOVER.md", *(str(path) for path in sealed.objects("keys")[::2])):
        (sealed.root / file).unlink()
    assert sealed.recover("--check", decoder=decoder).code == 0


def test_nothing_of_the_source_is_in_the_store(sealed: Sealed) -> None:
    sealed.write("a-telling-name/of a file.md", b"telling content, twice telling content")
    snapshot = sealed.back_up("telling-tag")
    inside = {path.relative_to(sealed.root).as_posix(): path.read_bytes() for path in sealed.objects(".")}
    clear = {"drkit.json", "drkit-copy.json", "recover.py", "RECOVER.md", *(n for n in inside if n.startswith("keys/"))}
    words = [b"telling", b"skills", b"claude-plugin", str(sealed.source).encode(), snapshot.tree_sha256.encode()]
    words += [snapshot.manifest.children[0].id.encode(), bytes.fromhex(snapshot.manifest.children[0].id)]
    for name, data in inside.items():
        assert name in clear or name.endswith(".enc")
        assert not [word for word in words if word in data or word in name.encode()], name
        assert name in clear or b"\x28\xb5\x2f\xfd" not in data[:100]  # no zstd frame
    settings = json.loads(inside["drkit.json"])
    assert settings.keys() == {"format", "repository_id", "encryption", "sealed", "checksum"}


@pytest.mark.parametrize("how", ["DRKIT_PASSWORD", "DRKIT_PASSWORD_FILE", "DRKIT_PASSWORD_COMMAND", "paper"])
def test_ways_to_give_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    sealed = Sealed(tmp_path, KEY, PHRASE)
    if how == "paper":
        sheet = tmp_path / "typed"
        sheet.write_text("THE SHEET\n\n" + "\n".join(key_lines(KEY.data)).upper() + "\n")
        assert sealed.recover("--list", key=sheet).code == 0
        sheet.write_text("\n".join(key_lines(KEY.data)[1:]))
        assert sealed.recover("--list", key=sheet).code == 2
        return
    file = tmp_path / "phrase"
    file.write_bytes(PHRASE.data + b"\n")
    value = {"DRKIT_PASSWORD_FILE": str(file), "DRKIT_PASSWORD_COMMAND": f"cat '{file}'"}
    monkeypatch.setenv(how, value.get(how, PHRASE.data.decode()))
    assert run(sealed.root, "--list").code == 0
    monkeypatch.setenv(how, value.get(how, PHRASE.data.decode()) + "?")
    assert run(sealed.root, "--list").code == (12 if how == "DRKIT_PASSWORD" else 2)
    if how == "DRKIT_PASSWORD_COMMAND":
        monkeypatch.setenv(how, "sh -c 'exit 3' my-own-secret")
        ran = run(sealed.root, "--list")
        assert "the command ended with 3" in ran.err
        assert "my-own-secret" not in ran.out + ran.err


def test_the_sheet_is_read_as_drkit_reads_it() -> None:
    for text in (base64.b64encode(KEY.data).decode(), "\n".join(key_lines(KEY.data)), " ".join(key_lines(KEY.data))):
        try:
            mine: bytes | str = recover.parse_key(text)
        except ValueError:
            mine = "no key"
        try:
            assert parse_key(text) == mine
        except ValueError:
            assert mine == "no key"
    digits = key_lines(KEY.data)
    for line, at in ((0, 4), (2, 12), (3, 20)):
        wrong = list(digits)
        text = wrong[line]
        wrong[line] = text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]
        with pytest.raises(ValueError, match=r"mistyped|no whole key"):
            recover.parse_key("\n".join(wrong))


def test_without_the_right_key_nothing_is_told(sealed: Sealed, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(base64.b64encode(OTHER.data))
    refused = sealed.recover("--target", sealed.target, key=wrong)
    assert (refused.code, refused.out, sealed.target.exists()) == (12, "", False)
    assert refused.err == "error: the key that was given does not open the repository\n"
    none = run(sealed.root, "--target", sealed.target)
    assert (none.code, "DRKIT_PASSWORD_FILE" in none.err) == (12, True)
    shutil.rmtree(sealed.root / "keys")
    lost = sealed.recover("--list")
    assert (lost.code, "key slots" in lost.err) == (20, True)


def test_without_cryptography_it_says_what_to_install(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = "import sys; sys.modules['cryptography'] = None; "
    program = (sealed.root / "recover.py").read_text()
    (sealed.root / "recover.py").chmod(0o644)
    place = program.index("import argparse")
    (sealed.root / "recover.py").write_text(program[:place] + blocked + program[place:])
    result = sealed.recover("--list")
    assert (result.code, "install the Python package cryptography" in result.err) == (2, True)


def test_a_damaged_chunk_costs_only_what_lies_in_it(sealed: Sealed) -> None:
    pack = max(sealed.objects("packs"), key=lambda path: path.stat().st_size)
    change(pack, flipped(3 * STORED + 1000))
    result = sealed.recover("--target", sealed.target)
    assert result.code == 3
    assert result.lost
    assert "do not authenticate" in result.err
    found = {path.name: path.read_bytes() for path in sealed.target.rglob("*") if path.is_file()}
    assert (
        found.items() <= {path.name: path.read_bytes() for path in sealed.source.rglob("*") if path.is_file()}.items()
    )
    assert len(found) > 2


@pytest.mark.parametrize("folder", ["packs", "index", "snapshots"])
def test_wherever_a_byte_is_changed_nothing_false_comes_back(sealed: Sealed, folder: str, tmp_path: Path) -> None:
    """Headers, ciphertext and tags of each object: what comes back is right, or named as lost."""
    (object_,) = sealed.objects(folder)
    data = object_.read_bytes()
    right = {path.relative_to(sealed.source): path.read_bytes() for path in sealed.source.rglob("*") if path.is_file()}
    for number, at in enumerate((0, 1, 2, 3, 4, HEAD, len(data) // 2, len(data) - TAG, len(data) - 1)):
        change(object_, lambda _, at=at: flipped(at)(data))  # type: ignore[misc]
        target = tmp_path / f"target{number}"
        result = sealed.recover("--target", target)
        assert result.code in ((0,) if folder == "index" else (3, 20)), (at, result.out, result.err)
        assert "authenticate" in result.err
        found = {path.relative_to(target): path.read_bytes() for path in target.rglob("*") if path.is_file()}
        assert found.items() <= right.items()
        assert result.code or found == right


def test_objects_exchanged_between_names_and_repositories(sealed: Sealed, tmp_path: Path) -> None:
    sealed.write("more", os.urandom(1 << 20))
    sealed.back_up()
    first, second = sealed.objects("packs")
    whole = first.read_bytes(), second.read_bytes()
    change(first, lambda _: whole[1])
    change(second, lambda _: whole[0])
    assert sealed.recover("--check").code == 20
    change(first, lambda _: whole[0])
    change(second, lambda _: whole[1])
    assert sealed.recover("--check").code == 0
    # A snapshot of another repository that the same key opens, put in as the newest.
    (tmp_path / "other").mkdir()
    other = Sealed(tmp_path / "other")
    other.back_up()
    (theirs,) = other.objects("snapshots")
    shutil.copy(theirs, sealed.root / "snapshots")
    result = sealed.recover("--check")
    assert (result.code, "is no object of this repository" in result.err) == (0, True)
    # A newer time in the name of one of our own.
    ours = sealed.objects("snapshots")[0]
    shutil.copy(ours, ours.with_name(re.sub(r"^\d{8}", "20991231", ours.name)))
    result = sealed.recover("--check")
    assert (result.code, "A NEWER SNAPSHOT IS DAMAGED" in result.out) == (3, True)


def reseal(path: Path, **changes: Any) -> None:
    """Change drkit.json as somebody does who knows the format: the checksum is right."""

    def edit(data: bytes) -> bytes:
        record = json.loads(data)
        record.pop("checksum")
        for keys, value in changes.items():
            inner = record
            *outer, last = keys.split("__")
            for key in outer:
                inner = inner[key]
            inner[last] = value
        record["checksum"] = hashlib.sha256(recover.canonical(record)).hexdigest()
        return json.dumps(record).encode()

    change(path, edit)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"repository_id": "f" * 32}, 12),
        ({"encryption__kdf__salt": base64.b64encode(bytes(16)).decode()}, 12),
        ({"encryption__kdf__n": 1 << 40}, 0),  # a key file needs no scrypt
        ({"encryption__cipher": "none"}, 0),
        ({"sealed": ""}, 0),
        ({"format__requires": []}, 20),
        ({"format__requires": ["quantum"]}, 20),
    ],
)
def test_settings_that_somebody_changed(sealed: Sealed, changes: dict[str, Any], code: int) -> None:
    """The key decides, not the settings; the copy is tried as well."""
    names = ("drkit.json", "drkit-copy.json")
    reseal(sealed.root / names[0], **changes)
    first = sealed.recover("--check")
    assert first.code == (0 if code == 12 else code), first.err
    reseal(sealed.root / names[1], **changes)
    both = sealed.recover("--check")
    assert both.code == code
    assert code or "somebody has changed it" in both.err


def test_what_looks_encrypted_is_never_an_empty_repository(sealed: Sealed, tmp_path: Path) -> None:
    sealed.back_up()
    for name in ("drkit.json", "drkit-copy.json"):
        change(sealed.root / name, lambda data: data[: len(data) // 2])
    ran = sealed.recover("--list")
    assert ran.code == 20
    assert "the settings that tell how are lost" in ran.err


def test_a_passphrase_for_a_repository_in_clear_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Repository.create(LocalStore(str(tmp_path / "clear")), now=now())
    monkeypatch.setenv("DRKIT_PASSWORD_FILE", str(tmp_path / "phrase"))
    assert "is it the one that you mean?" in run(tmp_path / "clear", "--list").err


def test_scrypt_cannot_be_made_to_take_all_memory(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("drkit.json", "drkit-copy.json"):
        reseal(sealed.root / name, encryption__kdf__n=1 << 30)
    monkeypatch.setenv("DRKIT_PASSWORD", "guess")
    result = run(sealed.root, "--check")
    assert (result.code, "n is 1073741824" in result.err) == (20, True)


def test_slots_that_somebody_changed(sealed: Sealed) -> None:
    first, second = sealed.objects("keys")
    data = first.read_bytes()
    for at in range(0, len(data), 60):
        change(first, lambda _, at=at: flipped(at)(data))  # type: ignore[misc]
        assert sealed.recover("--list").code == 0  # by the second copy
    change(second, lambda _: first.read_bytes())
    assert sealed.recover("--list").code == 12
    record = json.loads(data)
    for key, value in (("label", "trust me"), ("created", "2000-01-01"), ("replaces", ["0" * 64])):
        for path in (first, second):
            change(path, lambda _: json.dumps({**record, key: value}).encode())  # noqa: B023  # used at once
        assert sealed.recover("--list").code == 12, key


@settings(max_examples=40, deadline=None)
@given(spots=st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 255)), min_size=1, max_size=4), cut=st.booleans())
def test_whatever_is_damaged_nothing_wrong_is_restored(
    tmp_path_factory: pytest.TempPathFactory, spots: list[tuple[int, int]], cut: bool
) -> None:
    """Bytes anywhere in the repository are overwritten, or an object is cut short."""
    home = tmp_path_factory.getbasetemp() / "kept"
    if not home.exists():
        home.mkdir()
        Sealed(home).back_up()
    root, target = home / "damaged", home / "target"
    for path in (root, target):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(home / "repo", root)
    objects = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".py")
    for where, value in spots:
        at = where // len(objects)
        change(
            objects[where % len(objects)],
            lambda data, at=at, value=value: (  # type: ignore[misc]
                data[: at % max(1, len(data))] + (b"" if cut else bytes([value]) + data[at % max(1, len(data)) + 1 :])
            ),
        )
    code = recover.main(["--repo", str(root), "--target", str(target), "--key-file", str(home / "key")])
    assert code in {0, 3, 12, 20}
    right = {path.relative_to(home / "source"): path.read_bytes() for path in (home / "source").rglob("*.md")}
    found = {path.relative_to(target): path.read_bytes() for path in target.rglob("*.md")}
    assert found.items() <= right.items()
    assert code or found == right


def test_a_rotated_key_reads_old_and_new(sealed: Sealed) -> None:
    repo = sealed.open()
    rotate(LocalStore(str(sealed.root)), repo.config, sealed.keys, [], now=now)
    sealed.write("after", b"the rotation")
    sealed.keys = KeySource({"DRKIT_KEY_FILE": str(sealed.key_file)})
    sealed.back_up()
    opened = open_slots(LocalStore(str(sealed.root)), repo.config, sealed.keys)
    assert opened.ring.current == 2
    assert next_epoch(opened.ring).current == 3
    epochs = {path.read_bytes()[1] for path in sealed.objects("packs")}
    assert epochs == {1, 2}
    result = sealed.recover("--target", sealed.target)
    assert (result.code, (sealed.target / "after").read_bytes()) == (0, b"the rotation")
