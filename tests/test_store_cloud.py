"""Stores in clouds: what servers lack is noticed, lines that break lose nothing, and a whole backup lives there."""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest

from drkit.errors import DrkitError, ObjectExists, ObjectNotFound, StoreError, StoreUnavailable, UsageError
from drkit.store import Store, contract, open_store
from drkit.store.cloud import open_cloud, parse_url
from drkit.store.object import ObjectStore
from drkit.store.wrap import AppendOnly, ReadOnly, Retrying, Throttled
from tests.support.cli import Cli
from tests.support.proxy import MOMENTS, Proxy, proxied
from tests.support.servers import KINDS, Servers

NAME = "snapshots/20260101T000000.000000Z-x.json"
DATA = bytes(range(256)) * 40


def bare(url: str) -> ObjectStore:
    store = open_store(url)
    assert isinstance(store, Retrying)
    assert isinstance(store.inner, ObjectStore)
    return store.inner


def patient(url: str) -> Store:
    """The store with its retries, but without their pauses."""
    return Retrying(bare(url), sleep=lambda _: None)


# What servers can


@pytest.mark.parametrize("kind", KINDS)
def test_what_each_server_can(servers: Servers, kind: str) -> None:
    store = open_store(servers.url(kind))
    found = {ability.name: ability for ability in contract.examine(store, clock=time.time)}
    lacking = {name for name, ability in found.items() if not ability.ok}
    # rclone may also be caught half-way through a replacement.
    expected = {"conditional create", "native ranges"} if kind == "rclone" else set()
    assert lacking - {"replace"} == expected, [found[name] for name in lacking]
    assert list(store.list("")) == []


def test_doctor_says_what_a_bucket_can(servers: Servers, tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    run = cli("doctor", "--store", servers.url("rclone"), "--json")
    assert {"store-races", "store-whole-objects"} <= {finding["code"] for finding in run.json["findings"]}
    assert run.code in {3, 20}  # 20 where it is caught half-way through a replacement
    text = cli.ok("doctor", "--store", servers.url("s3") + "&append-only=1").text
    assert "yes  delete: what is deleted is gone" in text
    assert "no " not in {line[:3] for line in text.splitlines()}


def test_a_server_that_ignores_the_precondition_replaces_nothing(servers: Servers) -> None:
    url = servers.url("rclone")
    for _ in range(2):  # a server that is known, and one that is not
        store = bare(url)
        for name in ("a", "b", "c"):
            try:
                store.put(name, b"first")
            except ObjectExists:
                assert store.get(name) == b"first"
            with pytest.raises(ObjectExists):
                store.put(name, b"second")
    assert [store.get(name) for name in ("a", "b", "c")] == [b"first"] * 3
    assert store.keeps_precondition is None or store.keeps_precondition is False


def test_a_few_puts_cost_two_requests_each_and_those_to_a_known_server_one(servers: Servers) -> None:
    with proxied(servers.endpoint("s3")) as proxy:
        store = bare(servers.url("s3", endpoint=proxy.url))
        counts = []
        for number in range(6):
            proxy.reset()
            store.put(f"locks/{number}", DATA)
            counts.append([method for method, _ in proxy.requests])
    assert counts == [["HEAD", "PUT"]] * 3 + [["HEAD", "PUT", "PUT"], ["PUT"], ["PUT"]]


def test_ranges_of_a_server_that_gives_the_whole_object(servers: Servers) -> None:
    with proxied(servers.endpoint("rclone")) as proxy:
        store = bare(servers.url("rclone", endpoint=proxy.url))
        store.put("packs/a", DATA)
        assert store.get_range("packs/a", 100, 50) == DATA[100:150]
        assert store.ignores_ranges
        proxy.reset()
        assert store.get_range("packs/a", 7000, 3000) == DATA[7000:10000]
        assert [method for method, _ in proxy.requests] == ["HEAD"]  # it is kept, and known to be the same
        store.put("packs/a", DATA[::-1], overwrite=True)
        assert store.get_range("packs/a", 0, 10) == DATA[::-1][:10]


# Errors


def test_what_is_wrong_with_a_bucket_is_told(servers: Servers) -> None:
    store = patient(servers.url("s3").replace("drkit-tests", "no-such-bucket"))
    for call in (lambda: store.get("a"), lambda: store.put("a", b""), lambda: list(store.list(""))):
        with pytest.raises(StoreError, match="there is no bucket") as caught:
            call()
        assert "drkit makes no buckets" in caught.value.hint


def test_a_server_that_is_not_there(servers: Servers) -> None:
    servers.endpoint("s3")
    store = patient("s3://bucket/folder?endpoint=http://127.0.0.1:1")
    with pytest.raises(StoreUnavailable):
        store.get("a")


@pytest.mark.parametrize("status", [401, 403])
def test_a_denied_delete_is_an_error(servers: Servers, status: int) -> None:
    with proxied(servers.endpoint("s3")) as proxy:
        store = patient(servers.url("s3", endpoint=proxy.url))
        store.put("a", b"x")
        proxy.refuse = {"DELETE": status, "POST": status}
        with pytest.raises(StoreError) as caught:
            store.delete("a")
        assert not isinstance(caught.value, ObjectNotFound | StoreUnavailable)
        assert "credentials" in caught.value.hint
        proxy.refuse = {}
        assert store.get("a") == b"x"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_is_busy_is_asked_again(servers: Servers, status: int) -> None:
    with proxied(servers.endpoint("s3")) as proxy:
        url = servers.url("s3", endpoint=proxy.url)
        proxy.refuse = {"PUT": status}
        pauses: list[float] = []
        with pytest.raises(StoreUnavailable):
            Retrying(bare(url), attempts=4, sleep=pauses.append, jitter=lambda: 0.0).put("a", b"x")
        assert pauses == [0.2, 0.4, 0.8]


def test_missing_packages_are_named() -> None:
    with mock.patch.dict(sys.modules, {"obstore": None, "obstore.store": None}), pytest.raises(UsageError) as caught:
        open_store("s3://bucket")
    assert "pip install 'drkit[cloud]'" in caught.value.hint


# URLs


NO_URLS = """s3:// s3:///x s3://k:secret@b s3://b?secret=1 s3://b?limit=1MiB/s&limit=2MiB/s s3://b/../c s3://b?limit=secret
s3://b?endpoint=http://k:secret@h s3://b?append-only=secret gs://b?timeout=secret s3://b?env=SECRET_NOT_THERE_"""


@pytest.mark.parametrize("url", NO_URLS.split())
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


def test_options_of_urls() -> None:
    env = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    store = open_cloud("s3://bucket/some%20folder/?limit=4MiB/s&append-only=1&read-only=&timeout=30s", env)
    assert isinstance(store, ReadOnly)
    assert isinstance(store.inner, AppendOnly)
    assert isinstance(store.inner.inner, Throttled)
    assert parse_url(store.url).folder == "some folder"
    assert isinstance(open_cloud("s3://bucket?append-only=0", env), Retrying)


def test_two_accounts_in_one_environment(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    url = servers.url("azure")
    monkeypatch.setenv("SECOND_AZURE_STORAGE_ACCOUNT_KEY", "bm90IHRoZSBrZXk=")
    with pytest.raises(StoreError):
        bare(f"{url}&env=SECOND_").put("a", b"x")
    bare(url).put("a", b"x")


# Lines that break


@pytest.fixture
def proxy(servers: Servers) -> Iterator[Proxy]:
    with proxied(servers.endpoint("s3")) as served:
        yield served


def work(store: Store) -> None:
    """Everything that a store does, with its outcome checked."""
    store.put("locks/a", b"a")
    store.put(NAME, DATA)
    store.put("locks/a", b"b", overwrite=True)
    assert store.get(NAME) == DATA
    assert store.get_range(NAME, 5, 1000) == DATA[5:1005]
    assert store.stat(NAME).size == len(DATA)
    assert [info.name for info in store.list("")] == ["locks/a", NAME]
    store.delete("locks/a")
    with pytest.raises(ObjectNotFound):
        store.stat("locks/a")
    with suppress(ObjectNotFound):  # where the line broke, it cannot tell who deleted it
        store.delete("locks/a")
    with pytest.raises(ObjectExists):
        store.put(NAME, DATA[::-1])
    assert store.get(NAME) == DATA


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_line_that_breaks_at_any_request(servers: Servers, proxy: Proxy, moment: str) -> None:
    work(patient(servers.url("s3", endpoint=proxy.url)))
    requests = len(proxy.requests)
    assert requests > 12
    for number in range(requests):
        proxy.reset()
        proxy.cut(number, moment)
        work(patient(servers.url("s3", endpoint=proxy.url)))
        assert proxy.cuts == 1, number


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_line_that_stays_broken_is_told(servers: Servers, proxy: Proxy, moment: str) -> None:
    store = Retrying(bare(servers.url("s3", endpoint=proxy.url)), attempts=3, sleep=lambda _: None)
    store.put("a", DATA)
    for call in (lambda: store.get("a"), lambda: list(store.list("")), lambda: store.put("b", DATA)):
        proxy.reset()
        proxy.cut(0, moment, times=50)
        with pytest.raises(StoreUnavailable):
            call()
    proxy.reset()
    assert store.get("a") == DATA


# A whole backup


def make_source(path: Path, plugins: int, files: int) -> None:
    for number in range(plugins):
        folder = path / "plugins" / f"p{number:04}"
        (folder / ".claude-plugin").mkdir(parents=True)
        (folder / ".claude-plugin" / "plugin.json").write_text(f'{{"name": "name{number}"}}')
        for one in range(files):
            (folder / f"{one}.md").write_text(f"{number} {one} " * (number % 40 + one))


@pytest.mark.parametrize("kind", KINDS)
def test_backup_and_restore(servers: Servers, kind: str, tmp_path: Path) -> None:
    make_source(tmp_path / "source", 6, 5)
    cli = Cli(tmp_path, DRKIT_REPO=servers.url(kind), DRKIT_INVENTORY="inventory.db")
    cli.ok("init")
    with pytest.raises(AssertionError, match="there is a repository"):
        cli.ok("init")
    cli.ok("backup", "source")
    (tmp_path / "source" / "plugins" / "p0001" / "0.md").write_text("changed")
    cli.ok("backup", "source", "--verify", "restore")
    assert cli.ok("verify", "--all", "--level", "content", "--json").json["ok"]
    hashed = cli.ok("restore", "--target", "out", "--json").json["tree_sha256"]
    assert hashed == cli.ok("snapshots", "--json").json["snapshots"][-1]["tree_sha256"]
    cli.ok("restore-plugin", "name1", "--target", "plugin")
    assert (tmp_path / "plugin" / "0.md").read_text() == "changed"


@pytest.mark.parametrize("moment", ["before", "unanswered"])
def test_a_backup_over_a_line_that_breaks_again_and_again(
    servers: Servers, proxy: Proxy, moment: str, tmp_path: Path
) -> None:
    make_source(tmp_path / "source", 3, 4)
    cli = Cli(tmp_path, DRKIT_REPO=servers.url("s3", endpoint=proxy.url), DRKIT_INVENTORY="inventory.db")
    cli.ok("init")
    proxy.reset()
    for number in range(0, 60, 3):
        proxy.cut_also(number, moment)
    with mock.patch.object(Retrying, "_wait"):
        cli.ok("backup", "source")
        assert proxy.cuts > 5
        assert cli.ok("verify", "--level", "content", "--json").json["ok"]


def test_one_plugin_from_a_cold_store_in_ten_requests(servers: Servers, proxy: Proxy, tmp_path: Path) -> None:
    make_source(tmp_path / "source", 400, 9)
    cli = Cli(tmp_path, DRKIT_REPO=servers.url("s3", endpoint=proxy.url), DRKIT_INVENTORY="inventory.db")
    cli.ok("init")
    cli.ok("backup", "source")
    for number in range(2):
        (tmp_path / "source" / "plugins" / "p0007" / f"{number}.md").write_text("night")
        cli.ok("backup", "source")
    for count, plugin in enumerate(("plugins/p0007", "plugins/p0399", "name200")):
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "inventory.db").unlink()
        proxy.reset()
        cli.ok("restore-plugin", plugin, "--target", f"out{count}")
        assert len(proxy.requests) <= 10, proxy.requests  # the record of the restore among them
        assert proxy.received < 3_000_000
        warm = len(proxy.requests)
        proxy.reset()
        cli.ok("restore-plugin", plugin, "--target", f"again{count}")
        assert len(proxy.requests) < warm
    assert (tmp_path / "out0" / "1.md").read_text() == "night"


def test_after_many_scattered_nights_ten_requests_are_enough(servers: Servers, proxy: Proxy, tmp_path: Path) -> None:
    make_source(tmp_path / "source", 120, 9)
    cli = Cli(tmp_path, DRKIT_REPO=servers.url("s3", endpoint=proxy.url), DRKIT_INVENTORY="inventory.db")
    cli.ok("init")
    cli.ok("backup", "source")
    chance = random.Random(3)
    nights: Counter[int] = Counter({7: 0})
    for night in range(14):
        for number in {7, *chance.sample(range(120), 11)} if night % 2 else chance.sample(range(120), 12):
            (tmp_path / "source" / "plugins" / f"p{number:04}" / f"{night % 9}.md").write_text(
                f"night {night} {number}"
            )
            nights[number] += 1
        cli.ok("backup", "source")
    for turn in ("scattered", "pruned"):
        for count, (number, _) in enumerate(nights.most_common(3)):
            shutil.rmtree(tmp_path / "cache")
            (tmp_path / "inventory.db").unlink()
            proxy.reset()
            cli.ok("restore-plugin", f"name{number}", "--target", f"{turn}{count}")
            assert len(proxy.requests) <= 10, proxy.requests
            assert proxy.received < 3_000_000
            made, source = tmp_path / f"{turn}{count}", tmp_path / "source" / "plugins" / f"p{number:04}"
            assert {path.name: path.read_bytes() for path in made.glob("*.md")} == {
                path.name: path.read_bytes() for path in source.glob("*.md")
            }
        cli.ok("forget", "--keep-last", "2")
        cli.ok("prune")


def test_no_repository_in_a_bucket(servers: Servers, tmp_path: Path) -> None:
    cli = Cli(tmp_path, DRKIT_REPO=servers.url("s3"), DRKIT_INVENTORY="inventory.db")
    assert cli("snapshots").code == 10
    assert issubclass(StoreUnavailable, DrkitError)
