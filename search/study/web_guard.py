"""Checks of requests to the dashboard: for whom, from where, and an answer where the dashboard itself fails."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_LOOKING = ("GET", "HEAD", "OPTIONS")


def guarded_application(inner: Application, hosts: Sequence[str]) -> Application:
    """Return ``inner`` behind the checks of a server that other people's web pages can reach through a browser.

    A request needs a ``Host`` that is ``localhost``, an IP address or one of ``hosts`` (DNS rebinding sends another), a change
    no ``Origin`` of elsewhere; what ``inner`` fails on is answered with 400.

    Args:
        inner: The dashboard.
        hosts: Further names under which it is called.
    """
    names = {"localhost", *(_bare(name) for name in hosts)}

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST")
        if host is not None and not _allowed(host, names):
            reason = f"the host {_bare(host)!r} is not known; if it is this machine, start the dashboard with --allow-host NAME"
            return refuse(start_response, "403 Forbidden", reason)
        origin = environ.get("HTTP_ORIGIN")
        if environ.get("REQUEST_METHOD", "GET") not in _LOOKING and origin is not None and _netloc(origin) != (host or ""):
            return refuse(start_response, "403 Forbidden", f"a page from {origin} may change nothing here")
        # Optuna's dashboard looks this up without a default.
        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")
        return _without_failure(inner, environ, start_response)

    return answer


def refuse(start_response: Callable[..., Any], status: str, reason: str) -> list[bytes]:
    """Answer with ``status`` and a reason, as JSON."""
    body = json.dumps({"reason": reason}).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _without_failure(inner: Application, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start(status: str, headers: list[tuple[str, str]], details: Any = None) -> Callable[[bytes], None]:
        started.append((status, headers))
        return lambda content: None

    try:
        body = b"".join(inner(environ, start))
        status, headers = started[-1]
    except Exception as error:
        return refuse(start_response, "400 Bad Request", f"{_UNKNOWN} ({type(error).__name__})")
    if status.startswith("500"):
        return refuse(start_response, "400 Bad Request", _UNKNOWN)
    start_response(status, headers)
    return [body]


_UNKNOWN = "this can't be shown: the request is not one of the dashboard's own, or the record of the studies is damaged"


def _allowed(host: str, names: set[str]) -> bool:
    bare = _bare(host)
    try:
        ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return bare in names
    return True


def _bare(host: str) -> str:
    """Return a host without port and brackets, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() and ":" not in name else host).rstrip(".")


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
