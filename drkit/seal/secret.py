"""What opens a key slot, and where it comes from: a passphrase or a key file, named by the environment or asked for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct

from drkit.errors import UsageError
from drkit.format.settings import KdfSettings
from drkit.seal.cipher import derive

Kind = Literal["passphrase", "keyfile"]
KEY = 32
_MEMORY = 512 << 20
_COMMAND_S = 120.0
_LINE = re.compile(r"^\W*([1-4])\s*:((?:\s*[0-9a-f]){20})\s*$", re.IGNORECASE | re.MULTILINE)


class Secret(Struct, frozen=True):
    """A passphrase's bytes, or the 32 bytes of a key file."""

    kind: Kind
    data: bytes

    def key(self, kdf: KdfSettings, repository_id: str) -> bytes:
        """Return the key that opens this secret's slots: 0.4 s for a passphrase."""
        salt = base64.b64decode(kdf.salt)
        if self.kind == "passphrase":
            return hashlib.scrypt(self.data, salt=salt, n=kdf.n, r=kdf.r, p=kdf.p, maxmem=_MEMORY, dklen=KEY)
        return derive(self.data, salt, b"drkit key file" + repository_id.encode())


class KeySource:
    """Where the secrets of this process come from: asked for once, when they are first needed.

    `DRKIT_KEY_FILE` names a key file; the passphrase is in `DRKIT_PASSWORD`, in the file that `DRKIT_PASSWORD_FILE`
    names, or what the command in `DRKIT_PASSWORD_COMMAND` prints; the first of them that is set. With none, `prompt` is
    asked, if there is one. `prefix` names other variables.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        prompt: Callable[[], str] | None = None,
        prefix: str = "DRKIT_",
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._prompt = prompt
        self._prefix = prefix
        self._secrets: tuple[Secret, ...] | None = None
        self._keys: dict[tuple[Secret, KdfSettings, str], bytes] = {}

    @property
    def named(self) -> bool:
        """Whether the environment names a secret."""
        return any(self._variable(name) for name in ("KEY_FILE", "PASSWORD", "PASSWORD_FILE", "PASSWORD_COMMAND"))

    def secrets(self) -> tuple[Secret, ...]:
        """Return what there is to try. UsageError if what the environment names cannot be read."""
        if self._secrets is None:
            found: list[Secret] = []
            if path := self._variable("KEY_FILE"):
                found.append(read_key_file(path))
            passphrase = self._passphrase()
            if passphrase is None and not found and self._prompt is not None:
                passphrase = os.fsencode(self._prompt())
            if passphrase is not None:
                found.append(Secret("passphrase", passphrase))
            self._secrets = tuple(found)
        return self._secrets

    def key(self, secret: Secret, kdf: KdfSettings, repository_id: str) -> bytes:
        """Return the key that a secret gives, computed once."""
        known = (secret, kdf, repository_id)
        if known not in self._keys:
            self._keys[known] = secret.key(kdf, repository_id)
        return self._keys[known]

    def _variable(self, name: str) -> str:
        return self._environ.get(self._prefix + name, "")

    def _passphrase(self) -> bytes | None:
        if text := self._variable("PASSWORD"):
            return os.fsencode(text)
        if path := self._variable("PASSWORD_FILE"):
            return _without_newline(_read(path, "password file"))
        if command := self._variable("PASSWORD_COMMAND"):
            return _without_newline(self._run(command))
        return None

    def _run(self, command: str) -> bytes:
        import shlex
        import subprocess

        name = f"{self._prefix}PASSWORD_COMMAND"
        try:
            done = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, timeout=_COMMAND_S, check=False)
            problem = f"it ended with {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"it took more than {_COMMAND_S:.0f} s"
        except (OSError, ValueError) as error:
            problem = str(error)
        if problem:  # without the command, in which there may be a secret
            raise UsageError(f"{name} gave no passphrase: {problem}", hint="run the command by hand")
        return done.stdout


def read_key_file(path: str) -> Secret:
    """Return the key in a key file. UsageError if there is none."""
    try:
        return Secret("keyfile", parse_key(_read(path, "key file").decode(errors="replace")))
    except ValueError as error:
        raise UsageError(f"{path} is no key file: {error}", hint="make one with 'drkit key add --key-file'") from error


def read_password_file(path: str) -> Secret:
    """Return the passphrase in a file, without the newline at its end. UsageError if there is none."""
    return Secret("passphrase", _without_newline(_read(path, "password file")))


def write_key_file(path: str, secret: Secret) -> None:
    """Write a key file that nobody else may read. UsageError if there is a file already."""
    try:
        file = os.open(os.path.expanduser(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(file, "wb") as stream:
            stream.write(base64.b64encode(secret.data) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise UsageError(f"cannot make the key file {path}: {error.strerror}", hint="name a new file") from error


def new_key() -> Secret:
    """Return the secret of a new key file."""
    return Secret("keyfile", os.urandom(KEY))


def parse_key(text: str) -> bytes:
    """Return the key in the text of a key file or of a paper sheet. ValueError says what is wrong with it."""
    if lines := _LINE.findall(text):
        return _from_lines(lines)
    try:
        key = base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        raise ValueError("it is not base64") from None
    if len(key) != KEY:
        raise ValueError(f"it holds {len(key)} bytes, not {KEY}")
    return key


def key_lines(key: bytes) -> list[str]:
    """Return the four lines, each with its check, that a person can type from paper."""
    lines = []
    for number in range(1, 5):
        part = key[8 * (number - 1) : 8 * number]
        digits = part.hex() + _check(number, part)
        lines.append(f"{number}: " + " ".join(digits[at : at + 4] for at in range(0, 20, 4)))
    return lines


def _from_lines(lines: list[tuple[str, str]]) -> bytes:
    parts: dict[int, bytes] = {}
    for number, text in lines:
        digits = "".join(text.split()).lower()
        part = bytes.fromhex(digits[:16])
        if _check(int(number), part) != digits[16:]:
            raise ValueError(f"line {number} of the key is mistyped")
        if parts.setdefault(int(number), part) != part:
            raise ValueError(f"it has two lines {number}")
    if missing := {1, 2, 3, 4} - set(parts):
        raise ValueError(f"line {min(missing)} of the key is missing or mistyped")
    return b"".join(parts[number] for number in sorted(parts))


def _check(number: int, part: bytes) -> str:
    return hashlib.sha256(b"drkit key line" + bytes((number,)) + part).hexdigest()[:4]


def _read(path: str, what: str) -> bytes:
    try:
        with open(os.path.expanduser(path), "rb") as file:
            return file.read(64 << 10)
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}", hint="check its name") from error


def _without_newline(text: bytes) -> bytes:
    return text.removesuffix(b"\n").removesuffix(b"\r")
