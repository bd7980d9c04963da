"""CM001, AG001, HK001: commands, agents and hooks."""

from __future__ import annotations

from collections.abc import Iterator

from enhance.discover import MANIFEST
from enhance.validators import standards
from enhance.validators.rules import Found
from enhance.validators.text import dangers
from enhance.validators.view import View

HOOKS = b"hooks/hooks.json"


def check(view: View) -> Iterator[Found]:
    """Hold a plugin's commands, agents and hooks against the rules."""
    for path in view.paths:
        if not path.endswith(b".md"):
            continue
        if path.startswith(b"commands/"):
            yield from _command(view, path)
        elif path.startswith(b"agents/"):
            yield from _agent(view, path)
    if view.is_file(HOOKS):
        content, wrong = view.json(HOOKS)
        if wrong:
            yield Found("HK001", HOOKS, wrong)
        else:
            yield from _hooks(content.get("hooks"), HOOKS)
    if view.is_file(MANIFEST):
        inline = view.json(MANIFEST)[0].get("hooks")
        if isinstance(inline, dict):
            yield from _hooks(inline.get("hooks", inline), MANIFEST)


def _command(view: View, path: bytes) -> Iterator[Found]:
    head = view.head(path)
    if path in view.unreadable:
        yield Found("CM001", path, f"it cannot be read: {view.unreadable[path]}")
        return
    for problem in head.problems:
        yield Found("CM001", path, problem.message, problem.line, warn=problem.flaw == "missing")
    if not head.problems and not _is_text(head.mapping.get("description")):
        yield Found("CM001", path, "there is no description", warn=True)


def _agent(view: View, path: bytes) -> Iterator[Found]:
    head = view.head(path)
    if path in view.unreadable:
        yield Found("AG001", path, f"it cannot be read: {view.unreadable[path]}")
        return
    yield from (Found("AG001", path, problem.message, problem.line) for problem in head.problems)
    if not head.problems:
        for key in ("name", "description"):
            if not _is_text(head.mapping.get(key)):
                yield Found("AG001", path, f"there is no {key}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _hooks(hooks: object, path: bytes) -> Iterator[Found]:
    if not isinstance(hooks, dict):
        yield Found("HK001", path, "hooks is not an object that maps events to lists")
        return
    for event, groups in hooks.items():
        if event not in standards.EVENTS:
            yield Found("HK001", path, f"the event {event!r} is not known")
        if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
            yield Found("HK001", path, f"the hooks of {event!r} are not a list of objects")
            continue
        for group in groups:
            inner = group.get("hooks")
            if not isinstance(inner, list) or not all(isinstance(hook, dict) for hook in inner):
                yield Found("HK001", path, f"a matcher of {event!r} has no list of hooks")
                continue
            for hook in inner:
                command = hook.get("command")
                if isinstance(command, str):
                    yield from (
                        Found("HK001", path, f"a hook of {event!r}: {message}") for _, message in dangers(command)
                    )
