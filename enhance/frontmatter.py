"""The YAML head of a Markdown file: read it safely whatever it holds, write it so that every reader agrees.

Reading never raises: what is wrong is in `Frontmatter.problems`. YAML is bounded before anything is built from it
(size, depth, number of values), aliases and repeated keys are refused. Writing uses the narrow form of YAML that
PyYAML and strictyaml read alike: block style, no anchors, no tags, and never `---` inside a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

from msgspec import Struct, field

MAX_BYTES = 64 * 1024
MAX_DEPTH = 12
MAX_VALUES = 2000

Flaw = Literal["encoding", "missing", "unclosed", "yaml", "large"]


class Problem(Struct, frozen=True):
    """Why a head cannot be read as it should. `line` counts from 1 in the file."""

    flaw: Flaw
    message: str
    line: int = 1


class Frontmatter(Struct, frozen=True):
    """A file cut in two. `mapping` is what could be read, empty if nothing; `body` are the bytes after the head.

    `head` is the YAML between the two `---` lines, with its line ends; `present` says that there were such lines.
    `start` is the number of bytes before the YAML, `body_line` the line that the body begins on, from 1. `lines` are
    the lines on which the keys stand, `texts` the words that scalars were written in, by the keys that lead to them,
    at most two: `1.10` is a number in `mapping`, and "1.10" here. `head` and `body` are meaningful even where
    `problems` is not empty: without a head the body is the whole file.
    """

    mapping: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""
    head: bytes = b""
    present: bool = False
    start: int = 0
    body_line: int = 1
    lines: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


_OPEN = re.compile(rb"(?:\xef\xbb\xbf)?---[ \t]*(?:\r\n|\n|\r)")
_CLOSE = re.compile(rb"^---[ \t]*(?:\r\n|\n|\r|\Z)", re.MULTILINE)


def parse_frontmatter(data: bytes) -> Frontmatter:
    """Cut a Markdown file into head and body and read the head. A file without a head has the problem "missing"."""
    problems = list(_encoding_problems(data))
    opened = _OPEN.match(data)
    if opened is None:
        problems.append(Problem("missing", "it does not begin with a line ---"))
        return Frontmatter(body=data, problems=tuple(problems))
    start = opened.end()
    closed = _CLOSE.search(data, start)
    if closed is None or closed.start() - start > MAX_BYTES:
        large = Problem("large", f"the frontmatter is over {MAX_BYTES} bytes")
        problems.append(large if closed else Problem("unclosed", "no line --- closes the frontmatter"))
        return Frontmatter(body=data, problems=tuple(problems))
    head = data[start : closed.start()]
    read = read_yaml(head)
    problems += read.problems
    return Frontmatter(
        mapping=read.mapping,
        body=data[closed.end() :],
        head=head,
        present=True,
        start=start,
        body_line=count_lines(data[: closed.end()]) + 1,
        lines=read.lines,
        texts=read.texts,
        problems=tuple(problems),
    )


def count_lines(data: bytes) -> int:
    """Return the number of line ends, whichever kind they are."""
    return data.count(b"\n") + (data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else 0)


def _encoding_problems(data: bytes) -> Iterator[Problem]:
    if data.startswith(b"\xef\xbb\xbf"):
        yield Problem("encoding", "it begins with a byte order mark")
    if (at := data.find(b"\0")) >= 0:
        yield Problem("encoding", "it holds a NUL byte", count_lines(data[:at]) + 1)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        yield Problem("encoding", "it is not UTF-8", count_lines(data[: error.start]) + 1)
    if data.startswith((b"---\r", b"\xef\xbb\xbf---\r")):
        yield Problem("encoding", "its first line does not end with a plain line feed")


def read_yaml(head: bytes) -> Frontmatter:
    """Read the YAML of a head; only `mapping`, `lines`, `texts` and `problems` are set, lines as if it began on line 2.

    The mapping is empty where something is wrong. Values are what YAML 1.1 makes of them, dates included.
    """
    import yaml

    try:
        return _read_yaml(head.decode())
    except UnicodeDecodeError as error:
        problem = Problem("yaml", "it is not UTF-8", count_lines(head[: error.start]) + 2)
    except yaml.MarkedYAMLError as error:
        mark = cast("Any", error.problem_mark or error.context_mark)
        message = " ".join(str(part) for part in (error.context, error.problem) if part)
        problem = Problem("yaml", f"not valid YAML: {message}", mark.line + 2 if mark else 1)
    except yaml.YAMLError as error:
        problem = Problem("yaml", f"not valid YAML: {str(error).splitlines()[0]}")
    except (ValueError, ArithmeticError, TypeError, RecursionError) as error:
        problem = Problem("yaml", f"a value of the frontmatter cannot be read: {error}")
    return Frontmatter(problems=(problem,))


def _read_yaml(text: str) -> Frontmatter:
    import yaml

    loader = _loader()
    problem = _bounds(yaml.parse(text, Loader=loader))
    if problem is not None:
        return Frontmatter(problems=(problem,))
    node = yaml.compose(text, Loader=loader)
    if not isinstance(node, yaml.MappingNode):
        return Frontmatter(problems=(Problem("yaml", "the frontmatter is not a mapping of keys to values"),))
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            problem = Problem("yaml", "a key of the frontmatter is not a word", _mark(key).line + 2)
            return Frontmatter(problems=(problem,))
    if (problem := _repeated(node)) is not None:
        return Frontmatter(problems=(problem,))
    lines = {key.value: _mark(key).line + 2 for key, _ in node.value}
    mapping = yaml.load(text, Loader=loader)  # noqa: S506  (a safe loader)
    return Frontmatter(mapping=mapping, lines=lines, texts=dict(_texts(node, ())))


def _texts(node: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    import yaml

    for key, value in node.value:
        if isinstance(value, yaml.ScalarNode):
            yield (*keys, str(key.value)), value.value
        elif isinstance(value, yaml.MappingNode) and not keys:
            yield from _texts(value, (str(key.value),))


def _loader() -> Any:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _mark(event: Any) -> Any:
    return event.start_mark


def _bounds(events: Iterator[Any]) -> Problem | None:
    """Look at a document without building it: what would grow without end stops here."""
    import yaml

    depth = values = documents = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            return Problem("yaml", "the frontmatter uses aliases (*name)", _mark(event).line + 2)
        if tag := getattr(event, "tag", None):
            return Problem("yaml", f"the frontmatter uses tags ({tag})", _mark(event).line + 2)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if depth > MAX_DEPTH or values > MAX_VALUES or documents > 1:
            what = "is nested too deeply" if depth > MAX_DEPTH else "holds too many values"
            what = what if documents <= 1 else "is more than one document"
            return Problem("large" if documents <= 1 else "yaml", f"the frontmatter {what}", event.start_mark.line + 2)
    return None


def _repeated(node: Any) -> Problem | None:
    """Find a key that stands twice in one mapping, at any depth (which is bounded by now)."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    return Problem("yaml", f"the key {key.value!r} stands there twice", key.start_mark.line + 2)
                seen.add(key.value)
            if (found := _repeated(key) or _repeated(value)) is not None:
                return found
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            if (found := _repeated(value)) is not None:
                return found
    return None


def is_portable(head: bytes) -> bool:
    """Whether every reader takes some YAML for the same, those that know only a part of it too.

    No flow style, anchors or tags, no `---`, and mappings indented alike: strictyaml refuses the rest, and skills-ref
    cuts a file at every `---`. The YAML must have been read without a problem.
    """
    import yaml

    if b"---" in head:
        return False
    depth, columns = 0, set()
    for event in yaml.parse(head.decode(), Loader=_loader()):
        if isinstance(event, yaml.DocumentStartEvent | yaml.DocumentEndEvent):
            if event.explicit:
                return False
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth == 2 and isinstance(event, yaml.MappingStartEvent):
                columns.add(_mark(event).column)
            if event.flow_style or event.anchor or event.tag or depth > 2 or len(columns) > 1:
                return False
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and (event.anchor or event.tag):
            return False
    return True


# Writing


def rewrite_frontmatter(data: bytes, mapping: Mapping[str, Any]) -> bytes:
    """Return a file with another mapping in its head. Lines of keys that stay as they are keep their bytes.

    The body and the two `---` lines keep theirs too. Comments stay, unless the YAML is of a form that not every
    reader knows: then it is written anew, whole. The head must have been read without a problem of YAML.
    """
    head = parse_frontmatter(data)
    end = b"\r\n" if head.head[: head.head.find(b"\n")].endswith(b"\r") else b"\n"
    new = _patched(head, mapping, end)
    if new is None or read_yaml(new).mapping != mapping or not is_portable(new):
        new = b"".join(_lines(mapping, end))
    return data[: head.start] + new + data[head.start + len(head.head) :]


def _lines(mapping: Mapping[str, Any], end: bytes) -> list[bytes]:
    return [line.encode("utf-8", "replace").replace(b"\n", end) for line in _block(mapping, 0)]


def _patched(head: Frontmatter, mapping: Mapping[str, Any], end: bytes) -> bytes | None:
    """Return the YAML with only those lines changed that must be; None if keys do not stand on lines of their own."""
    lines = head.head.splitlines(keepends=True)
    starts = sorted((line - 2, key) for key, line in head.lines.items())
    if len({number for number, _ in starts}) != len(starts) or not starts:
        return None
    out = lines[: starts[0][0]]
    for (first, key), (stop, _) in zip(starts, [*starts[1:], (len(lines), "")], strict=True):
        last = stop
        while last > first + 1 and (not lines[last - 1].strip() or lines[last - 1].startswith(b"#")):
            last -= 1
        if key in mapping:
            same = mapping[key] == head.mapping[key] and type(mapping[key]) is type(head.mapping[key])
            out += lines[first:last] if same else _lines({key: mapping[key]}, end)
        out += lines[last:stop]
    if out and not out[-1].endswith((b"\n", b"\r")):
        out[-1] += end
    return b"".join(out + _lines({key: value for key, value in mapping.items() if key not in head.lines}, end))


def dump_frontmatter(mapping: Mapping[str, Any]) -> bytes:
    """Return a head with both its `---` lines. Equal mappings give equal bytes; the order of keys is kept.

    Values may be strings, numbers, booleans, and lists and mappings of these; anything else becomes its string. Empty
    lists and mappings are left out: block style has no form for them.
    """
    return ("---\n" + "".join(_block(mapping, 0)) + "---\n").encode("utf-8", "replace")


def _block(value: Mapping[str, Any], indent: int) -> Iterator[str]:
    pad = " " * indent
    for key, item in value.items():
        if isinstance(item, Mapping | list | tuple) and not item:
            continue
        name = pad + scalar(str(key)) + ":"
        if isinstance(item, Mapping):
            yield name + "\n"
            yield from _block(item, indent + 2)
        elif isinstance(item, list | tuple):
            yield name + "\n"
            yield from (f"{pad}  - {scalar(_text(one))}\n" for one in item)
        else:
            yield f"{name} {scalar(item) if isinstance(item, str) else _plain(item)}\n"


def _plain(item: Any) -> str:
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, int):
        return str(item)
    return scalar(_text(item))


def _text(value: Any) -> str:
    """Return the string form of any value: what a person would have written in its place."""
    import json

    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value in ([], {}):
        return ""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


to_string = _text
"""The string that a value becomes where only strings may stand."""

_SAFE = re.compile(r"[A-Za-z_][A-Za-z0-9_./()*, '+%@;-]*[A-Za-z0-9_.)*]|[A-Za-z_]")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf"})


def scalar(text: str) -> str:
    """Return a string as YAML on one line: plain where no reader can take it for something else, else quoted."""
    if _SAFE.fullmatch(text) and text.lower() not in _WORDS and "---" not in text:
        return text
    out = ['"']
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char == "\n":
            out.append("\\n")
        elif char == "\t":
            out.append("\\t")
        elif char.isprintable() and char != "\ufeff":
            out.append(char)
        else:
            code = ord(char)
            out.append(f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(out).replace("---", "\\x2d\\x2d-") + '"'
