"""What an interrupted restore left in a directory: finished or put back, then removed."""

from __future__ import annotations

import base64
import binascii
import os

from drkit.errors import StoreError
from drkit.model import show_path
from drkit.restore.dirs import OPEN_DIR
from drkit.restore.journal import Journal, Record
from drkit.restore.site import Site
from drkit.restore.swap import Stage, Unclear


def recover_leftovers(directory: bytes) -> list[str]:
    """End what died in `directory`; return a message for each thing that was done.

    That is the directory above of what was to be replaced, or that itself where it is a mount point or the
    directory above is protected: look in both. A stage whose process is alive is left alone. A swap that had
    begun is finished, one that was being undone is undone: afterwards the live tree is the old or the new one.
    StoreError if that fails; what only could not be removed becomes a message.
    """
    try:
        dir_fd = os.open(directory, OPEN_DIR)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        messages = []
        for name in sorted(map(os.fsencode, os.listdir(dir_fd))):
            journal = Journal.open(dir_fd, name)
            if journal is not None:
                messages.append(_recover(dir_fd, directory, journal))
        return messages
    finally:
        os.close(dir_fd)


def _recover(dir_fd: int, directory: bytes, journal: Journal) -> str:
    record = journal.read() or Record("staging")
    try:
        live = base64.b64decode(record.live, validate=True)
    except binascii.Error:
        live = b"/"
    if b"/" in live or live in (b".", b".."):
        journal.close()
        return f"{show_path(directory)}: a journal that makes no sense was left alone"
    path = directory.rstrip(b"/") + b"/" + live if live else directory
    stage = Stage(Site(dir_fd, live, path), journal, record)
    done = "removed what an interrupted restore had staged for"
    try:
        if record.state == "swap":
            stage.settle()
            done = "finished an interrupted restore of"
        elif record.state == "undo":
            stage.undo()
            done = "put back, after an interrupted restore,"
    except Unclear as error:
        stage.leave()
        return f"left {show_path(stage.name)} in {show_path(directory)} alone: {error}"
    except OSError as error:
        stage.leave()
        raise StoreError(
            f"an interrupted restore of {show_path(path)} can be neither finished nor undone: {error.strerror}",
            hint="mend the cause and run the command again",
        ) from error
    try:
        stage.drop()
    except OSError as error:
        stage.leave()
        return f"{done} {show_path(path)}, but cannot remove {show_path(stage.name)}: {error.strerror}"
    return f"{done} {show_path(path)}"
