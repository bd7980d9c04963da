"""Encrypted repositories in real servers' buckets and in databases, and what opening one costs there."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from drkit.seal.names import is_clear
from drkit.store import open_store
from tests.support.cli import Cli
from tests.support.hrana import TOKEN, serving
from tests.support.proxy import Proxy, proxied
from tests.support.servers import KINDS, Servers

ROOT = Path(__file__).parent.parent


@pytest.fixture
def proxy(servers: Servers) -> Iterator[Proxy]:
    with proxied(servers.endpoint("s3")) as running:
        yield running


def make_source(path: Path, plugins: int, files: int) -> None:
    for number in range(plugins):
        folder = path / "plugins" / f"p{number:04}"
        (folder / ".claude-plugin").mkdir(parents=True)
        (folder / ".claude-plugin" / "plugin.json").write_text(f'{{"name": "name{number}"}}')
        for one in range(files):
            (folder / f"{one}.md").write_text(f"{number} {one} " * (number % 40 + one))


@pytest.mark.parametrize("kind", [*KINDS, "turso", "libsql-file"])
def test_backup_restore_and_copy(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> None:
    make_source(tmp_path / "source", 6, 5)
    with ExitStack() as stack:
        if kind == "turso":
            url = f"turso+{stack.enter_context(serving(tmp_path / 'turso')).url}"
        elif kind == "libsql-file":
            url = f"libsql-file:{tmp_path / 'file.db'}"
        else:
            url = request.getfixturevalue("servers").url(kind)
        cli = Cli(tmp_path, DRKIT_REPO=url, DRKIT_INVENTORY="inventory.db", TURSO_AUTH_TOKEN=TOKEN)
        cli.ok("init", "--encrypt", "--key-file", "key")
        cli.environ["DRKIT_KEY_FILE"] = "key"
        cli.ok("backup", "source")
        (tmp_path / "source" / "plugins" / "p0001" / "0.md").write_text("changed")
        cli.ok("backup", "source", "--verify", "restore")
        assert cli.ok("verify", "--all", "--level", "content", "--json").json["ok"]
        restored = cli.ok("restore", "--target", "out", "--json").json
        assert restored["tree_sha256"] == cli.ok("snapshots", "--json").json["snapshots"][-1]["tree_sha256"]
        cli.ok("restore-plugin", "name1", "--target", "plugin")
        assert (tmp_path / "plugin" / "0.md").read_text() == "changed"
        cli.ok("copy", "--to", "copy", "--verify", "content")
        cli.ok("key", "rotate")
        cli.ok("backup", "source")
        cli.ok("copy", "--to", "copy", "--verify", "content")
        cli.ok("forget", "--keep-last", "1", "--prune")
        assert cli.ok("verify", "--all", "--level", "content", "--json").json["ok"]
        if kind != "turso":
            store = open_store(url)
            assert all(info.name.endswith(".enc") or is_clear(info.name) for info in store.list(""))
            store.close()


def test_one_plugin_from_a_cold_store(servers: Servers, proxy: Proxy, tmp_path: Path) -> None:
    make_source(tmp_path / "source", 400, 9)
    counts: dict[bool, list[int]] = {}
    for encrypted in (False, True):
        cli = Cli(tmp_path, DRKIT_REPO=servers.url("s3", endpoint=proxy.url), DRKIT_INVENTORY="inventory.db")
        if encrypted:
            cli.ok("init", "--encrypt", "--key-file", "key")
            cli.environ["DRKIT_KEY_FILE"] = "key"
        else:
            cli.ok("init")
        cli.ok("backup", "source")
        (tmp_path / "source" / "plugins" / "p0007" / "0.md").write_text(f"night {encrypted}")
        cli.ok("backup", "source")
        counts[encrypted] = []
        for number, plugin in enumerate(("plugins/p0007", "plugins/p0399", "name200")):
            shutil.rmtree(tmp_path / "cache")
            (tmp_path / "inventory.db").unlink()
            proxy.reset()
            cli.ok("restore-plugin", plugin, "--target", f"out{number}{encrypted}")
            counts[encrypted].append(len(proxy.requests))
            assert proxy.received < 3_000_000
    # The list of key slots, and the slot; wherever the objects end.
    assert all(sealed <= min(plain + 3, 10) for plain, sealed in zip(*counts.values(), strict=True)), counts


def test_the_passphrase_is_asked_for_at_a_terminal(tmp_path: Path) -> None:
    def talk(*args: str, says: list[bytes]) -> tuple[int, bytes]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("DRKIT_", "TURSO_"))}
        environ = {**outside, "DRKIT_REPO": str(tmp_path / "repo"), "XDG_DATA_HOME": str(tmp_path / "data")}
        ours, theirs = pty.openpty()
        try:
            command = [sys.executable, "-m", "drkit", *args]
            process = subprocess.Popen(
                command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, cwd=ROOT, start_new_session=True
            )
            os.close(theirs)
            shown = b""
            for _ in range(1_000):
                if not select.select([ours], [], [], 60)[0]:
                    process.kill()
                    break
                try:
                    shown += os.read(ours, 4096)
                except OSError:  # it has ended
                    break
                if says and shown.endswith(says[0]):
                    os.write(ours, says[1])
                    del says[:2]
            return process.wait(60), shown
        finally:
            os.close(ours)

    code, shown = talk("init", "--encrypt", says=[b"new passphrase: ", b"secret\n", b"again: ", b"secret\n"])
    assert code == 0, shown
    assert b"secret" not in shown
    code, shown = talk("snapshots", says=[b"passphrase: ", b"secret\n"])
    assert code == 0, shown
    code, shown = talk("snapshots", says=[b"passphrase: ", b"wrong\n"])
    assert code == 12
    assert b"does not open" in shown
    says = [b"passphrase: ", b"secret\n", b"new passphrase: ", b"a\n", b"again: ", b"b\n"]
    code, shown = talk("key", "add", says=says)
    assert code == 2, shown
