"""From `s3://bucket/folder?option=value` to a store, with credentials as each cloud's own tools find them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

from drkit.errors import UsageError
from drkit.store.base import Store
from drkit.store.checks import check_name

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig
    from obstore.store import ObjectStore as Client

SCHEMES = ("s3", "gs", "az")
_OWN_OPTIONS = frozenset({"endpoint", "region", "env", "timeout", "checksum"})
_OPTIONS = _OWN_OPTIONS | {"limit", "append-only", "read-only"}
_TIMEOUT = timedelta(minutes=5)
_CONNECT = timedelta(seconds=10)
_MISSING = "install it with `pip install 'drkit[cloud]'`"


class CloudUrl(Struct, frozen=True):
    """The parts of a cloud store's URL. `text` is the URL itself, which never holds credentials."""

    text: str
    scheme: str
    bucket: str
    folder: str
    options: dict[str, str]


def parse_url(url: str) -> CloudUrl:
    """Take a URL apart. UsageError, without what may be a secret, if it is not one that drkit knows."""
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    bucket, _, folder = place.partition("/")
    folder = unquote(folder).strip("/")
    if "@" in bucket or ":" in bucket or "@" in unquote(query):
        raise UsageError(
            f"a {scheme}: URL must not hold credentials",
            hint="credentials belong into the environment: docs/stores.md lists the variables",
        )
    if scheme not in SCHEMES or not bucket or "#" in rest:
        raise UsageError(f"{scheme}://{place} is not the URL of a store", hint="write s3://BUCKET/FOLDER")
    if folder:
        check_name(folder)
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _OPTIONS or key in options:
            raise UsageError(
                f"{key} is {'given twice' if key in options else 'no option'} of the URL of a store",
                hint=f"there are: {', '.join(sorted(_OPTIONS))}",
            )
        options[key] = value
    return CloudUrl(url, scheme, bucket, folder, options)


def open_cloud(url: str, env: Mapping[str, str] = os.environ) -> Store:
    """Return the store that a URL names, with retries and what its options ask for. Nothing is requested yet.

    UsageError if the URL is wrong or the packages for clouds are not installed.
    """
    from drkit.store.object import ObjectStore
    from drkit.store.wrap import Retrying, with_options

    parts = parse_url(url)
    client, own_server = _client(parts, env)
    store = ObjectStore(
        client,
        parts.text,
        # The clouds themselves keep it; what else speaks their language has to show it.
        keeps_precondition=None if own_server else True,
        tells_of_missing=parts.scheme != "s3",
    )
    return with_options(Retrying(store), parts.options)


def _client(parts: CloudUrl, env: Mapping[str, str]) -> tuple[Client, bool]:
    """Return obstore's own store, and whether its server is another than the cloud's."""
    try:
        import obstore.store
    except ImportError as error:
        raise UsageError(f"{parts.scheme}: stores need a package that is not installed", hint=_MISSING) from error
    config: dict[str, Any] = {}
    prefix = parts.options.get("env", "")
    if prefix:
        config = {key.removeprefix(prefix).lower(): value for key, value in env.items() if key.startswith(prefix)}
        if not config:
            raise UsageError(f"there is no environment variable that begins with {prefix}")
    make: Any
    if parts.scheme == "s3":
        make = obstore.store.S3Store
        endpoint = _first(parts.options.get("endpoint"), config, env, "aws_endpoint_url_s3", "aws_endpoint_url")
        region = _first(parts.options.get("region"), config, env, "aws_region", "aws_default_region")
        config |= {"aws_region": region or "us-east-1"} | ({"aws_endpoint": endpoint} if endpoint else {})
        # A bucket with an object lock takes no put without one; some other servers take none with one.
        checksum = parts.options.get("checksum", "0" if endpoint else "1")
        if checksum not in {"", "0", "1"}:
            raise UsageError(f"checksum is 1 or 0, not {checksum!r}")
        config |= {"aws_checksum_algorithm": "sha256"} if checksum != "0" else {}
    elif parts.scheme == "gs":
        make = obstore.store.GCSStore
        endpoint = _first(parts.options.get("endpoint"), config, env, "storage_emulator_host")
        if endpoint:
            endpoint = endpoint if "://" in endpoint else f"http://{endpoint}"
            config |= {"google_service_account_key": _emulator(endpoint)}
    else:
        make = obstore.store.AzureStore
        endpoint = _first(parts.options.get("endpoint"), config, env, "azure_storage_endpoint", "azure_endpoint")
        config |= {"azure_storage_endpoint": endpoint} if endpoint else {}
    for name in _NOT_CLIENTS:
        config.pop(name, None)
    client_options: ClientConfig = {
        "timeout": _timeout(parts.options.get("timeout", "")),
        "connect_timeout": _CONNECT,
        "allow_http": endpoint.startswith("http://"),
        "user_agent": "drkit",
    }
    no_retry: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(0)}
    try:
        client = make(
            parts.bucket,
            prefix=parts.folder or None,
            config=config,
            client_options=client_options,
            retry_config=no_retry,
        )
    except Exception as error:
        from obstore.exceptions import BaseError

        if not isinstance(error, (BaseError, ValueError, TypeError)):
            raise
        reason = str(error).split("\n", 1)[0]
        raise UsageError(f"cannot open {parts.text}: {reason}", hint="docs/stores.md lists the variables") from error
    return client, bool(endpoint)


_NOT_CLIENTS = ("aws_endpoint_url", "aws_endpoint_url_s3", "aws_default_region", "storage_emulator_host")


def _first(option: str | None, config: Mapping[str, str], env: Mapping[str, str], *names: str) -> str:
    """Return the first that is set: the URL's option, then the variables, with the URL's prefix or without."""
    if option:
        return option
    for name in names:
        if value := config.get(name) or env.get(name.upper()):
            return value
    return ""


def _emulator(endpoint: str) -> str:
    """Return the key of no account, with which the client asks another server than Google's, and without a token."""
    account = {"gcs_base_url": endpoint, "disable_oauth": True, "client_email": "", "private_key": ""}
    return json.dumps({**account, "private_key_id": ""})


def _timeout(text: str) -> timedelta:
    if not text:
        return _TIMEOUT
    from drkit.timespan import parse_span

    return timedelta(seconds=parse_span(text))
