"""What the configuration says of stores and copies, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.config import Config, CopiesConfig, StoreConfig, is_away, kind_of, load_config
from drkit.errors import UsageError


@pytest.mark.parametrize(
    ("url", "kind", "away"),
    [
        ("/srv/b", "local", False),
        ("file:///srv/b", "local", False),
        ("libsql-file:b.db", "local", False),
        ("s3://bucket/b", "cloud", True),
        ("az://bucket", "cloud", True),
        ("s3://bucket/b?endpoint=http://127.0.0.1:9000", "cloud", False),
        ("gs://bucket/b?endpoint=http%3A%2F%2Flocalhost", "cloud", False),
        ("s3://bucket/b?endpoint=https://s3.example.org", "cloud", True),
        ("turso:", "turso", True),
        ("turso://localhost.example.org", "turso", True),
        ("turso+http://localhost:8080", "turso", False),
    ],
)
def test_what_a_url_tells_of_a_store(url: str, kind: str, away: bool) -> None:
    assert (kind_of(url), is_away(url)) == (kind, away)
    assert (StoreConfig(url).medium, StoreConfig(url).away) == (kind, away)
    other = StoreConfig(url, kind="tape", offsite=not away)
    assert (other.medium, other.away) == ("tape", not away)


def test_a_name_stands_for_a_url_and_paths_count_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "drkit.toml"
    file.write_text('repo = "usb"\n[stores.usb]\nurl = "x"\n[stores.db]\nurl = "libsql-file:y.db"\nimmutable = true\n')
    config = load_config(str(file))
    assert config.repo == "usb"
    assert config.resolve("usb") == f"{tmp_path}/x"
    assert config.resolve("db") == f"libsql-file:{tmp_path}/y.db"
    assert config.resolve("s3://b") == "s3://b"
    assert config.stores["db"].immutable
    assert Config().copies == CopiesConfig(require=None, max_lag="24h")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[stores.a]\n", "url"),
        ('[stores.a]\nurl = ""\n', "stores.a: the URL is empty"),
        ('[stores."a/b"]\nurl = "x"\n', "stores.a/b: the name"),
        ('[stores.a]\nurl = "x"\n[stores.b]\nurl = "x"\n', "stores.b and stores.a are the same place"),
        ('[stores.a]\nurl = "x"\n[stores.b]\nurl = "./y/../x/"\n', "stores.b and stores.a are the same place"),
        ('[stores.a]\nurl = "x"\nregion = "y"\n', "region"),
        ('[stores.a]\nurl = "x"\n[copies]\nrequire = 2\n', "copies.require is 2"),
        ("[copies]\nrequire = -1\n", "copies.require is -1"),
        ('repo = "a"\n[stores.a]\nurl = "x"\n[copies]\nrequire = 1\n', "copies.require is 1"),
        ("[copies]\nmax_lag = -1\n", "copies.max_lag is -1"),
        ('[copies]\nmax_lag = "soon"\n', "copies.max_lag: 'soon'"),
        ("[copies]\nmax_lag = true\n", "max_lag"),
    ],
)
def test_what_is_wrong_with_stores_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=named):
        load_config(str(file))


@pytest.mark.parametrize(
    "url",
    [
        "s3://k:hush@b/x",
        "s3://b/x?AWS_SECRET_ACCESS_KEY=hush",
        "s3://b/x?endpoint=http://u:hush@127.0.0.1:9",
        "az://c/x?region=r&sas=hush",
        "turso://h?authToken=hush",
        "turso://u:hush@h",
        "libsql://h?row=1&jwt=hush",
    ],
)
@pytest.mark.parametrize("text", ['repo = "{}"\n', 'repo = "r"\n[stores.x]\nurl = "{}"\n'])
def test_credentials_in_a_url_are_refused_and_not_repeated(tmp_path: Path, text: str, url: str) -> None:
    """What stands in the file would else be printed with each warning about the store, and by each status."""
    file = tmp_path / "drkit.toml"
    file.write_text(text.format(url))
    with pytest.raises(UsageError, match="URL holds credentials") as refused:
        load_config(str(file))
    assert "hush" not in str(refused.value) + refused.value.hint


@pytest.mark.parametrize(
    "url", ["/a@b?key=1", "s3://b/a@b?env=X_&region=r", "turso://h?row=5&request=9", "libsql-file:x@y?token=z"]
)
def test_what_only_looks_a_little_like_credentials_is_none(tmp_path: Path, url: str) -> None:
    file = tmp_path / "drkit.toml"
    file.write_text(f'repo = "r"\n[stores.x]\nurl = "{url}"\n')
    assert "x" in load_config(str(file)).stores


@pytest.mark.parametrize(
    ("max_lag", "behind", "seconds", "too_far"),
    [
        *((0, 0, 0, False), (0, 1, 1, True), (3, 3, 1e9, False), (3, 4, 0, True)),
        *(("1h", 99, 3600, False), ("1h", 1, 3601, True), ("1h", 0, 0, False)),
    ],
)
def test_how_far_is_too_far(max_lag: int | str, behind: int, seconds: float, too_far: bool) -> None:
    assert CopiesConfig(max_lag=max_lag).too_far(behind, seconds) is too_far
