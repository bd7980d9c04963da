"""Merging a proposal into what is there: nothing that a person wrote is lost, and nothing comes twice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enhance.frontmatter import parse_frontmatter
from enhance.pipeline.diff3 import merge_lines
from enhance.pipeline.merge import Merged, add_sections, merge, sections

SKILL = b"skills/x/SKILL.md"
BASE = b"---\nname: x\ndescription: Does x.\n---\n\n# X\n\n## Use\n\nRun it.\n\n## Limits\n\nNone.\n"


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged", "conflicts"),
    [
        ("abc", "abc", "axc", "axc", 0),
        ("abc", "axc", "abc", "axc", 0),
        ("abc", "axc", "axc", "axc", 0),
        ("abcde", "Xbcde", "abcdY", "XbcdY", 0),
        ("abc", "aXc", "aYc", "aXc", 1),
        ("abc", "ac", "aYc", "ac", 1),
        ("abc", "aYc", "ac", "aYc", 1),
        ("abc", "", "abcd", "", 1),
        ("abc", "abcP", "abcQ", "abcP", 1),
        ("", "a", "b", "a", 1),
        ("abcdefg", "aXcdefg", "abcdeYg", "aXcdeYg", 0),
    ],
)
def test_lines(base: str, mine: str, theirs: str, merged: str, conflicts: int) -> None:
    found, hunks = merge_lines(lines(*base), lines(*mine), lines(*theirs))
    assert found == lines(*merged)
    assert len(hunks) == conflicts
    if conflicts:
        assert hunks[0].kept != hunks[0].left_out


texts = st.lists(st.sampled_from(["a", "b", "c", "d", ""]), max_size=12).map(lambda chosen: lines(*chosen))


@settings(max_examples=300)
@given(texts, texts, texts)
def test_lines_of_a_person_stay_and_of_the_proposal_none_is_lost_in_silence(a: bytes, b: bytes, c: bytes) -> None:
    merged, hunks = merge_lines(a, b, c)
    base, told = a.splitlines(), b"".join(hunk.left_out for hunk in hunks).splitlines()
    for line in set(b.splitlines()) - set(base):
        assert merged.splitlines().count(line) >= b.splitlines().count(line)
    for line in set(c.splitlines()) - set(base) - set(b.splitlines()):
        assert merged.splitlines().count(line) + told.count(line) >= c.splitlines().count(line)


@settings(max_examples=100)
@given(texts, texts)
def test_only_one_side_changed(base: bytes, other: bytes) -> None:
    assert merge_lines(base, base, other) == (other, [])
    assert merge_lines(base, other, base) == (other, [])
    assert merge_lines(base, other, other) == (other, [])


def test_a_last_line_without_an_end_stays_so_and_is_never_joined() -> None:
    assert merge_lines(b"a\nb", b"a\nb", b"a\nb") == (b"a\nb", [])
    assert merge_lines(b"a\nb\nc", b"X\nb\nc", b"a\nb\nc") == (b"X\nb\nc", [])
    merged, _ = merge_lines(b"a\n", b"P", b"a\nb\n")
    assert b"Pb" not in merged


def test_a_new_file_is_what_was_proposed() -> None:
    assert merge(SKILL, base=None, mine=None, theirs=BASE).data == BASE


def test_what_a_person_deleted_stays_deleted_and_the_new_proposal_is_told() -> None:
    assert merge(SKILL, base=BASE, mine=None, theirs=BASE) == Merged(None)
    told = merge(SKILL, base=BASE, mine=None, theirs=BASE + b"more\n")
    assert told.data is None
    assert [hunk.left_out for hunk in told.conflicts] == [BASE + b"more\n"]


def test_the_base_is_the_last_proposal_so_a_persons_lines_survive_every_new_one() -> None:
    mine = BASE.replace(b"Run it.\n", b"Run it.\nBut never on Fridays.\n")
    second = merge(SKILL, base=BASE, mine=mine, theirs=BASE.replace(b"None.", b"One hundred files."))
    assert second.conflicts == ()
    assert second.data is not None
    assert b"never on Fridays" in second.data
    assert b"One hundred files." in second.data
    # The next base is the second *proposal*: were it the merged file, a third without the line would take it away.
    proposed = BASE.replace(b"None.", b"One hundred files.")
    third = merge(SKILL, base=proposed, mine=second.data, theirs=proposed.replace(b"# X", b"# The X"))
    assert third.data is not None
    assert b"never on Fridays" in third.data
    assert b"# The X" in third.data


def test_on_a_conflict_the_persons_text_stays_and_the_hunk_is_told() -> None:
    mine, theirs = BASE.replace(b"Run it.", b"Ask me."), BASE.replace(b"Run it.", b"Start it.")
    merged = merge(SKILL, base=BASE, mine=mine, theirs=theirs)
    assert merged.data == mine
    assert [(hunk.path, hunk.kept, hunk.left_out) for hunk in merged.conflicts] == [
        (SKILL, b"Ask me.\n", b"Start it.\n")
    ]


def test_frontmatter_is_merged_by_keys_and_always_readable() -> None:
    mine = BASE.replace(b"description: Does x.", b"description: Mine.\nlicense: MIT")
    theirs = BASE.replace(b"description: Does x.", b"description: Theirs.\ncompatibility: Linux")
    merged = merge(SKILL, base=BASE, mine=mine, theirs=theirs)
    assert merged.data is not None
    head = parse_frontmatter(merged.data)
    assert head.mapping == {"name": "x", "description": "Mine.", "license": "MIT", "compatibility": "Linux"}
    assert [hunk.left_out for hunk in merged.conflicts] == [b"---\ndescription: Theirs.\n---\n"]


def test_a_head_that_needs_no_change_keeps_its_bytes() -> None:
    odd = BASE.replace(b"name: x\n", b"name:   'x'  # mine\n")
    merged = merge(SKILL, base=BASE, mine=odd, theirs=BASE.replace(b"None.", b"Some."))
    assert merged.data == odd.replace(b"None.", b"Some.")


# Without a base: the whole body is a person's


def test_without_a_base_no_line_of_the_body_goes_and_new_sections_come_after_it() -> None:
    mine = b"---\nname: x\n---\n# Mine\n\nText of mine\n## use ##\nmy way\nlast line without an end"
    merged = merge(SKILL, base=None, mine=mine, theirs=BASE)
    assert merged.data is not None
    head = parse_frontmatter(merged.data)
    assert head.mapping == {"name": "x", "description": "Does x."}
    assert head.body.startswith(parse_frontmatter(mine).body)
    assert head.body.endswith(b"an end\n\n## Limits\n\nNone.\n")
    assert b"Run it." not in merged.data, "a section that the person has is the person's"


def test_without_a_base_and_a_head_the_proposals_head_is_taken() -> None:
    merged = merge(SKILL, base=None, mine=b"# Mine\n\nText\n", theirs=BASE)
    assert (
        merged.data
        == b"---\nname: x\ndescription: Does x.\n---\n# Mine\n\nText\n\n## Use\n\nRun it.\n\n## Limits\n\nNone.\n"
    )
    assert merged.conflicts == ()


def test_without_a_base_a_broken_head_is_replaced_and_told() -> None:
    merged = merge(SKILL, base=None, mine=b"---\nname: [x\n---\n# Mine\n", theirs=BASE)
    assert merged.data is not None
    assert parse_frontmatter(merged.data).mapping == {"name": "x", "description": "Does x."}
    assert b"# Mine" in merged.data
    assert [hunk.left_out for hunk in merged.conflicts] == [b"name: [x\n"]


def test_without_a_base_other_files_stay_and_the_proposal_is_told() -> None:
    merged = merge(b"skills/x/scripts/a.py", base=None, mine=b"mine", theirs=b"theirs")
    assert merged.data == b"mine"
    assert [hunk.left_out for hunk in merged.conflicts] == [b"theirs"]


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["# T", "## A", "## B", "text", "```", "~~~~", "", "- [ ] x"]), max_size=15),
    st.lists(st.sampled_from(["# T", "## A", "## C", "other", "```", ""]), max_size=15),
    st.booleans(),
)
def test_adding_sections_only_ever_appends(mine: list[str], theirs: list[str], ended: bool) -> None:
    body = lines(*mine) if ended else lines(*mine).rstrip(b"\n")
    added = add_sections(body, lines(*theirs))
    if added is None:
        assert sections(body)[1]
        return
    assert added.startswith(body) or not body.strip()
    if not sections(lines(*theirs))[1]:
        assert add_sections(added, lines(*theirs)) == added, "a second time adds nothing"


def test_headings_in_code_are_no_sections() -> None:
    body = b"intro\n```\n## not one\n```\n~~~\n```\n## nor this\n~~~\n## One ##\nx\n### deeper\n"
    found, in_code = sections(body)
    assert [name for name, _ in found] == [b"", b"one"]
    assert b"".join(text for _, text in found) == body
    assert not in_code


def test_after_code_that_is_never_closed_nothing_is_added() -> None:
    mine = b"---\nname: x\ndescription: Mine.\n---\n# Mine\n```\ncode\n"
    merged = merge(SKILL, base=None, mine=mine, theirs=BASE)
    assert merged.data == mine
    assert [hunk.left_out for hunk in merged.conflicts] == [parse_frontmatter(BASE).body]
