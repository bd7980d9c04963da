"""The main loop of a backup: the walk, beside what the previous backup saw, into the recorder.

The previous backup is a list of segments in the same order as the walk, so both are followed with one finger each.
As long as every entry of a segment is found unchanged nothing is done for it; at its end it is taken over whole.
The first difference in a segment turns what was matched so far into single entries. A directory in which a glance
found nothing changed is not walked at all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile

from drkit.backup.cached import Cached
from drkit.backup.files import EntryReader, group_of
from drkit.backup.glance import Marked
from drkit.backup.live import Databases
from drkit.backup.made import Made, make
from drkit.backup.plugins import MANIFEST, PluginTracker
from drkit.backup.previous import Cursor
from drkit.backup.recorder import Recorder
from drkit.backup.statcache import Previous
from drkit.backup.tally import Tally
from drkit.format import treehash
from drkit.format.indexfile import ID_SIZE
from drkit.model import Entry, PluginRow, sort_key
from drkit.repo import BlobLost, BlobReader
from drkit.repo.packer import Packer
from drkit.source.ready import Batch
from drkit.source.stats import NEVER, STAT, Stat
from drkit.source.walk import Seen, Walker

_TICK = 512


class Scan:
    """One pass over the source."""

    def __init__(
        self,
        source: bytes,
        previous: Previous,
        *,
        reader: EntryReader,
        databases: Databases,
        marked: Marked | None,
        recorder: Recorder,
        packer: Packer,
        complete: bool,
        blobs: BlobReader,
        horizon_ns: int,
        tally: Tally,
    ) -> None:
        self.rows: list[PluginRow] = []
        self.changed = False
        """Whether anything differs from the previous backup, or was not there to compare."""
        self._plugins = PluginTracker(source)
        self._known = previous.plugins
        self._marked = marked
        self._known_keys: list[tuple[bytes, bytes]] | None = None
        self._cursor = Cursor(previous.segments)
        self._reader = reader
        self._databases = databases
        self._recorder = recorder
        self._packer = packer
        self._blobs = blobs
        self._horizon = horizon_ns
        self.tally = tally
        self.complete = complete
        """Whether all that the previous backup speaks of is in the repository."""
        self._whole = False
        self._usable = False
        self._new_stats: list[Stat] | None = None
        self._last: tuple[Cached, list[Stat] | None] | None = None
        self._enter_segment()

    def run(self, walker: Walker) -> None:
        """Record everything that the walker sees; what is as the previous backup saw it is not read."""
        since = 0
        for seen in self._walk(walker):
            self._see(seen)
            since += 1
            if since >= _TICK:
                since = 0
                self.tally.tell()
        self._finish()

    def run_ready(self, walker: Walker, batches: Iterable[tuple[Batch, memoryview]]) -> None:
        """Record what was read already, whatever the previous backup saw; all that there is below the walker's root."""
        if walker.root_is_plugin():
            self._plugins.opens(b"", self._known.get(b""))
        for batch, memory in batches:
            made = make(batch, memory, self._horizon)
            start = 0
            for number, seen in batch.events:
                self._take_ready(made, start, number)
                start = number
                if seen.ready:
                    self._plugins.opens(seen.path, self._known.get(seen.path))
                else:
                    self._see(seen)
            self._take_ready(made, start, len(made.paths))
            self.tally.tell()
        self._finish()

    def _finish(self) -> None:
        self._skip_below(b"")
        if self._plugins:
            self.rows.append(self._plugins.closes())
        if self._last is not None:
            self._recorder.reuse(*self._last, stored=self.complete)
        self._recorder.finish()
        self.tally.tell()
        self.rows.sort(key=lambda row: sort_key(row.raw_path))

    def _see(self, seen: Seen) -> None:
        """Record a path as it was, if its stat says that nothing has changed, or else as it is."""
        plugins, cursor = self._plugins, self._cursor
        path = seen.path
        if seen.whole:
            self._take_below(path)
            return
        if seen.closes:
            self._skip_below(path)
            self.rows.append(plugins.closes())
            return
        if seen.database and self._databases.leaves_out(seen):
            return
        segment = cursor.segment
        if segment is not None and segment.paths[cursor.at] != path:
            self._skip_to(path)
            segment = cursor.segment
        if seen.plugin:
            plugins.opens(path, self._known.get(path))
        if segment is None or segment.paths[cursor.at] != path:
            self._changed(seen, None)
            return
        status = seen.stat
        old = segment.stats[cursor.at]
        if (
            self._usable
            and old[2] == status.st_ctime_ns
            and old[1] == status.st_mtime_ns
            and old[0] == status.st_size
            and old[3] == status.st_ino
            and (status.st_nlink == 1 or seen.kind == "d" or self._same_link(seen))
            and (not seen.database or self._databases.unchanged(seen))
        ):
            self.tally.count(seen.kind, status.st_size, unchanged=True)
            self._take_over(path, None)
        else:
            self._look_again(seen)

    def _take_ready(self, made: Made, start: int, end: int) -> None:
        """Record a stretch of a batch's rows."""
        if start == end:
            return
        self._store(made, start, end)
        if self._cursor.segment is None:
            self._add_ready(made, start, end)
        else:
            for number in range(start, end):
                self._compare(made, number)

    def _store(self, made: Made, start: int, end: int) -> None:
        """Give the packer what is new of the content."""
        packer, plugin = self._packer, self._plugins.innermost
        for number, blob_id in enumerate(made.ids[start:end], start):
            if blob_id:
                path = made.paths[number]
                if plugin is not None and path.endswith(MANIFEST):
                    self._plugins.saw_file(path, made.content(number))
                if not packer.has(blob_id):
                    packer.add(blob_id, made.content(number), group_of(path, plugin))

    def _add_ready(self, made: Made, start: int, end: int) -> None:
        """Record rows that the previous backup did not have like this."""
        self.changed = True
        self._break()
        counts = made.counts(start, end)
        self.tally.count_all(counts, unchanged=False)
        self._plugins.add(made.paths[start:end], made.rows[start:end], counts.files, counts.size)
        self._recorder.add_made(made, start, end)

    def _compare(self, made: Made, number: int) -> None:
        """Record one row, as it was if it is that."""
        path, cursor = made.paths[number], self._cursor
        self._skip_to(path)
        segment, at = cursor.segment, cursor.at
        if segment is None or segment.paths[at] != path:
            self._add_ready(made, number, number + 1)
        elif segment.entry(at) == (entry := made.entries[number]):
            self.tally.count(entry.type, entry.size, unchanged=True)
            self._take_over(path, STAT.unpack(made.stats[number]))
        else:
            self._add_ready(made, number, number + 1)
            cursor.step()
            self._enter_segment()

    def _walk(self, walker: Walker) -> Iterator[Seen]:
        if self._marked is None:
            untouched = None
        elif not self._marked:
            self._take_below(b"")
            return iter(())
        else:
            untouched = self._untouched
        if walker.root_is_plugin():
            self._plugins.opens(b"", self._known.get(b""))
        return walker.walk(untouched)

    def _untouched(self, directory: bytes) -> bool:
        """Whether a directory that comes next in the walk was there before, and nothing in it has changed since."""
        assert self._marked is not None
        if directory in self._marked:
            return False
        self._skip_to(directory)
        return self._cursor.path() == directory

    def _take_below(self, directory: bytes) -> None:
        """Record a directory as the previous backup had it, with everything below it."""
        prefix = directory + b"/" if directory else b""
        self.rows += self._known_below(directory, prefix)
        cursor, plugins = self._cursor, self._plugins
        while (segment := cursor.segment) is not None:
            at = cursor.at
            if at == 0 and self._whole and not plugins and segment.last.startswith(prefix):
                self.tally.count_all(segment.counts, unchanged=True)
                self._end_taken(segment)
                continue
            path = segment.paths[at]
            if path != directory and not path.startswith(prefix):
                break
            kind = chr(segment.row(at)[1][4])
            self.tally.count(kind, segment.stats[at][0], unchanged=True)
            self._take_over(path, None)

    def _known_below(self, directory: bytes, prefix: bytes) -> list[PluginRow]:
        if not prefix:
            return list(self._known.values())
        if self._known_keys is None:
            self._known_keys = sorted((sort_key(path), path) for path in self._known)
        start = bisect_left(self._known_keys, (sort_key(directory), directory))
        below = takewhile(
            lambda each: each[1] == directory or each[1].startswith(prefix), islice(self._known_keys, start, None)
        )
        return [self._known[path] for _, path in below]

    def _look_again(self, seen: Seen) -> None:
        """Read a path that the previous backup had, but with another stat or one that proves nothing."""
        segment, at = self._cursor.segment, self._cursor.at
        assert segment is not None
        known = segment.entry(at)
        entry = self._changed(seen, known)
        if entry is None:
            self._cursor.step()
            self._enter_segment()
        elif entry == known:
            self._take_over(seen.path, self._trustable(entry))
        else:
            self._cursor.step()
            self._enter_segment()

    def _changed(self, seen: Seen, known: Entry | None) -> Entry | None:
        """Make the path's entry anew, and record it unless it equals `known`. None if it cannot be read."""
        entry = self._reader.entry(seen, self._plugins.innermost)
        if entry is None:
            self.changed = True
            self._plugins.changed()
            self._break()
            return None
        self.tally.count(entry.type, entry.size, unchanged=entry == known)
        if entry == known:
            return entry
        self.changed = True
        row = treehash.row(seen.path, treehash.entry_tail(entry))
        self._plugins.add([seen.path], [row], int(entry.type == "f"), entry.size)
        if self._reader.data is not None:
            self._plugins.saw_file(seen.path, self._reader.data)
        self._break()
        self._recorder.add(entry, seen.path, row, self._trustable(entry))
        return entry

    def _take_over(self, path: bytes, stat: Stat | None) -> None:
        """Record the entry under the cursor as it is, with a new stat if one is given, and step on."""
        cursor = self._cursor
        segment, at = cursor.segment, cursor.at
        assert segment is not None
        self._plugins.add_known(segment, at)
        if self._whole:
            if stat is not None:
                if self._new_stats is None:
                    self._new_stats = list(segment.stats)
                self._new_stats[at] = stat
        else:
            self._recorder.add(segment.entry(at), path, treehash.row(*segment.row(at)), stat or segment.stats[at])
        cursor.at = at + 1
        if cursor.at == len(segment.paths):
            self._end_taken(segment)

    def _end_taken(self, segment: Cached) -> None:
        """Go on to the next segment after this one was found unchanged to its end."""
        if self._whole and segment.final:
            self._last = segment, self._new_stats  # whole only if nothing follows: its end is no cut
        elif self._whole:
            self._recorder.reuse(segment, self._new_stats, stored=self.complete)
        self._whole = False
        self._cursor.next_segment()
        self._enter_segment()

    def _enter_segment(self) -> None:
        """Decide, at the start of a segment of the previous backup, whether it may be taken over whole."""
        cursor = self._cursor
        if cursor.at == 0 and (segment := cursor.segment) is not None:
            if self._last is not None:
                self._break()  # another version of drkit cuts elsewhere: it was not the last
            self._whole = self._recorder.at_start
            self._usable = self.complete or self._is_stored(segment)
            self._new_stats = None

    def _is_stored(self, segment: Cached) -> bool:
        """Whether all content is stored, that of files with blob lists too: a prune may have left only the lists."""
        index = self._packer.index
        if not index.has_all(segment.keys):
            return False
        for at in range(0, len(segment.lists), 32):
            list_id = segment.lists[at : at + 32]
            try:
                ids = self._blobs.blob(list_id.hex(), index.find(list_id))
            except BlobLost:
                return False
            if not index.has_all(b"".join(ids[start : start + ID_SIZE] for start in range(0, len(ids), 32))):
                return False
        return True

    def _break(self) -> None:
        """Record singly what was matched of a segment that cannot be taken over whole after all."""
        if self._last is not None:
            (segment, new_stats), self._last = self._last, None
            self._add_singly(segment, new_stats, len(segment.paths))
        elif self._whole and self._cursor.segment is not None:
            self._whole = False
            self._add_singly(self._cursor.segment, self._new_stats, self._cursor.at)

    def _add_singly(self, segment: Cached, new_stats: list[Stat] | None, count: int) -> None:
        stats = new_stats or segment.stats
        for number in range(count):
            row = treehash.row(*segment.row(number))
            self._recorder.add(segment.entry(number), segment.paths[number], row, stats[number])

    def _skip_to(self, path: bytes) -> None:
        """Pass over what the previous backup had before `path`: it was removed."""
        key = sort_key(path)
        while (here := self._cursor.path()) is not None and sort_key(here) < key:
            self._removed()

    def _skip_below(self, directory: bytes) -> None:
        """Pass over what the previous backup had below a directory that ends here."""
        prefix = directory + b"/" if directory else b""
        while (here := self._cursor.path()) is not None and here.startswith(prefix):
            self._removed()

    def _removed(self) -> None:
        self.changed = True
        self._break()
        self._plugins.changed()
        self._cursor.step()
        self._enter_segment()

    def _same_link(self, seen: Seen) -> bool:
        """Whether a file's hard-link group starts where it did: moving its first path leaves the others as they are."""
        segment = self._cursor.segment
        assert segment is not None
        return self._reader.link_number(seen.stat, seen.path) == segment.entry(self._cursor.at).link

    def _trustable(self, entry: Entry) -> Stat:
        """Return the stat for the next backup, or NEVER if a later write could leave the same stat behind."""
        status = self._reader.stat
        assert status is not None
        if (
            entry.live
            or max(status.st_mtime_ns, status.st_ctime_ns) >= self._horizon
            or entry.mtime_ns != status.st_mtime_ns  # it has no place in 64 bits
            or (entry.type == "f" and entry.size != status.st_size)
        ):
            return NEVER
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
