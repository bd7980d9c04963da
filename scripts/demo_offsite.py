"""The demo with copies elsewhere: two stores, one place destroyed, one damaged, and everything back from what is left.

`scripts/demo --offsite` runs it. The bucket is on a real S3 server, the database on the test suite's stand-in for
Turso, both on this machine; the repository is encrypted.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import demo
from demo import DemoError, Step

sys.path.insert(0, os.path.dirname(demo.SCRIPTS))

CONFIGURATION = """\
repo = "repository"

[stores.cloud]
url = "{cloud}"

[stores.turso]
url = "turso:"

[copies]
require = 2
"""
PLACES = ("repo", "cloud", "turso")
FLIPS = 3  # packs in the bucket of which one byte is changed


class Offsite(demo.Demo):
    """The demo, of which the configuration names the repository; `cloud` is the bucket's URL."""

    cloud = ""

    @property
    def where(self) -> tuple[str, str]:
        """The option that names the configuration."""
        return "--config", os.path.join(self.work, "drkit.toml")


@contextmanager
def served(work: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Run a bucket and a database for as long as the block runs; yield the bucket's URL, and what leads to both."""
    from tests.support.hrana import TOKEN, serving
    from tests.support.servers import ENVIRONMENT, Servers

    os.environ.update(ENVIRONMENT)
    servers = Servers(Path(work))
    try:
        with serving(Path(work, "turso.db")) as turso:
            variables = {
                "TURSO_DATABASE_URL": turso.url,
                "TURSO_AUTH_TOKEN": TOKEN,
                "DRKIT_PASSWORD": "a demo's secret",
            }
            yield servers.url("s3"), {**ENVIRONMENT, **variables}
    finally:
        servers.close()


def make_repository(offsite: Offsite) -> str:
    """Write drkit.toml, and make an encrypted repository."""
    text = CONFIGURATION.format(cloud=offsite.cloud)
    Path(offsite.work, "drkit.toml").write_text(text, encoding="utf-8")
    print("     " + text.rstrip().replace("\n", "\n     "))
    offsite.run_drkit("init", "--encrypt")
    return "encrypted; a bucket and a database for its copies"


def back_up(offsite: Offsite) -> str:
    """Back the source up, which brings both stores up to date."""
    made = offsite.run_drkit("backup", offsite.source, accept=(0, 3))
    behind = [copy["name"] for copy in made["copies"] if not copy["ok"] or copy["lag"]]
    if behind or len(made["copies"]) != len(PLACES) - 1:
        raise DemoError(f"not up to date: {behind}")
    return (
        f"{made['files']} files, {made['plugins']} plugins, {made['bytes_added'] / 1e6:.1f} MB, in {len(PLACES)} places"
    )


def prove(offsite: Offsite) -> str:
    """Read everything back from every place and hash it."""
    for place in PLACES:
        arguments = [] if place == "repo" else ["--store", place]
        found = offsite.run_drkit("verify", "--all", "--level", "content", *arguments)
        if not found["ok"] or found["findings"]:
            raise DemoError(f"{place}: {found['findings']}")
    return f"{len(PLACES)} places, no findings"


def destroy(offsite: Offsite) -> str:
    """Lose the source, the repository, the inventory and the caches, and damage the bucket."""
    for name in ("source", "repository", "data", "cache"):
        shutil.rmtree(os.path.join(offsite.work, name))
    flipped = _flip_in_bucket(offsite.cloud)
    return f"the source, the repository and the inventory are gone, and {flipped} of the bucket's packs damaged"


def _flip_in_bucket(url: str) -> int:
    """Change a byte of a few packs in the bucket, and delete one: with the cloud's own tool, not with drkit's."""
    import boto3  # type: ignore[import-untyped]

    place, _, endpoint = url.removeprefix("s3://").partition("?endpoint=")
    bucket, _, folder = place.partition("/")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{folder}/packs/")["Contents"]
    names = random.Random(len(listed)).sample([row["Key"] for row in listed], min(FLIPS, len(listed)))
    for name in names:
        data = bytearray(client.get_object(Bucket=bucket, Key=name)["Body"].read())
        data[len(data) // 2] ^= 0x10
        client.put_object(Bucket=bucket, Key=name, Body=bytes(data))
    return len(names)


def restore_from_the_database(offsite: Offsite) -> str:
    """Restore everything from the database alone, as a bare machine would."""
    offsite.run_drkit("restore", "latest", "--repo", "turso", "--target", offsite.source)
    return offsite.judge(offsite.source)


def heal(offsite: Offsite) -> str:
    """Make the repository anew, and heal the bucket, each from what the other places have."""
    healed = []
    for place in ("repo", "cloud"):
        arguments = [] if place == "repo" else ["--repo", place]
        report = offsite.run_drkit("repair", *arguments, accept=(0, 3))
        if not report["ok"]:
            raise DemoError(f"lost: {report['lost'][:5]}")
        healed.append(f"{len(report['healed'])} objects of {'the repository' if place == 'repo' else place}")
    return " and ".join(healed)


def restore_from_everywhere(offsite: Offsite) -> str:
    """Restore from each place, and compare."""
    said = ""
    for place in PLACES:
        target = os.path.join(offsite.work, f"from-{place}")
        arguments = [] if place == "repo" else ["--repo", place]
        offsite.run_drkit("restore", "latest", *arguments, "--target", target)
        said = offsite.judge(target)
    return f"{said}, from {len(PLACES)} places"


def back_up_again(offsite: Offsite) -> str:
    """Go on as if nothing had happened."""
    back_up(offsite)
    print(offsite.run(offsite.drkit, *offsite.where, "status").rstrip())
    stores = offsite.run_drkit("status")["stores"]
    if [store["name"] for store in stores] != list(PLACES) or any(store["lag"] or store["failed"] for store in stores):
        raise DemoError(f"the status says {stores}")
    return "all places are up to date"


STEPS = (
    Step("Make the source", demo.make_source, essential=True),
    Step("Make a repository", make_repository, essential=True),
    Step("Back up, with two copies", back_up, essential=True),
    Step("Verify every byte of each", prove),
    Step("Lose the machine", destroy, essential=True),
    Step("Restore from the database", restore_from_the_database),
    Step("Heal the other two", heal),
    Step("Verify every byte of each", prove),
    Step("Restore from each", restore_from_everywhere),
    Step("Back up again", back_up_again),
)


def play_offsite(given: demo.Demo) -> bool:
    """Run the steps; return whether all went well."""
    with served(given.work) as (cloud, variables):
        offsite = Offsite(given.drkit, given.work, given.given_source, given.plugins, variables=variables)
        offsite.cloud = cloud
        return demo.play(offsite, STEPS)
