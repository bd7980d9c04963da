"""The trees that are backed up: made at their first use, in processes of their own."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field

SCRIPTS = os.path.dirname(os.path.abspath(__file__))
MB = 1_000_000


@dataclass(frozen=True)
class Scale:
    """How big the trees are: plugins of the corpus, files in `many`, bytes of each large file.

    `settle` is how many seconds a new tree rests before it is backed up: what is too young is read again each time.
    """

    plugins: int = 235
    many_files: int = 104_000
    large: int = 333_000_000
    settle: float = 4.0


@dataclass
class Trees:
    """Makes trees below a directory; `shapes` says of each in words how big it is."""

    work: str
    scale: Scale
    given_corpus: str | None = None
    shapes: dict[str, str] = field(default_factory=dict)

    def path(self, kind: str) -> str:
        """Return the directory of a tree, made at its first use."""
        if kind == "corpus" and self.given_corpus:
            path = os.path.abspath(self.given_corpus)
        else:
            path = os.path.join(self.work, f"tree-{kind}")
        if kind not in self.shapes:
            if not os.path.exists(path):
                print(f"making the tree `{kind}`", file=sys.stderr, flush=True)
                {"corpus": self._make_corpus, "many": self._make_many, "large": self._make_large}[kind](path)
                time.sleep(self.scale.settle)
            files, size = count(path)
            adjective, digits = "large" if kind == "large" else "small", 0 if size > 10 * MB else 1
            self.shapes[kind] = f"{files:,} {adjective} files ({size / MB:,.{digits}f} MB)"
            with open(os.devnull, "wb") as nowhere:  # into the page cache: the first contestant shall not pay for it
                subprocess.run(["find", path, "-type", "f", "-exec", "cat", "{}", "+"], stdout=nowhere, check=True)
        return path

    def _marketplace(self, *arguments: str) -> None:
        # In a process of its own: what this one has held would be counted as memory of the measured commands.
        script = os.path.join(SCRIPTS, "marketplace.py")
        subprocess.run([sys.executable, script, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=3_600)

    def _make_corpus(self, path: str) -> None:
        self._marketplace(path, "--plugins", str(self.scale.plugins), "--large", "0")

    def _make_many(self, path: str) -> None:
        corpus = self.path("corpus")
        copies = -(-self.scale.many_files // count(corpus)[0])
        self._marketplace(path, "--multiply", corpus, "--copies", str(copies))

    def _make_large(self, path: str) -> None:
        """Write one file of noise and text, the same shifted by some bytes, and one of noise alone."""
        os.mkdir(path)
        block = min(MB, self.scale.large // 20)
        with (
            open(os.path.join(path, "first.bin"), "wb") as first,
            open(os.path.join(path, "shifted.bin"), "wb") as shifted,
            open(os.path.join(path, "noise.bin"), "wb") as noise,
        ):
            shifted.write(b"these bytes move all that follows")
            for number in range(self.scale.large // block):
                data = hashlib.shake_256(b"first %d" % number).digest(block)
                if number % 2:
                    data = data.hex().encode()[:block]
                first.write(data)
                shifted.write(data)
                noise.write(hashlib.shake_256(b"noise %d" % number).digest(block))


def count(directory: str) -> tuple[int, int]:
    """Return the number of regular files below a directory and the sum of their sizes."""
    files = size = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            info = os.lstat(os.path.join(parent, name))
            if stat.S_ISREG(info.st_mode):
                files, size = files + 1, size + info.st_size
    return files, size
