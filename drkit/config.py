"""The configuration file `drkit.toml`: what may stand in it, and where it is looked for.

Everything in it can be said on the command line or in the environment too, and those win.
"""

from __future__ import annotations

import os
from typing import Any

from msgspec import DecodeError, Struct, structs

from drkit.errors import UsageError

DEFAULT_NAME = "drkit.toml"
_STATE_DIR = b"/var/tmp/drkit-guard"  # survives a reboot, which a journal must


class BackupConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[backup]`: `exclude` adds to every --exclude."""

    exclude: tuple[str, ...] = ()


class PluginsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins]`: a directory is a plugin if it holds one of `markers` or its path matches one of `globs`."""

    markers: tuple[str, ...] = (".claude-plugin/plugin.json",)
    globs: tuple[str, ...] = ()


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All of `drkit.toml`. A `repo` that is a relative path counts from the directory of the file.

    `enhance` is passed on as it is: what may stand in it, the package that adds the command decides.
    """

    repo: str = ""
    backup: BackupConfig = BackupConfig()
    plugins: PluginsConfig = PluginsConfig()
    enhance: dict[str, Any] = {}


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
    if config.repo and ":" not in config.repo:
        repo = os.path.join(os.path.dirname(path), os.path.expanduser(config.repo))
        config = structs.replace(config, repo=repo)
    return config


def state_dir() -> bytes:
    """Return the directory that all users of a machine share for locks and journals: $DRKIT_STATE_DIR or /var/tmp's."""
    return os.fsencode(os.environ.get("DRKIT_STATE_DIR", "")) or _STATE_DIR
