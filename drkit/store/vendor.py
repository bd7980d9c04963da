"""What obstore raises, as drkit's own errors: nothing of the vendor's escapes, and no denial looks like success."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from drkit.errors import NoSpace, ObjectExists, ObjectNotFound, StoreError, StoreUnavailable

_STATUS = re.compile(r"status code: (\d{3})")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist|specified container does not")
_FULL = re.compile(r"QuotaExceeded|InsufficientStorage|XMinioStorageFull|AccountQuota|status code: 507")
_CREDENTIALS = re.compile(
    r"token request|[Cc]redential|InvalidAccessKeyId|SignatureDoesNotMatch|instance metadata|169\.254\.169\.254"
)
_CLOCK = re.compile(r"RequestTimeTooSkewed")
_LATER = {408, 409, 425, 429}
_NOT_DELETED = re.compile(r"DeleteObjects request failed for key .*\(code: (\w+)\)")
"""How S3 refuses one delete, in an answer that is none of an error."""
_PASSING = {"InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown"}
_SAID = re.compile(r"<Code>(\w{1,100})</Code>")
_QUERY = re.compile(r"\?\S+")

_ALLOW = "check that the credentials may read, write, list and delete there (docs/stores.md lists the variables)"
_BUCKET = "check the bucket's name, and make it with the cloud's own tool: drkit makes no buckets"
_REGION = "the bucket is in another region: set AWS_REGION, or add ?region=NAME to the URL"


class RangeIgnored(StoreError):
    """The server answered a range with the whole object."""


class RangeOutside(StoreError):
    """The server says that the object ends before the range begins."""


@contextmanager
def translated(action: str, name: str, url: str) -> Iterator[None]:
    """Turn what obstore raises inside the block into a StoreError that says what to do next."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        if action in {"write", "list"} or _NO_BUCKET.search(str(error)):
            raise StoreError(f"there is no bucket at {url}", hint=_BUCKET) from error
        raise ObjectNotFound(f"there is no object {name} in {url}") from error
    except (BaseError, OSError, ValueError) as error:
        raise _translate(error, action, name, url) from error


def _translate(error: Exception, action: str, name: str, url: str) -> StoreError:
    from obstore.exceptions import (
        AlreadyExistsError,
        NotSupportedError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )

    text = str(error)
    message = f"cannot {action} {name} in {url}: {_first_line(text)}"
    status = int(found[1]) if (found := _STATUS.search(text)) else 0
    if "non-partial response" in text:
        return RangeIgnored(message)
    if action == "read" and (status == 416 or "Wanted range starting at" in text):
        return RangeOutside(message)
    if isinstance(error, AlreadyExistsError) or (action == "write" and isinstance(error, PreconditionError)):
        # 409 is also how S3 tells of two conditional puts at once, of which perhaps neither was done.
        if "ConditionalRequestConflict" in text:
            return StoreUnavailable(message)
        return ObjectExists(f"{name} is already in {url}")
    if _FULL.search(text):
        return NoSpace(message)
    if _NO_BUCKET.search(text):
        return StoreError(f"there is no bucket at {url}", hint=_BUCKET)
    if _CLOCK.search(text):
        return StoreError(message, hint="set this machine's clock, for instance with 'timedatectl set-ntp true'")
    if (refused := _NOT_DELETED.search(text)) and refused[1] not in _PASSING:
        return StoreError(message, hint=_ALLOW)
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or status in {401, 403}:
        return StoreError(message, hint=_ALLOW)
    if status in {301, 307}:
        return StoreError(message, hint=_REGION)
    if _CREDENTIALS.search(text):
        return StoreError(message, hint=_ALLOW)
    if isinstance(error, (NotSupportedError, ValueError)) or (400 <= status < 500 and status not in _LATER):
        return StoreError(message)
    return StoreUnavailable(message)


def _first_line(text: str) -> str:
    """Return what a person needs of a vendor's message: one line, without the query of a URL, which may be signed."""
    line = text.split("\n", 1)[0].split("<?xml", 1)[0].split("Debug source", 1)[0]
    said = _SAID.search(text)
    return (_QUERY.sub("", line)[:400].rstrip(" :") + (f": {said[1]}" if said else "")).strip()
