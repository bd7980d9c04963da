"""drkit.toml: strict, and where it is looked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drkit.config import Config, load_config
from drkit.errors import UsageError


def test_without_a_file_everything_has_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config() == Config()
    assert load_config().plugins.markers == (".claude-plugin/plugin.json",)


def test_the_file_in_the_current_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("drkit.toml").write_text(
        'repo = "b"\n[backup]\nexclude = ["*.log"]\n[plugins]\nmarkers = []\nglobs = ["p/*"]\n'
    )
    config = load_config()
    assert config.repo == "b"
    assert config.backup.exclude == ("*.log",)
    assert (config.plugins.markers, config.plugins.globs) == ((), ("p/*",))


@pytest.mark.parametrize(
    ("written", "meant"),
    [("b", "{dir}/b"), ("/srv/b", "/srv/b"), ("file:///srv/b", "file:///srv/b"), ("~/b", "{home}/b")],
)
def test_a_relative_repository_counts_from_the_file(tmp_path: Path, written: str, meant: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(f'repo = "{written}"')
    expected = meant.format(dir=tmp_path, home=os.path.expanduser("~"))
    assert load_config(str(file)).repo == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("repos = 'x'", "repos"),
        ("[backup]\nexlude = []", r"exlude.*\$\.backup"),
        ("[plugins]\nglobs = 'x'", r"\$\.plugins\.globs"),
        ("repo = 3", r"\$\.repo"),
        ("repo = = 1", "line 1"),
        ("repo = '\udcff'", "utf-8"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=f"x.toml: .*{named}"):
        load_config(str(file))


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no configuration file at"):
        load_config(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match="cannot read"):
        load_config(str(tmp_path))
