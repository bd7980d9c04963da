"""The configuration file `drkit.toml`: what may stand in it, and where it is looked for.

Everything in it can be said on the command line or in the environment too, and those win.
"""

from __future__ import annotations

import os
import re
from typing import Any

from msgspec import DecodeError, Struct, structs

from drkit.errors import UsageError
from drkit.timespan import parse_span

DEFAULT_NAME = "drkit.toml"
_CLOUDS = frozenset({"s3", "gs", "az"})
_DATABASES = frozenset({"turso", "turso+http", "libsql"})
_LOOPBACK = re.compile(r"(?://|%2F%2F)(localhost|127\.[0-9.]+|\[::1\])([:/?&%]|$)", re.IGNORECASE)
_SECRET = re.compile(r"://[^/?]*@|[?&][^=&]*(auth|token|jwt|secret|password|key|sas|sig)[^=&]*=", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_STATE_DIR = b"/var/tmp/drkit-guard"  # survives a reboot, which a journal must


class BackupConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[backup]`: `exclude` adds to every --exclude."""

    exclude: tuple[str, ...] = ()


class PluginsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins]`: a directory is a plugin if it holds one of `markers` or its path matches one of `globs`."""

    markers: tuple[str, ...] = (".claude-plugin/plugin.json",)
    globs: tuple[str, ...] = ()


class RetentionConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[retention]`: what `drkit forget` keeps where the command line says nothing, and the minimum age of all."""

    keep_last: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    keep_within: str = ""
    keep_tags: tuple[str, ...] = ()
    min_age: str = ""


class StoreConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[stores.NAME]`: a store that holds a copy, and what is known of it that its URL does not tell.

    `immutable`: it keeps what was written, whoever asks for a delete (an object lock, versions out of reach).
    `append_only`: drkit replaces and deletes nothing there but locks. `kind` and `offsite` are derived from the URL
    where they are not given: `medium` and `away` say what counts.
    """

    url: str
    kind: str = ""
    immutable: bool = False
    append_only: bool = False
    offsite: bool | None = None

    @property
    def medium(self) -> str:
        """What a loss would take together: `local`, `cloud` or `turso`, unless `kind` says otherwise."""
        return self.kind or kind_of(self.url)

    @property
    def away(self) -> bool:
        """Whether it outlives the loss of this place."""
        return is_away(self.url) if self.offsite is None else self.offsite


class CopiesConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[copies]`: `require` stores besides the repository must be brought up to date, all of them by default.

    `max_lag` is how far a store may be behind before that is told: a number of snapshots that it lacks, or a span of
    time since the first of them.
    """

    require: int | None = None
    max_lag: int | str = "24h"

    def too_far(self, behind: int, behind_s: float) -> bool:
        """Whether a store that lacks `behind` snapshots, the first of them since `behind_s` seconds, lags too far."""
        return behind > self.max_lag if isinstance(self.max_lag, int) else behind_s > parse_span(self.max_lag)


class GuardConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[guard]`: in how many stores a snapshot must be proved before an edit, and in which (names or URLs) in any case.

    The repository's own store is one of them.
    """

    copies: int = 1
    stores: tuple[str, ...] = ()


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All of `drkit.toml`. Relative paths in `repo` and in stores' URLs count from the directory of the file.

    `repo` may be the name of one of `stores`; the others hold its copies. `enhance` is passed on as it is: what may
    stand in it, the package that adds the command decides.
    """

    repo: str = ""
    stores: dict[str, StoreConfig] = {}
    copies: CopiesConfig = CopiesConfig()
    backup: BackupConfig = BackupConfig()
    plugins: PluginsConfig = PluginsConfig()
    retention: RetentionConfig = RetentionConfig()
    guard: GuardConfig = GuardConfig()
    enhance: dict[str, Any] = {}

    def resolve(self, name_or_url: str) -> str:
        """Return the URL of the store of this name; what is no such name is a URL already."""
        store = self.stores.get(name_or_url)
        return store.url if store else name_or_url


def kind_of(url: str) -> str:
    """Return what kind of place a store's URL names: `local`, `cloud` or `turso`."""
    scheme = url.partition(":")[0] if ":" in url else ""
    if scheme in _CLOUDS:
        return "cloud"
    return "turso" if scheme in _DATABASES else "local"


def is_away(url: str) -> bool:
    """Whether a store is in another place than this machine, as far as its URL tells."""
    return kind_of(url) != "local" and not _LOOPBACK.search(url)


def holds_secret(url: str) -> bool:
    """Whether a store's URL has credentials in it, by its look: it would be recorded, printed and logged."""
    return kind_of(url) != "local" and _SECRET.search(url.replace("%40", "@").replace("%2F", "/")) is not None


def load_config(path: str = "") -> Config:
    """Return the configuration from `path`, or from ./drkit.toml if no path is given and there is one.

    A file that was named must exist. UsageError names the file, and the key that is unknown or of a wrong type.
    """
    try:
        with open(path or DEFAULT_NAME, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        if path:
            raise UsageError(f"no configuration file at {path}", hint="check --config and DRKIT_CONFIG") from None
        return Config()
    except OSError as error:
        raise UsageError(f"cannot read {path or DEFAULT_NAME}: {error.strerror}") from error
    return _decode(data, path or DEFAULT_NAME)


def _decode(data: bytes, path: str) -> Config:
    from msgspec import toml  # brings tomllib, which only a configuration file needs

    try:
        config = toml.decode(data, type=Config)
    except (DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}", hint="docs/cli.md lists the keys that drkit.toml may have") from error
    stores = {name: structs.replace(one, url=_beside(path, one.url)) for name, one in config.stores.items()}
    repo = config.repo if config.repo in stores else _beside(path, config.repo)
    config = structs.replace(config, repo=repo, stores=stores)
    _check(config, path)
    return config


def _check(config: Config, path: str) -> None:
    """UsageError if a store has no proper name or URL, or if the policy of the copies means nothing."""
    wrong = ""
    urls: dict[str, str] = {}
    for name, store in config.stores.items():
        if not _NAME.fullmatch(name):
            wrong = f"stores.{name}: the name of a store has letters, digits, '-', '_' and '.'"
        elif not store.url:
            wrong = f"stores.{name}: the URL is empty"
        elif holds_secret(store.url):
            wrong = f"stores.{name}: its URL holds credentials; they belong into the environment (docs/stores.md)"
        elif (place := os.path.normpath(store.url)) in urls:
            wrong = f"stores.{name} and stores.{urls[place]} are the same place, which is one copy"
        else:
            urls[place] = name
    if holds_secret(config.repo):
        wrong = "repo: the URL holds credentials; they belong into the environment (docs/stores.md)"
    copies = config.copies
    others = len(config.stores.keys() - {config.repo})
    if copies.require is not None and not 0 <= copies.require <= others:
        wrong = f"copies.require is {copies.require}, but of [stores] there are {others} besides the repository"
    if not 1 <= config.guard.copies <= 1 + others:
        wrong = f"guard.copies is {config.guard.copies}, but there are {1 + others} stores with the repository's own"
    try:
        if copies.too_far(0, 0):
            wrong = f"copies.max_lag is {copies.max_lag}, which is no number of snapshots"
    except UsageError as error:
        wrong = f"copies.max_lag: {error}"
    if wrong:
        raise UsageError(f"{path}: {wrong}", hint="docs/copies.md describes [stores] and [copies]")


def _beside(path: str, url: str) -> str:
    """Return a URL of which a relative path counts from the directory of the file at `path`."""
    scheme, colon, rest = url.partition(":")
    if not url or (colon and scheme != "libsql-file"):
        return url
    place = os.path.join(os.path.dirname(path), os.path.expanduser(rest if colon else url))
    return f"{scheme}:{place}" if colon else place


def state_dir() -> bytes:
    """Return the directory that all users of a machine share for locks and journals: $DRKIT_STATE_DIR or /var/tmp's."""
    return os.fsencode(os.environ.get("DRKIT_STATE_DIR", "")) or _STATE_DIR
