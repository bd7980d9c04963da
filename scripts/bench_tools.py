"""The tools that are measured: drkit and its peers behind one interface.

Each tool keeps its repository and its caches in a home of its own, so that `fresh` really starts from nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping

from bench_measure import Command, environment


class Tool(ABC):
    """One contestant. A method returns None where the tool has no such command."""

    name = ""
    program = ""

    def __init__(self, home: str) -> None:
        self.home = home
        self.holds = ""
        self.repository = os.path.join(home, "repository")
        self.cache = os.path.join(home, "cache")

    @property
    def env(self) -> Mapping[str, str]:
        """What the tool's commands need in their environment."""
        return {}

    def version(self) -> str:
        """Return what the tool says of its version, in one line."""
        said = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=True, timeout=60)
        return said.stdout.splitlines()[0].strip()

    def fresh(self) -> None:
        """Forget everything and make an empty repository. This is not measured."""
        remove(self.home)
        os.makedirs(self.cache)
        self.holds = ""
        for command in self.init():
            subprocess.run(command, env=environment(self.env), capture_output=True, check=True, timeout=600)

    def init(self) -> list[list[str]]:
        """Return the commands that make an empty repository."""
        return []

    @abstractmethod
    def backup(self, source: str) -> Command:
        """Back up a tree."""

    def unchanged(self, source: str) -> Command | None:
        """Back up again what has not changed."""
        return self.backup(source)

    def verify(self) -> Command | None:
        """Read and check all data."""
        return None

    @abstractmethod
    def restore(self, target: str) -> Command:
        """Restore everything into an existing empty directory."""

    def restore_plugin(self, source: str, plugin: str, target: str) -> Command | None:  # noqa: ARG002
        """Restore one directory of the backed-up tree."""
        return None

    def size(self) -> tuple[int, int]:
        """Return the sum of the sizes of the repository's files, and that with its directories (as `du -sb` has it)."""
        files = directories = 0
        for directory, _, names in os.walk(self.repository):
            directories += os.lstat(directory).st_size
            files += sum(os.lstat(os.path.join(directory, name)).st_size for name in names)
        return files, files + directories


class Drkit(Tool):
    """drkit with its default settings, or at another level."""

    name = "drkit"

    def __init__(self, home: str, program: str, level: int | None = None) -> None:
        super().__init__(home)
        self.program = program
        self.level = level
        self.name = "drkit" if level is None else f"drkit level {level}"

    @property
    def env(self) -> Mapping[str, str]:
        """Caches and data below the home."""
        return {"XDG_CACHE_HOME": self.cache, "XDG_DATA_HOME": os.path.join(self.home, "data")}

    def _command(self, *arguments: str) -> Command:
        return Command([self.program, "--repo", self.repository, "-q", *arguments], env=self.env)

    def init(self) -> list[list[str]]:
        """An unencrypted repository."""
        return [self._command("init").argv]

    def backup(self, source: str) -> Command:
        """Back up a tree."""
        return self._command("backup", source, *(() if self.level is None else ("--level", str(self.level))))

    def verify(self) -> Command:
        """Decode and hash everything."""
        return self._command("verify", "--level", "content")

    def restore(self, target: str) -> Command:
        """Staged, synced, re-read and swapped in."""
        return self._command("restore", "--target", target)

    def restore_plugin(self, source: str, plugin: str, target: str) -> Command:  # noqa: ARG002
        """The plugin's content goes directly into the target."""
        return self._command("restore-plugin", plugin, "--target", target)


class SealedDrkit(Drkit):
    """drkit with an encrypted repository, opened with a key file: a passphrase costs half a second more, each time."""

    def __init__(self, home: str, program: str) -> None:
        super().__init__(home, program)
        self.name = "drkit encrypted"
        self._key_file = home + ".key"

    @property
    def env(self) -> Mapping[str, str]:
        """Those of drkit, and the key file."""
        return {**super().env, "DRKIT_KEY_FILE": self._key_file}

    def init(self) -> list[list[str]]:
        """An encrypted repository, with a new key."""
        remove(self._key_file)
        return [self._command("init", "--encrypt", "--key-file", self._key_file).argv]


class Restic(Tool):
    """restic with its default settings."""

    name = program = "restic"

    @property
    def env(self) -> Mapping[str, str]:
        """Repository, key and cache."""
        return {"RESTIC_REPOSITORY": self.repository, "RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": self.cache}

    def version(self) -> str:
        """It has a command for it."""
        said = subprocess.run(["restic", "version"], capture_output=True, text=True, check=True, timeout=60)
        return " ".join(said.stdout.split()[:2])

    def _command(self, *arguments: str) -> Command:
        return Command(["restic", "-q", *arguments], env=self.env)

    def init(self) -> list[list[str]]:
        """restic always encrypts."""
        return [self._command("init").argv]

    def backup(self, source: str) -> Command:
        """Back up a tree."""
        return self._command("backup", source)

    def verify(self) -> Command:
        """Read all packs."""
        return self._command("check", "--read-data")

    def restore(self, target: str) -> Command:
        """Not synced."""
        return self._command("restore", "latest", "--target", target)

    def restore_plugin(self, source: str, plugin: str, target: str) -> Command:
        """The plugin by its absolute path."""
        return self._command("restore", "latest", "--include", os.path.join(source, plugin), "--target", target)


class Borg(Tool):
    """borg with zstd at level 3, without encryption."""

    name = program = "borg"

    def __init__(self, home: str) -> None:
        super().__init__(home)
        self._archives = 0

    @property
    def env(self) -> Mapping[str, str]:
        """Everything that borg keeps goes below the home."""
        return {"BORG_BASE_DIR": self.cache, "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}

    @property
    def _archive(self) -> str:
        return f"{self.repository}::{self._archives}"

    def init(self) -> list[list[str]]:
        """An unencrypted repository."""
        return [["borg", "init", "--encryption", "none", self.repository]]

    def backup(self, source: str) -> Command:
        """Back up a tree, with paths relative to it."""
        self._archives += 1
        return Command(["borg", "create", "--compression", "zstd,3", self._archive, "."], cwd=source, env=self.env)

    def verify(self) -> Command:
        """Decompress and hash all chunks."""
        return Command(["borg", "check", "--verify-data", self.repository], env=self.env)

    def restore(self, target: str) -> Command:
        """Not synced."""
        return Command(["borg", "extract", self._archive], cwd=target, env=self.env)

    def restore_plugin(self, source: str, plugin: str, target: str) -> Command:  # noqa: ARG002
        """The plugin by its path in the archive."""
        return Command(["borg", "extract", self._archive, plugin], cwd=target, env=self.env)


class Tar(Tool):
    """tar and zstd at level 3: no snapshots, no checks, the floor of what the system calls cost."""

    name, program = "tar + zstd", "tar"

    @property
    def _file(self) -> str:
        return os.path.join(self.repository, "all.tar.zst")

    def _shell(self, script: str, *arguments: str) -> Command:
        return Command(["bash", "-euo", "pipefail", "-c", script, "bash", *arguments])

    def backup(self, source: str) -> Command:
        """Write one archive."""
        os.makedirs(self.repository, exist_ok=True)
        return self._shell('tar cf - -C "$1" . | zstd -q -f -3 -o "$2"', source, self._file)

    def unchanged(self, source: str) -> None:  # noqa: ARG002
        """It knows no difference."""
        return

    def restore(self, target: str) -> Command:
        """Extract, then `sync`."""
        return self._shell('zstd -dcq "$1" | tar xf - -C "$2"; sync', self._file, target)


def remove(path: str) -> None:
    """Remove a tree if there is one: `rm` is quicker than Python here."""
    subprocess.run(["rm", "-rf", "--", path], check=True, timeout=3_600)


def peers(work: str, wanted: list[str]) -> list[Tool]:
    """Return the peers that are wanted and installed."""
    found: list[Tool] = [kind(os.path.join(work, kind.program)) for kind in (Restic, Borg, Tar)]
    return [
        tool
        for tool in found
        if tool.program in wanted and shutil.which(tool.program) and (shutil.which("zstd") or tool.program != "tar")
    ]
