"""Which plugins a run is about."""

from __future__ import annotations

from drkit.errors import UsageError
from drkit.model import show_path
from enhance.discover import Discovery
from enhance.model import Plugin
from enhance.pipeline.job import RunJob
from enhance.pipeline.past import Past


def select(job: RunJob, discovery: Discovery) -> tuple[Plugin, ...]:
    """Return the plugins that a job's selection takes, in the order of their paths.

    UsageError names what is no plugin, and lists the paths of an ambiguous name.
    """
    selection = job.selection
    chosen = list(discovery.plugins)
    if selection.plugins:
        paths = {named(discovery.plugins, one).path for one in selection.plugins}
        chosen = [plugin for plugin in chosen if plugin.path in paths]
    if selection.categories:
        known = {plugin.category for plugin in discovery.plugins}
        if unknown := sorted(set(selection.categories) - known):
            hint = f"there are {', '.join(sorted(known)) or 'none'}"
            raise UsageError(f"there is no category {', '.join(map(repr, unknown))}", hint=hint)
        chosen = [plugin for plugin in chosen if plugin.category in selection.categories]
    if selection.only_failed:
        chosen = [plugin for plugin in chosen if Past.of(job, plugin, None).failed]
    return tuple(chosen if selection.limit is None else chosen[: selection.limit])


def named(plugins: tuple[Plugin, ...], wanted: bytes) -> Plugin:
    """Return the plugin of this path or name. UsageError if there is none, or if several have the name."""
    path = b"" if wanted in {b".", b"./"} else wanted.removeprefix(b"./").rstrip(b"/")
    for plugin in plugins:
        if plugin.path == path:
            return plugin
    found = [plugin for plugin in plugins if plugin.name.encode("utf-8", "surrogatepass") == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        paths = ", ".join(show_path(plugin.path) for plugin in found)
        hint = "give the path instead of the name"
        raise UsageError(f"{show_path(wanted)!r} names {len(found)} plugins: {paths}", hint=hint)
    raise UsageError(f"there is no plugin {show_path(wanted)!r}", hint="list what is there with 'drkit plugins'")
