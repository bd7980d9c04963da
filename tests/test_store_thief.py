"""Stores that enforce what drkit only promises: a thief with the writer's credentials destroys no history.

The first is a bucket whose policy lets a writer add objects and replace or delete nothing but locks; the second has
versions and an object lock, so that a delete only hides. Both are a real S3 server.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from drkit.errors import DrkitError, ObjectExists, StoreError, StoreUnavailable
from drkit.model import Level
from drkit.progress import NullProgress
from drkit.repo import Repository, SnapshotRef
from drkit.store import Store, open_store
from drkit.store.wrap import Retrying
from drkit.verify import verify
from tests.support.cli import Cli
from tests.support.proxy import Proxy, proxied
from tests.support.repos import Bench, contents
from tests.support.servers import BUCKET, Servers

ROOT = Path(__file__).parent.parent
NIGHTS = 4


def writers_policy(method: str, path: str, headers: Message, body: bytes) -> tuple[int, bytes] | None:
    """Answer what S3 answers to whoever may put what is not there yet, and nothing else outside of `locks/`."""
    parts = urlsplit(path)
    if method == "POST" and "delete" in parse_qs(parts.query, keep_blank_values=True):
        keys = re.findall(rb"<Key>(.*?)</Key>", body)
        if all(b"/locks/" in key for key in keys):
            return None
        denied = b"".join(
            b"<Error><Key>%s</Key><Code>AccessDenied</Code><Message>no</Message></Error>" % k for k in keys
        )
        return 200, b'<?xml version="1.0"?><DeleteResult>' + denied + b"</DeleteResult>"
    harmless = method in {"GET", "HEAD"} or "/locks/" in unquote(parts.path)
    if harmless or (method == "PUT" and headers.get("If-None-Match") == "*"):
        return None
    return 403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"


@pytest.fixture
def bucket(servers: Servers) -> Iterator[tuple[str, Proxy]]:
    """A folder that is protected, and the server's own address, where its owner does as he likes."""
    with proxied(servers.endpoint("s3")) as proxy:
        proxy.rule = writers_policy
        yield servers.url("s3", endpoint=proxy.url), proxy


def owners(url: str, proxy: Proxy) -> str:
    return url.replace(proxy.url, proxy.server.geturl())


def names(store: Store) -> set[str]:
    return {info.name for info in store.list("") if not info.name.startswith("locks/")}


def check_all(store: Store, refs: list[SnapshotRef] | None = None) -> Repository:
    repo = Repository.open(store)
    report = verify(repo, refs or repo.snapshots(), level=Level.CONTENT, progress=NullProgress())
    assert report.findings == ()
    return repo


def nights(bench: Bench) -> dict[str, dict[bytes, bytes]]:
    """Back up some nights; return what each snapshot must give back."""
    history = {}
    for number in range(NIGHTS):
        bench.write("a", b"night %d\n" % number * 500)
        report = bench.back_up()
        history[str(report.snapshot)] = contents(bench.repo)
    return history


def held(store: Store) -> dict[str, dict[bytes, bytes]]:
    repo = check_all(store)
    return {str(ref.id): contents(repo, repo.load(ref)) for ref in repo.snapshots()}


def test_a_denied_delete_is_told_at_once(bucket: tuple[str, Proxy]) -> None:
    """S3 tells of it in an answer that says 200; to ask again would not help, and to believe it would be worse."""
    url, proxy = bucket
    store = open_store(url)
    store.put("a", b"bytes")
    proxy.reset()
    with pytest.raises(StoreError, match="AccessDenied") as caught:
        store.delete("a")
    assert not isinstance(caught.value, StoreUnavailable)
    assert "credentials" in caught.value.hint
    assert [method for method, _ in proxy.requests] == ["HEAD", "POST"]
    proxy.rule = busy
    with pytest.raises(StoreUnavailable):
        with_patience(store).delete("a")
    assert store.get("a") == b"bytes"


def busy(method: str, path: str, headers: Message, body: bytes) -> tuple[int, bytes] | None:
    if method != "POST":
        return None
    key = re.findall(rb"<Key>(.*?)</Key>", body)[0]
    error = b"<Error><Key>%s</Key><Code>SlowDown</Code><Message>later</Message></Error>" % key
    return 200, b'<?xml version="1.0"?><DeleteResult>' + error + b"</DeleteResult>"


def with_patience(store: Store) -> Store:
    """The same store, asked again without a pause."""
    assert isinstance(store, Retrying)
    return Retrying(store.inner, attempts=2, sleep=lambda _: None)


def test_a_whole_life_behind_a_policy(tmp_path: Path, bucket: tuple[str, Proxy]) -> None:
    """Everything but giving back space works with the credentials that may only add."""
    url, proxy = bucket
    cli = Cli(tmp_path, DRKIT_INVENTORY="inventory.db")
    (tmp_path / "drkit.toml").write_text(f'repo = "cloud"\n[stores.cloud]\nurl = "{url}"\nappend_only = true\n')
    plugin = tmp_path / "source/a/.claude-plugin"
    plugin.mkdir(parents=True)
    (plugin / "plugin.json").write_text('{"name": "a"}')
    cli.ok("init")
    for number in range(3):
        (tmp_path / "source/text").write_text(f"night {number}\n" * 100)
        cli.ok("backup", "source", "--verify", "content")
    cli.ok("verify", "--all", "--level", "restore")
    cli.ok("drill", "--full")
    cli.ok("guard", "exec", "a", "--source", "source", "--", "touch", str(tmp_path / "source/a/new"))
    cli.ok("restore-plugin", "a", "--target", "back")
    answer = cli("doctor", "--json").json
    assert not [one for one in answer["findings"] if one["code"].startswith(("copy-", "store-"))]
    rule = {check["name"]: check for check in answer["rule"]}
    assert rule["1 append-only or immutable"]["evidence"] == "cloud refused to delete"
    before = names(open_store(url))
    for words in (("forget", "--keep-last", "1"), ("prune", "--max-unused", "0%")):
        for repo in ("cloud", url):  # refused by drkit's word, and by the bucket's
            run = cli("--repo", repo, "--json", *words)
            assert (run.code, words) == (13, words), run
            assert names(open_store(url)) >= before
    cli.ok("verify", "--all", "--level", "content")
    assert cli.ok("--repo", owners(url, proxy), "forget", "--keep-last", "1", "--json").json["removed"]
    cli.ok("--repo", owners(url, proxy), "prune", "--max-unused", "0%")
    cli.ok("verify", "--all", "--level", "content")


def test_the_writers_credentials_destroy_no_history(tmp_path: Path, bucket: tuple[str, Proxy]) -> None:
    """He deletes, replaces, condemns, floods with false times, and waits for the owner to tidy up."""
    url, proxy = bucket
    bench = Bench(tmp_path, open_store(f"{url}&append-only=1"))
    history = nights(bench)
    thief, owner = open_store(url), open_store(owners(url, proxy))
    before = {name: owner.get(name) for name in names(owner)}
    for name in before:
        with pytest.raises(StoreError):
            thief.delete(name)
        with pytest.raises(StoreError):
            thief.put(name, b"ransom", overwrite=True)
        with pytest.raises(ObjectExists):
            thief.put(name, b"ransom")
    packs = [name.rpartition("/")[2].removesuffix(".zst") for name in before if name.startswith("packs/")]
    thief.put("prunes/thief", json.dumps({"packs": packs}).encode())
    thief.put("locks/backup-thief", json.dumps({"kind": "backup", "stamp": 1.0}).encode(), overwrite=True)
    for number in range(6):
        bench.now = datetime(2099 if number % 2 else 1999, 1, 1, tzinfo=UTC) + timedelta(days=number)
        bench.write("a", b"ransom %d" % number)
        bench.back_up()
    assert {name: owner.get(name) for name in before} == before
    cli = Cli(tmp_path, DRKIT_INVENTORY="inventory.db", DRKIT_REPO=owners(url, proxy))
    gone = cli("--json", "forget", "--keep-last", "1", "--keep-daily", "1", "--min-age", "14d")
    assert gone.json["removed"] == []
    cli("prune", "--min-age", "14d", "--max-unused", "0%", "--wait", "1s")
    assert history.items() <= held(owner).items()


# Versions and an object lock


@pytest.fixture
def locked(servers: Servers, tmp_path: Path) -> Iterator[tuple[str, Any]]:
    """A bucket with versions and an object lock, and a client of the server's own kind for what lies below drkit."""
    boto3 = pytest.importorskip("boto3")
    with proxied(servers.endpoint("s3")) as proxy:
        proxy.adds = double_wants
        client = boto3.client("s3", endpoint_url=proxy.url, region_name="us-east-1")
        name = f"locked-{os.urandom(4).hex()}"
        client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
        client.put_object_lock_configuration(
            Bucket=name,
            ObjectLockConfiguration={
                "ObjectLockEnabled": "Enabled",
                "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 30}},
            },
        )
        yield f"s3://{name}/laptop?checksum=1&endpoint={proxy.url}", client
        client.close()


def double_wants(sent: Message) -> dict[str, str]:
    """S3 takes a checksum for what it is, and a copy without; the double wants the header of the SDKs with both."""
    known = "x-amz-checksum-sha256" in sent or "x-amz-copy-source" in sent
    return {"x-amz-sdk-checksum-algorithm": "SHA256"} if known else {}


def recovery_program() -> str:
    """The program of docs/stores.md that shows again what a thief has hidden."""
    page = (ROOT / "docs/stores.md").read_text(encoding="utf-8")
    section = page[page.index("## An object lock") :]
    return section[section.index("```python\n") + 10 :].partition("```")[0]


def test_what_a_thief_hides_in_a_locked_bucket_comes_back(tmp_path: Path, locked: tuple[str, Any]) -> None:
    url, client = locked
    bucket = urlsplit(url).netloc
    bench = Bench(tmp_path, open_store(url))
    history = nights(bench)
    thief = open_store(url)
    written = {name: thief.get(name) for name in names(thief)}
    for number, name in enumerate(written):
        if number % 2:
            thief.put(name, b"ransom", overwrite=True)
        thief.delete(name)
        if number % 3 == 0:
            thief.put(name, b"ransom")
    with pytest.raises(DrkitError):
        check_all(open_store(url))
    versions = client.list_object_versions(Bucket=bucket)["Versions"]
    for version in versions:
        if "/locks/" not in version["Key"]:
            with pytest.raises(client.exceptions.ClientError):
                client.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
    program = recovery_program().replace("my-backups", bucket)
    exec(compile(program, "docs/stores.md", "exec"), {"s3": client})
    store = open_store(url)
    lasting = {name: data for name, data in written.items() if not name.startswith("hints/")}
    assert {name: store.get(name) for name in lasting} == lasting
    assert held(store) == history


def test_a_put_says_what_it_puts_where_a_lock_asks_for_it(servers: Servers) -> None:
    """S3 refuses a put without a checksum into a bucket with an object lock; the double does not."""
    sums: list[str | None] = []

    def listen(method: str, path: str, headers: Message, body: bytes) -> None:
        if method == "PUT":
            sums.append(headers.get("x-amz-checksum-sha256"))

    with proxied(servers.endpoint("s3")) as proxy:
        proxy.rule = listen
        for option, expected in (("", False), ("&checksum=1", True), ("&checksum=0", False)):
            sums.clear()
            open_store(f"s3://{BUCKET}/sums?endpoint={proxy.url}{option}").put("a", b"bytes", overwrite=True)
            assert [bool(sum_) for sum_ in sums] == [expected]
