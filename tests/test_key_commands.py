"""Where secrets come from, and the commands that manage them."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest

from drkit.clock import utc_now
from drkit.errors import UsageError
from drkit.repo import Repository
from drkit.repo.lock import KeyLock
from drkit.seal import KeySource, SealedStore, Secret
from drkit.seal.keys import slot_names
from drkit.seal.secret import key_lines, parse_key, read_key_file
from drkit.store import LocalStore
from tests.support.cli import Cli
from tests.support.keys import KEY

# Secrets


def test_a_key_is_read_as_base64_and_from_the_lines_of_a_sheet(tmp_path: Path) -> None:
    text = base64.b64encode(KEY.data).decode()
    lines = key_lines(KEY.data)
    for good in (text, f" {text[:20]}\n{text[20:]}\n", "\n".join(lines), "\n\n".join(lines[::-1]).upper()):
        assert parse_key(good) == KEY.data
    assert parse_key("before\n" + "\n".join(line.replace(" ", "") for line in lines) + "\nafter: 1") == KEY.data
    for number, line in enumerate(lines):
        digit = "0" if line[3] != "0" else "1"
        with pytest.raises(ValueError, match=f"line {number + 1}"):
            parse_key("\n".join([*lines[:number], line[:3] + digit + line[4:], *lines[number + 1 :]]))
        with pytest.raises(ValueError, match=f"line {number + 1}"):
            parse_key("\n".join([*lines[:number], *lines[number + 1 :]]))
    with pytest.raises(ValueError, match="line 2 of the key is mistyped"):
        parse_key("\n".join([*lines, lines[0].replace("1:", "2:")]))
    for bad in ("", "!", text[:-4], text + "AAAA"):
        with pytest.raises(ValueError, match="it "):
            parse_key(bad)
    (tmp_path / "bad").write_bytes(b"\xff")
    for path in ("bad", "none"):
        with pytest.raises(UsageError, match=path):
            read_key_file(str(tmp_path / path))


def test_where_a_passphrase_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_bytes(b"two words\r\n")
    key = tmp_path / "k"
    key.write_text(base64.b64encode(KEY.data).decode())
    asked: list[str] = []

    def ask() -> str:
        asked.append("")
        return "typed"

    def secrets(**environ: str) -> tuple[Secret, ...]:
        found = KeySource(environ, prompt=ask)
        assert found.secrets() is found.secrets()
        return found.secrets()

    passphrase = Secret("passphrase", b"two words")
    assert secrets(DRKIT_PASSWORD="two words") == (passphrase,)
    assert secrets(DRKIT_PASSWORD_FILE=str(file), DRKIT_PASSWORD_COMMAND="false") == (passphrase,)
    assert secrets(DRKIT_PASSWORD_COMMAND="echo two words") == (passphrase,)
    assert secrets(DRKIT_KEY_FILE=str(key), DRKIT_PASSWORD="two words") == (KEY, passphrase)
    assert secrets(DRKIT_KEY_FILE=str(key)) == (KEY,)
    assert asked == []
    assert secrets() == (Secret("passphrase", b"typed"),)
    assert len(asked) == 1
    for environ in (
        {"DRKIT_PASSWORD_COMMAND": "false"},
        {"DRKIT_PASSWORD_COMMAND": "'"},
        {"DRKIT_PASSWORD_FILE": "/no"},
    ):
        with pytest.raises(UsageError, match=r"DRKIT_PASSWORD_COMMAND|cannot read the password file"):
            secrets(**environ)
    with pytest.raises(UsageError, match=r"it ended with 1$") as caught:
        secrets(DRKIT_PASSWORD_COMMAND="sh -c 'exit 1' my-own-secret")
    assert "my-own-secret" not in str(caught.value)


# Commands


def test_the_commands(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("content that nobody reads")
    cli = Cli(tmp_path, DRKIT_REPO="repo", DRKIT_INVENTORY="inventory.db")
    assert cli("init", "--encrypt").code == 2
    assert cli("init", "--key-file", "k").code == 2
    assert cli.ok("init", "--encrypt", "--key-file", "k", "--json").json["encrypted"] is True
    assert stat.S_IMODE(os.stat(tmp_path / "k").st_mode) == 0o600
    assert cli("init", "--encrypt", "--key-file", "k2").code == 2
    assert not (tmp_path / "k2").exists()
    assert len(cli.ok("key", "list", "--json").json["slots"]) == 1  # no key needed
    for command in (["snapshots"], ["backup", "source"], ["verify"], ["key", "add"], ["key", "export"], ["prune"]):
        assert cli(*command, "--json").error["code"] == 12
    cli.environ["DRKIT_PASSWORD"] = "wrong"
    assert cli("snapshots", "--json").error["message"] == "the key that was given does not open " + str(
        tmp_path / "repo"
    )
    del cli.environ["DRKIT_PASSWORD"]
    cli.environ["DRKIT_KEY_FILE"] = "k"
    cli.ok("backup", "source", "--verify", "restore")
    assert not any(b"nobody reads" in path.read_bytes() for path in (tmp_path / "repo").rglob("*") if path.is_file())

    cli.environ["DRKIT_NEW_PASSWORD"] = "correct horse"
    added = cli.ok("key", "add", "--label", "ann", "--json").json
    assert (added["kind"], added["label"], added["twice"]) == ("passphrase", "ann", True)
    sheet = cli.ok("key", "export", "--output", "sheet.txt", "--qr", "code.svg", "--json").json
    assert b"<svg" in (tmp_path / "code.svg").read_bytes()
    assert all(line in (tmp_path / "sheet.txt").read_text() for line in sheet["lines"])
    assert "█" in (tmp_path / "sheet.txt").read_text()
    assert stat.S_IMODE(os.stat(tmp_path / "sheet.txt").st_mode) == 0o600
    assert cli("key", "export", "--output", "sheet.txt").code == 2
    assert cli("key", "export", "--qr", "code.gif").code == 2
    assert len(cli.ok("key", "list", "--json").json["slots"]) == 3
    for environ in ({"DRKIT_PASSWORD": "correct horse"}, {"DRKIT_KEY_FILE": "sheet.txt"}):
        other = Cli(tmp_path, DRKIT_REPO="repo", DRKIT_INVENTORY="inventory.db", **environ)
        assert other.ok("cat", "latest", "file").out == b"content that nobody reads"

    (tmp_path / "empty").write_text("\n")
    cli.environ["DRKIT_NEW_PASSWORD_FILE"] = "empty"
    del cli.environ["DRKIT_NEW_PASSWORD"]
    assert "is empty" in cli("key", "add").err
    assert cli("key", "rotate").code == 2
    (tmp_path / "password").write_text("correct horse\n")
    rotated = cli.ok("key", "rotate", "--password-file", "password", "--drop-others", "--json").json
    assert [slot["label"] for slot in rotated["slots"]] == ["", "ann"]
    assert [slot["id"] for slot in rotated["dropped"]] == [sheet["id"]]
    cli.ok("copy", "--to", "copy", "--verify", "content")
    cli.ok("verify", "--all", "--level", "content")
    ann = next(slot["id"] for slot in rotated["slots"] if slot["label"] == "ann")
    for wrong in ("", "zz"):
        assert cli("key", "remove", wrong).code == 2
    cli.ok("key", "remove", ann[:10])
    (last,) = cli.ok("key", "list", "--json").json["slots"]
    assert "last key slot" in cli("key", "remove", last["id"]).err
    assert "1 of" not in cli.ok("key", "list").text


def test_slots_are_changed_by_one_at_a_time(tmp_path: Path) -> None:
    cli = Cli(tmp_path, DRKIT_REPO="repo", DRKIT_INVENTORY="inventory.db", DRKIT_KEY_FILE="k")
    cli.ok("init", "--encrypt", "--key-file", "k")
    slot = cli.ok("key", "add", "--key-file", "k2", "--json").json["id"]
    keys = KeySource({"DRKIT_KEY_FILE": str(tmp_path / "k")})
    repo = Repository.open(LocalStore(bytes(tmp_path / "repo")), keys=keys)
    assert isinstance(repo.store, SealedStore)
    with KeyLock(repo.store, utc_now):
        for command in (["remove", slot[:8]], ["rotate", "--drop-others"], ["add", "--key-file", "k3"], ["export"]):
            assert cli("key", *command, "--json").error["code"] == 11
        assert len(cli.ok("key", "list", "--json").json["slots"]) == 2
        assert not (tmp_path / "k3").exists()
    assert cli("key", "export", "--output", "no/such/place", "--json").error["code"] == 2
    assert len(cli.ok("key", "list", "--json").json["slots"]) == 2
    for name in slot_names(slot):
        repo.store.inner.put(name, b"damaged", overwrite=True)
    listed = cli("key", "list", "--json")
    assert (listed.code, listed.json["damaged"]) == (3, [slot])
    cli.ok("key", "remove", slot[:8])
    assert cli.ok("key", "list", "--json").json["damaged"] == []
    assert not list(repo.store.list("locks/"))


def test_key_commands_on_a_repository_in_clear(tmp_path: Path) -> None:
    cli = Cli(tmp_path, DRKIT_REPO="repo")
    cli.ok("init")
    assert "is not encrypted" in cli("key", "list").err
    LocalStore(os.fsencode(tmp_path / "repo")).stat("drkit.json")
