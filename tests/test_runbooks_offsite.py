"""The runbooks of losing a place, an account or a key: every command is run, in order, after the loss."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.hrana import TOKEN, Hrana, serving
from tests.support.runbooks import Scene, bare_python, flip_in_packs
from treediff import Node, compare, describe

CONFIGURATION = 'repo = "repository"\n[stores.usb]\nurl = "usb"\n[stores.box]\nurl = "libsql-file:box.db"\n'


@pytest.mark.parametrize("lost", ["repo", "usb", "box"])
def test_store_lost(scene: Scene, lost: str) -> None:
    config = scene.home / "drkit.toml"
    config.write_text(CONFIGURATION)
    (scene.source / "later.md").write_text("new since the first backup")
    scene.before = describe(str(scene.source))
    assert scene.shell("drkit backup source", DRKIT_CONFIG=str(config)).returncode == 0
    scene.shell({"repo": "rm -r repository", "usb": "rm -r usb", "box": "rm box.db"}[lost])
    named = str(scene.repository) if lost == "repo" else lost
    good = "box" if lost == "usb" else "usb"
    said = scene.follow("store-lost", DRKIT_CONFIG=config, LOST=named, GOOD=good, SOURCE=scene.source)
    assert said[-1].count("    up to date; verified at level") == 3
    scene.judge()
    shutil.rmtree(scene.source)
    back = scene.shell(f"drkit restore latest --repo {named} --target source", DRKIT_CONFIG=str(config))
    assert back.returncode == 0, back
    scene.judge()


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_repository_damaged(scene: Scene, encrypted: bool) -> None:
    if encrypted:
        sealed(scene)
        scene.given = {"DRKIT_PASSWORD_FILE": str(scene.home / "old")}
    else:
        assert scene.shell("drkit copy --to copy", DRKIT_REPO=str(scene.repository)).returncode == 0
    flip_in_packs(scene)
    next((scene.repository / "index").iterdir()).unlink()
    next((scene.repository / "snapshots").iterdir()).unlink()
    found = scene.home / "found"
    said = scene.follow(
        "repository-damaged",
        DRKIT_REPO=scene.repository,
        COPY=scene.home / "copy",
        SOURCE=scene.source,
        FOUND=found,
    )
    assert said[1].replace("would be healed", "healed").count("healed: ") == said[2].count("healed: ") > 0
    assert "; 0 findings" in said[3]
    assert list((scene.repository / "quarantine").rglob("*.zst*"))
    scene.judge()


SECRET = "a passphrase of the tests"


def sealed(scene: Scene) -> str:
    """Make the repository anew, encrypted, with a passphrase and a sheet, and a copy; return the passphrase's slot."""
    shutil.rmtree(scene.repository)
    for name, text in (("old", SECRET), ("new", f"{SECRET}, a new one")):
        (scene.home / name).write_text(text)
        (scene.home / name).chmod(0o600)
    made = scene.shell(
        "drkit init --encrypt && drkit key export --output sheet && drkit backup source && drkit copy --to copy",
        DRKIT_REPO=str(scene.repository),
        DRKIT_PASSWORD_FILE=str(scene.home / "old"),
    )
    assert made.returncode == 0, made
    told = json.loads(scene.shell("drkit key list --json", DRKIT_REPO=str(scene.repository)).stdout)
    slot: str = next(one["id"] for one in told["slots"] if one["kind"] == "passphrase")
    return slot


def opens(scene: Scene, repo: str, **key: str) -> bool:
    """Whether a key opens a repository; with any other outcome than that and a wrong key, the test fails."""
    done = scene.shell(f"drkit snapshots --repo {repo}", **{name: str(scene.home / file) for name, file in key.items()})
    assert done.returncode in (0, 12), done
    return done.returncode == 0


def test_key_lost(scene: Scene) -> None:
    slot = sealed(scene)
    (scene.home / "old").rename(scene.home / "remembered-too-late")
    sheet = (scene.home / "sheet").read_text().splitlines()
    typed = [line.strip() for line in sheet if re.match(r" *[1-4]: ", line)]
    (scene.home / "typed").write_text("\n".join(typed))
    scene.follow(
        "key-lost",
        DRKIT_REPO=scene.repository,
        DRKIT_KEY_FILE=scene.home / "typed",
        DRKIT_NEW_PASSWORD_FILE=scene.home / "new",
        LOST=slot[:12],
        COPY=scene.home / "copy",
        SOURCE=scene.source,
        SHEET=scene.home / "sheet-2",
    )
    for repo in ("repository", "copy"):
        assert not opens(scene, repo, DRKIT_PASSWORD_FILE="remembered-too-late")
        assert opens(scene, repo, DRKIT_PASSWORD_FILE="new")
        assert opens(scene, repo, DRKIT_KEY_FILE="sheet-2")


def test_every_key_lost(scene: Scene) -> None:
    sealed(scene)
    for name in ("old", "sheet"):
        (scene.home / name).unlink()
    new = scene.home / "repository-2"
    scene.follow(
        "every-key-lost",
        OLD=scene.repository,
        NEW=new,
        SOURCE=scene.source,
        DRKIT_PASSWORD_FILE=scene.home / "new",
        SHEET=scene.home / "sheet",
    )
    assert (scene.home / "repository.no-key" / "drkit.json").exists()
    shutil.rmtree(scene.source)
    back = scene.shell("drkit restore --target source --repo repository-2", DRKIT_KEY_FILE=str(scene.home / "sheet"))
    assert back.returncode == 0, back
    scene.judge()


def test_key_leaked(scene: Scene) -> None:
    sealed(scene)
    said = scene.follow(
        "key-leaked",
        DRKIT_REPO=scene.repository,
        OLD_FILE=scene.home / "old",
        NEW_FILE=scene.home / "new",
        COPY=scene.home / "copy",
        SOURCE=scene.source,
        SHEET=scene.home / "sheet-2",
    )
    assert said[1].count("dropped: ") == 2  # the leaked passphrase, and the sheet that nobody had at hand
    for repo in ("repository", "copy"):
        for key in ({"DRKIT_PASSWORD_FILE": "old"}, {"DRKIT_KEY_FILE": "sheet"}):
            assert not opens(scene, repo, **key)
        assert opens(scene, repo, DRKIT_PASSWORD_FILE="new")
        assert opens(scene, repo, DRKIT_KEY_FILE="sheet-2")


@pytest.fixture
def turso(tmp_path: Path) -> Iterator[Hrana]:
    with serving(tmp_path / "turso.db") as server:
        yield server


@pytest.mark.parametrize("kind", ["turso", "encrypted", "s3", "rclone"])
def test_laptop_lost(scene: Scene, turso: Hrana, kind: str, request: pytest.FixtureRequest) -> None:
    store, database = "turso:", {"TURSO_DATABASE_URL": turso.url, "TURSO_AUTH_TOKEN": TOKEN}
    key: dict[str, str] = {}
    if kind == "encrypted":
        sealed(scene)
        key = {"DRKIT_KEY_FILE": str(scene.home.parent / "sheet")}
        shutil.move(scene.home / "sheet", scene.home.parent / "sheet")
    elif kind != "turso":
        store, database = request.getfixturevalue("servers").url(kind), {}
    scene.given = key
    there = scene.shell(f"drkit copy --to '{store}'", DRKIT_REPO=str(scene.repository), **database)
    assert there.returncode == 0, there
    for path in scene.home.iterdir():  # another machine: nothing but drkit
        if path.name != "bin":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    scene.follow(
        "laptop-lost",
        STORE=store,
        TURSO_DATABASE_URL=database.get("TURSO_DATABASE_URL", ""),
        TURSO_AUTH_TOKEN=database.get("TURSO_AUTH_TOKEN", ""),
        PLUGIN=scene.plugin,
        ONE=scene.home / "one",
        SOURCE=scene.source,
        SUMS=scene.home / "sums",
        LOCAL=scene.home / "repository",
    )
    scene.judge()
    assert not compare(inside(scene), describe(str(scene.home / "one")))
    shutil.rmtree(scene.source)
    back = scene.shell(f"drkit restore --repo '{store}' --target source", **database)
    assert back.returncode == 0, back
    scene.judge()


def inside(scene: Scene) -> dict[bytes, Node]:
    """The plugin's part of the tree as it was."""
    below = os.fsencode(scene.plugin) + b"/"
    return {path.removeprefix(below): node for path, node in scene.before.items() if path.startswith(below)}


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_turso_without_drkit(scene: Scene, turso: Hrana, encrypted: bool) -> None:
    if encrypted:
        sealed(scene)
        shutil.move(scene.home / "sheet", scene.home.parent / "sheet")
        scene.given = {"DRKIT_KEY_FILE": str(scene.home.parent / "sheet")}
    database = {"TURSO_DATABASE_URL": turso.url, "TURSO_AUTH_TOKEN": TOKEN}
    rows = f"{turso.url.replace('http', 'turso+http')}?row=65536"
    there = scene.shell(f"drkit copy --to '{rows}'", DRKIT_REPO=str(scene.repository), **database)
    assert there.returncode == 0, there
    assert len(turso.rows("chunks")) > len(turso.rows("objects")) + 3, "some object must have several rows"
    for path in (scene.source, scene.repository):
        shutil.rmtree(path)
    bare_python(scene.home, cryptography=encrypted)
    said = scene.follow(
        "turso-without-drkit",
        TURSO_URL=turso.url,
        TURSO_AUTH_TOKEN=TOKEN,
        REPO=scene.repository,
        SOURCE=scene.source,
        SNAP="latest",
    )
    assert re.fullmatch(r"\d+ objects\n", said[0])
    assert "tree hash equal" in said[-1].splitlines()[-1]
    scene.judge()


@pytest.mark.parametrize("left", [True, False], ids=["working-copy-left", "working-copy-lost"])
def test_code_host_locked_out(scene: Scene, left: bool) -> None:
    who = "-c user.name=Ann -c user.email=ann@example.org"
    made = scene.shell(
        "git init -q -b main source && git init -q --bare host.git && cd source && git remote add origin ../host.git"
        f" && git add . && git {who} commit -qm first && git push -q origin main && git fetch -q origin"
        f" && git {who} tag -m one v1 && git checkout -qb work && touch draft && git add draft"
        f" && git {who} commit -qm two"
    )
    assert made.returncode == 0, made
    scene.before = describe(str(scene.source))
    refs = scene.shell("git -C source for-each-ref").stdout
    if not left:
        assert scene.shell("drkit backup source", DRKIT_REPO=str(scene.repository)).returncode == 0
        shutil.rmtree(scene.source)
    shutil.rmtree(scene.home / "host.git")
    home = scene.home / "home.git"
    said = scene.follow(
        "code-host-locked-out",
        DRKIT_REPO=scene.repository,
        SOURCE=scene.source,
        HOME_REPO=home,
        SAVED=scene.home / "refs",
    )
    assert (scene.home / "refs").read_text() == refs
    assert refs.count("\n") == 4  # main, work, v1, and main as the host had it
    assert scene.shell("git -C home.git log --format=%s work").stdout == "two\nfirst\n"
    assert f"backup {scene.source}" in said[3]
    tree = {path: node for path, node in scene.before.items() if not path.startswith(b".git")}
    now = {path: node for path, node in describe(str(scene.source)).items() if not path.startswith(b".git")}
    assert compare(tree, now) == []


SCENES: tuple[Callable[..., None], ...] = (
    test_store_lost,
    test_repository_damaged,
    test_key_lost,
    test_every_key_lost,
    test_key_leaked,
    test_laptop_lost,
    test_turso_without_drkit,
    test_code_host_locked_out,
)
