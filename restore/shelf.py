"""Names of the table, ids of the hub and addresses -> files and folders on this machine, and how they get here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from restore import fetch, hub
from restore.errors import PriorError
from restore.zoo import Entry, entry


def find(text: str, kind: str, bundled: Iterable[str] = ()) -> Path:
    """The file or folder of what has a name, an id or an address, on this machine. Raises PriorError: it says what to
    run where it is not; `bundled` are further names, for that."""
    known = entry(text)
    if known and known.kind != kind:
        raise PriorError(f"{text} is a {known.kind}, not a {kind}")
    path = _path(known, text)
    if path is not None:
        if path.is_file():
            return fetch.unchanged(path)
        by_hand = _by_hand(known, path)
        raise PriorError(f"{text} is not on this machine: {by_hand or f'run `restore priors download {text}`'}")
    repo = hub.parse(known.repo if known else text)
    if repo is None:
        ways = "a diffusers folder, a checkpoint file, a name of `restore priors list` or an id of the hub (owner/name)"
        raise PriorError(f"no {kind} {text!r}: give a bundled name ({', '.join(bundled) or 'none'}) or {ways}")
    found = hub.cached(repo)
    if found is None:
        what = f"{text} is" if known else f"there is no file or folder {text}, and the hub's {text} is"
        raise PriorError(f"{what} not on this machine: run `restore priors download {text}`")
    return found


def _path(known: Entry | None, text: str) -> Path | None:
    """Where the checkpoint file of a name or an address lies, or would; None for what is no file."""
    if known and known.file:
        return fetch.place(known.file)
    return fetch.place(fetch.file_name(text)) if fetch.is_url(text) and known is None else None


def _by_hand(known: Entry | None, path: Path) -> str | None:
    if known is None or known.url:
        return None
    return f"fetch it with a browser from {known.page}, and put it at {path}"


def download(text: str, *, offline: bool = False, quiet: bool = False) -> fetch.Fetched:
    """Fetch what has a name in the table, an id of the hub or an address, where it is not here yet.

    offline: touch no network. Raises PriorError where it cannot be had, InputError for what is no such thing."""
    known = entry(text)
    path = _path(known, text)
    if path is not None:
        by_hand = None if path.is_file() else _by_hand(known, path)
        if by_hand:
            raise PriorError(f"{text} has no direct address: {by_hand}")
        url = known.url if known else text
        return fetch.download(url, known and known.sha256, path=path, offline=offline, quiet=quiet)
    repo = hub.parse(known.repo if known else text)
    if repo is None:
        raise PriorError(f"nothing is known of {text!r}: give a name of `restore priors list`, an id or an address")
    return hub.download(repo, offline=offline, quiet=quiet)


def where(known: Entry) -> Path | None:
    """Where a network of the table lies on this machine, whole; None where it does not."""
    if known.file:
        path = fetch.place(known.file)
        return path if path.is_file() else None
    repo = hub.parse(known.repo)
    return hub.cached(repo) if hub.is_here(repo) else None


def row(known: Entry) -> dict[str, Any]:
    """What the table says of a network, in the words of `restore.load.describe`."""
    path = where(known)
    return {
        "name": known.name,
        "kind": known.kind,
        "title": known.good_for,
        "licence": known.licence or "unknown",
        "megabytes": known.megabytes,
        "size": known.size,
        "classes": known.classes,
        "id": known.repo,
        "url": known.url,
        "sha256": known.sha256 or (fetch.record(path).get("sha256") if path else None),
        "page": known.page or known.origin,
        "note": known.note,
        "here": path is not None,
        "folder": path and str(path),
    }
