"""The made-up marketplace: the same seed gives the same tree, and every trap is really there."""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
from collections import Counter
from pathlib import Path

import pytest

from marketplace import MANIFEST, Summary, generate, main, multiply
from marketplace_text import Writer, subset
from treediff import Node, compare, describe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Summary]:
    """The marketplace of the default size, without the big file."""
    root = tmp_path_factory.mktemp("marketplace") / "tree"
    return os.fsencode(root), generate(str(root), large=0)


def files_of(root: bytes) -> dict[bytes, bytes]:
    """Relative path and content of every regular file."""
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                found[os.path.relpath(path, root)] = Path(os.fsdecode(path)).read_bytes()
    return found


def test_the_size_and_the_duplicates_are_those_of_real_marketplaces(made: tuple[bytes, Summary]) -> None:
    root, summary = made
    files = files_of(root)
    sizes = sorted(map(len, files.values()))
    manifests = [path for path in files if path == MANIFEST or path.endswith(b"/" + MANIFEST)]
    assert (summary.plugins, len(manifests)) == (235, 235)
    assert (summary.files, summary.size) == (len(files), sum(sizes))
    assert 1_100 <= len(files) <= 1_300
    assert 800 <= sizes[len(sizes) // 2] <= 1_400
    assert 10 <= sum(10_000 <= size <= 60_000 for size in sizes) < len(sizes) // 5
    copies = Counter(hashlib.sha256(content).digest() for content in files.values())
    assert 0.09 <= 1 - len(copies) / len(files) <= 0.13
    assert copies.most_common(1)[0][1] == 61
    assert {path.rsplit(b"/", 1)[1] for path, content in files.items() if not content} == {b"README.md"}


def test_the_summary_counts_what_is_on_disk(made: tuple[bytes, Summary]) -> None:
    root, summary = made
    types = Counter(node.type for node in describe(root).values())
    assert types == {"file": summary.files, "directory": summary.directories, "link": summary.links}


def test_the_same_seed_gives_the_same_tree(tmp_path: Path) -> None:
    first = generate(str(tmp_path / "a"), plugins=12, seed=3, large=100_000)
    old_umask = os.umask(0o077)
    try:
        second = generate(os.fsencode(tmp_path / "b"), plugins=12, seed=3, large=100_000)
    finally:
        os.umask(old_umask)
    assert first == second
    assert compare(describe(str(tmp_path / "a")), describe(str(tmp_path / "b"))) == []


def test_another_seed_gives_another_tree(tmp_path: Path) -> None:
    for seed in (1, 2):
        generate(str(tmp_path / str(seed)), plugins=12, seed=seed, large=0)
    assert files_of(os.fsencode(tmp_path / "1")) != files_of(os.fsencode(tmp_path / "2"))


def test_traps_of_names(made: tuple[bytes, Summary]) -> None:
    root, summary = made
    expected = {
        "space": b" ",
        "newline": b"\n",
        "backslash": b"\\",
        "quotes": b'"',
        "leading-dash": b"-rf",
        "unicode": "ï".encode(),
        "not-utf8": b"\xe9",
        "long-name": b"long-long-",
    }
    assert expected.keys() <= summary.traps.keys() | set(summary.skipped)
    for what in expected.keys() & summary.traps.keys():
        path = summary.traps[what]
        assert expected[what] in os.path.basename(path)
        assert os.path.isfile(os.path.join(root, path))
    if "long-name" in summary.traps:
        assert len(os.path.basename(summary.traps["long-name"])) == 255


def test_traps_of_types_and_links(made: tuple[bytes, Summary]) -> None:
    root, summary = made
    nodes, traps = describe(root), summary.traps
    assert not os.path.exists(os.path.join(root, traps["dangling"]))
    assert nodes[traps["dangling"]].type == "link"
    assert os.path.isfile(os.path.join(root, traps["link"]))
    assert os.path.isfile(os.path.join(root, traps["link-up"]))
    assert os.path.isdir(os.path.join(root, traps["link-to-directory"]))
    assert os.listdir(os.path.join(root, traps["empty-directory"])) == []
    groups = {group: [path for path in nodes if nodes[path].group == group] for group in _groups(nodes)}
    inside, across = groups[nodes[traps["hard-link"]].group], groups[nodes[traps["hard-link-across"]].group]
    assert [len(names) for names in groups.values()] == [2, 2]
    assert [len({b"/".join(path.split(b"/")[:3]) for path in names}) for names in (inside, across)] == [1, 2]


def _groups(nodes: dict[bytes, Node]) -> set[bytes]:
    return {node.group for node in nodes.values() if node.group}


def test_traps_of_content_mode_and_time(made: tuple[bytes, Summary]) -> None:
    root, summary = made
    nodes, files, traps = describe(root), files_of(root), summary.traps
    assert nodes[traps["read-only"]].mode == 0o444
    assert not files[traps["no-final-newline"]].endswith(b"\n")
    assert b"\r\n" in files[traps["carriage-returns"]]
    assert nodes[traps["before-1970"]].mtime_ns < 0
    executable = [path for path, node in nodes.items() if node.type == "file" and node.mode & stat.S_IXUSR]
    assert len(executable) > 20
    assert all(path.endswith(b".sh") for path in executable)
    years = {node.mtime_ns // 10**9 // 31_556_952 for node in nodes.values()}
    assert len(years) > 8
    assert sum(node.mtime_ns % 1_000 != 0 for node in nodes.values()) > len(nodes) * 0.9
    if "xattr" in traps:
        assert nodes[traps["xattr"]].xattrs == (("user.origin", b"made\0up\xff"),)
        assert nodes[traps["xattr-directory"]].xattrs


def test_traps_of_plugins(made: tuple[bytes, Summary]) -> None:
    root, summary = made
    files = files_of(root)
    plugins = {path.removesuffix(MANIFEST).rstrip(b"/") for path in files if path.endswith(MANIFEST)}
    assert summary.traps["nested"] in plugins
    assert any(summary.traps["nested"].startswith(plugin + b"/") for plugin in plugins)
    twin = summary.traps["twin"]
    same = [plugin for plugin in plugins if os.path.basename(plugin) == os.path.basename(twin)]
    assert len({plugin.count(b"/") for plugin in same}) == 2
    packs = {plugin.partition(b"/plugins/")[0] for plugin in plugins if b"-pack/plugins/" in plugin}
    assert packs
    assert not packs & plugins
    manifests = [files[plugin + b"/" + MANIFEST] for plugin in plugins]
    kinds = Counter(_kind_of_name(manifest) for manifest in manifests)
    assert kinds.keys() == {"str", "int", "NoneType", "no object", "no JSON"}
    assert kinds["str"] > 200


def _kind_of_name(manifest: bytes) -> str:
    try:
        value = json.loads(manifest)
    except ValueError:
        return "no JSON"
    return type(value["name"]).__name__ if isinstance(value, dict) else "no object"


def test_the_big_file_is_noise_and_text(tmp_path: Path) -> None:
    summary = generate(str(tmp_path / "tree"), plugins=12, large=2_500_000)
    content = (tmp_path / "tree" / os.fsdecode(summary.traps["large"])).read_bytes()
    assert len(content) == 2_500_000
    assert max(content[:1_600_000]) > 250
    assert content[-500_000:].isascii()


def test_too_few_plugins_and_a_full_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="12 are needed"):
        generate(str(tmp_path), plugins=11)
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        generate(str(tmp_path), plugins=12)
    assert os.listdir(tmp_path) == ["mine"]


def test_multiply_rewrites_a_seventh_of_the_lines(tmp_path: Path) -> None:
    made = generate(str(tmp_path / "one"), plugins=12, large=100_000)
    many = multiply(str(tmp_path / "one"), str(tmp_path / "many"), 3)
    assert many.files == made.files * 3
    assert many.directories == made.directories * 3 + 3
    original = files_of(os.fsencode(tmp_path / "one"))
    copies = [files_of(os.fsencode(tmp_path / "many" / f"copy{number:04d}")) for number in range(3)]
    assert [copy.keys() for copy in copies] == [original.keys()] * 3
    assert copies[0] != copies[1]
    assert copies[0][made.traps["large"]] == original[made.traps["large"]]
    pairs = [
        (before, after)
        for path, content in original.items()
        if b"\0" not in content
        for before, after in zip(content.split(b"\n"), copies[0][path].split(b"\n"), strict=True)
        if before
    ]
    assert 0.10 < sum(before != after for before, after in pairs) / len(pairs) < 0.18


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path / "one"), "--plugins", "12", "--large", "0"])
    main([str(tmp_path / "two"), "--multiply", str(tmp_path / "one"), "--copies", "2"])
    assert "files" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "two")) == ["copy0000", "copy0001"]
    with pytest.raises(SystemExit, match="is not empty"):
        main([str(tmp_path / "one"), "--plugins", "12"])


def test_text_is_the_same_for_the_same_seed() -> None:
    texts = {Writer(random.Random(5), "cloud").document("Title", 4_000) for _ in range(3)}
    assert len(texts) == 1
    assert 4_000 <= len(texts.pop()) < 6_500
    assert sorted(subset(random.Random(1), range(20), 20)) == list(range(20))
