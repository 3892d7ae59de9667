"""Checkpoint files from the web: fetched when asked, resumed, checked by their sha256, and never half there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from restore.errors import InputError, PriorError

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
BLOCK = 1 << 20
TRIES, PAUSE, TIMEOUT = 4, 1.0, 30.0  # tries in a row that bring nothing, and seconds


class Fetched(NamedTuple):
    """What is on this machine now: a file or a folder, the sha256 of a file, and whether it was fetched just now."""

    path: Path
    sha256: str | None
    new: bool


def home() -> Path:
    """Where files that do not come from the hub are kept: RESTORE_HOME, or the user's folder for caches."""
    if os.environ.get("RESTORE_HOME"):
        return Path(os.environ["RESTORE_HOME"]).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "restore"


def online(what: str, offline: bool = False) -> None:
    """Nothing, where the network may be used. Raises PriorError where --offline or HF_HUB_OFFLINE forbids it."""
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        asked = "as --offline asks" if offline else "as HF_HUB_OFFLINE is set"
        raise PriorError(f"{what} is not on this machine, and nothing is fetched, {asked}")


def is_url(text: str) -> bool:
    return "://" in text


def file_name(url: str) -> str:
    """The name of the checkpoint that an address ends in. Raises InputError where there is none that is safe."""
    found = urlsplit(url)
    name = unquote(found.path).replace("\\", "/").rpartition("/")[2]
    if found.scheme not in ("http", "https") or not found.hostname:
        raise InputError(f"{url}: not an address that files can be fetched from: give http:// or https://")
    if (
        not name.lower().endswith(SUFFIXES)
        or name.startswith(".")
        or not all(c.isalnum() or c in "._-+ ()" for c in name)
    ):
        raise InputError(
            f"{url}: not the address of a checkpoint file ({', '.join(SUFFIXES)}): give a direct link to one"
        )
    return name


def place(name: str) -> Path:
    """Where the file of this name lies, or would."""
    return home() / "checkpoints" / name


def record(path: Path) -> dict[str, Any]:
    """What was noted when the file was fetched: url, sha256, bytes; nothing for a file that was put there by hand."""
    return read_json(path.with_name(f"{path.name}.json"))


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def unchanged(path: Path) -> Path:
    """The path, where the file is as long as it was when it was fetched. Raises PriorError."""
    noted = record(path).get("bytes", path.stat().st_size)
    if noted != path.stat().st_size:
        raise PriorError(f"{path} has changed since it was fetched: remove it, and fetch it again")
    return path


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(
    url: str | None, known: str | None = None, *, path: Path | None = None, offline: bool = False, quiet: bool = False
) -> Fetched:
    """Fetch a checkpoint, or go on where it was stopped; a file that is there is only checked, and needs no address.

    known: the sha256 that it must have; without one, that of the last time. path: where it goes, in place of its name
    in RESTORE_HOME. offline: fetch nothing, as with HF_HUB_OFFLINE. Several processes may ask for the same file: one
    fetches it. Raises PriorError where it cannot be had or is another one than it should be, InputError for an address
    that names no checkpoint, or another one of the same name."""
    from huggingface_hub.utils import WeakFileLock

    path = path or place(file_name(url))
    noted = record(path)
    if url and noted.get("url") not in (None, url):
        raise InputError(f"{path} came from {noted['url']}: move it and {path.name}.json away first")
    known = known or noted.get("sha256")
    if not path.is_file():
        online(path.name, offline)
    path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(path.with_name(f".{path.name}.lock")):
        if path.is_file():
            seen = sha256(path)
            if known not in (None, seen):
                wrong = f"its sha256 is {seen}, not {known}"
                raise PriorError(f"{path} is not what it should be ({wrong}): remove it, and fetch it again")
            _note(path, url, seen)
            return Fetched(path, seen, new=False)
        part = path.with_name(f"{path.name}.part")
        try:
            with _one_line(url, path):
                seen = _fetch(url, part, known, quiet)
        finally:
            if part.is_file() and not part.stat().st_size:
                _forget(part)
        if known not in (None, seen):
            _forget(part)
            wrong = f"its sha256 is {seen}, not {known}{' as before' if known == noted.get('sha256') else ''}"
            raise PriorError(f"{url} is not the file that it should be ({wrong}): nothing was kept")
        os.replace(part, path)
        _forget(part)
        _note(path, url, seen)
        return Fetched(path, seen, new=True)


def _note(path: Path, url: str | None, seen: str) -> None:
    facts = {"url": url, "sha256": seen, "bytes": path.stat().st_size}
    path.with_name(f"{path.name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _forget(part: Path) -> None:
    for path in (part, part.with_name(f"{part.name}.json")):
        path.unlink(missing_ok=True)


@contextmanager
def _one_line(url: str, path: Path) -> Iterator[None]:
    """What can go wrong on the way, as PriorError."""
    host = urlsplit(url).hostname
    try:
        yield
    except HTTPError as error:
        error.close()
        if error.code in (401, 403):
            reason = f"{url} asks for a login ({error.code}): fetch it with a browser, and put it at {path}"
        elif error.code in (404, 410):
            reason = f"{url}: there is no such file ({error.code})"
        else:
            reason = f"{url}: the server answers {error.code} {error.reason}: try again later"
        raise PriorError(reason) from error
    except OSError as error:  # URLError and time-outs are of this kind too
        if error.errno == errno.ENOSPC:
            raise PriorError(f"no space left in {path.parent}: make some, and run this again to go on") from error
        if error.filename:
            raise PriorError(f"cannot write {error.filename}: {error.strerror}") from error
        reason = getattr(error, "reason", error)
        raise PriorError(f"cannot reach {host}: {getattr(reason, 'strerror', None) or reason}") from error
    except HTTPException as error:
        raise PriorError(f"{host} does not speak HTTP as it should ({type(error).__name__})") from error


def _fetch(url: str, part: Path, known: str | None, quiet: bool) -> str:
    """Fill `part` to its end, from where it stands; its sha256. A connection that breaks is taken up again."""
    from tqdm import tqdm

    digest, notes = hashlib.sha256(), part.with_name(f"{part.name}.json")
    noted = read_json(notes) if read_json(notes).get("url") == url else {}
    mark, tries = noted.get("mark"), TRIES
    shown = {"desc": part.stem[-30:], "unit": "B", "unit_scale": True, "leave": False, "dynamic_ncols": True}
    with open(part, "a+b") as file, tqdm(**shown, disable=quiet or None) as bar:
        if mark is None and known is None:  # nothing would tell a mixture of two files
            file.truncate(0)
        file.seek(0)
        while block := file.read(BLOCK):
            digest.update(block)
        if file.tell() and file.tell() == noted.get("bytes"):
            return digest.hexdigest()
        while True:
            at = file.tell()
            answer, total = _ask(url, at, mark)
            with answer:
                if answer.status == 200:
                    at, digest = 0, hashlib.sha256()
                    file.truncate(0)
                    file.seek(0)
                    mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
                    mark = None if mark and mark.startswith("W/") else mark
                    notes.write_text(json.dumps({"url": url, "mark": mark, "bytes": total}), encoding="utf-8")
                _room(part, total, at)
                bar.reset(total)
                bar.update(at)
                broken = _copy(answer, file, digest, bar)
            here = file.tell()
            if total is not None and here > total:
                raise PriorError(f"{url}: the server sent more than it said")
            if here == total or (total is None and broken is None):
                return digest.hexdigest()
            tries = TRIES if here > at else tries - 1
            if not tries:
                raise PriorError(f"{url}: the connection breaks at {here / 1e6:.1f} MB: run this again to go on")
            time.sleep(PAUSE)


def _ask(url: str, at: int, mark: str | None) -> tuple[HTTPResponse, int | None]:
    """The answer from byte `at` on (206), or from the start (200), and how many bytes the whole file has."""
    headers = {"User-Agent": "restore", "Accept-Encoding": "identity"}
    if at:
        headers |= {"Range": f"bytes={at}-", **({"If-Range": mark} if mark else {})}
    try:
        answer = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416 or not at:
            raise
        error.close()
        return _ask(url, 0, None)  # what was kept is longer than the file
    if urlsplit(answer.url).scheme not in (urlsplit(url).scheme, "https"):
        answer.close()
        raise PriorError(f"{url} leads to {answer.url}, which is not safe")
    if answer.headers.get_content_type() == "text/html":
        answer.close()
        raise PriorError(f"{url} is a page for browsers, not a file: fetch it by hand")
    length = answer.headers.get("Content-Length")
    if answer.status == 206:
        span, _, whole = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if not span.startswith(f"{at}-"):
            answer.close()
            return _ask(url, 0, None)
        return answer, int(whole) if whole.isdecimal() else None
    return answer, int(length) if length and length.isdecimal() else None


def _copy(answer: HTTPResponse, file: BinaryIO, digest: Any, bar: Any) -> Exception | None:
    """Write what comes; the error that broke it off, if one did."""
    while True:
        try:
            block = answer.read1(BLOCK)
        except (HTTPException, ConnectionError, TimeoutError, URLError) as error:
            return error
        if not block:
            return None
        file.write(block)
        digest.update(block)
        bar.update(len(block))


def _room(part: Path, total: int | None, at: int) -> None:
    """Refuse what the disk cannot hold. Raises PriorError."""
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - at > free:
        raise PriorError(
            f"no space left in {part.parent}: {(total - at) / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
        )
