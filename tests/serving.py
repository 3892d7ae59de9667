"""A web server of this machine with files that can be resumed, and a small hub; caches in the hub's real layout."""

import hashlib
import json
import os
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Site:
    """What the server gives, and what it was asked: paths -> bytes, and how it misbehaves.

    cuts: of the next answers, after how many bytes the connection breaks. codes: paths -> a status instead."""

    def __init__(self):
        self.files, self.asked, self.ranges, self.cuts, self.codes = {}, [], [], [], {}
        self.etags, self.kind, self.pause, self.repos, self.gated, self.resumes = (
            True,
            "application/zip",
            0,
            {},
            [],
            True,
        )
        self.redirects, self.lengths, self.weak, self.shift = {}, True, False, 0

    def at(self, path):
        return f"{self.url}/{path.lstrip('/')}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        site, path = self.server.site, self.path.partition("?")[0]
        site.asked.append(f"{self.command} {path}")
        if path in site.redirects:
            return self.begin(302, {"Location": site.redirects[path], "Content-Length": "0"})
        if path in site.codes:
            return self.begin(site.codes[path], {"Content-Length": "0"})
        if path.startswith("/api/models/"):
            return self.api(path.removeprefix("/api/models/"))
        found = re.fullmatch(r"/(\w[^/]*/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found and found[1] in site.repos:
            if found[1] in site.gated:
                return self.begin(403, {"Content-Length": "0", "X-Error-Code": "GatedRepo"})
            return self.give(site.repos[found[1]].get(found[3]), {"X-Repo-Commit": COMMIT})
        return self.give(site.files.get(path), {})

    def api(self, rest):
        site, repo = self.server.site, "/".join(rest.split("/")[:2])
        if repo not in site.repos:
            return self.begin(401, {"Content-Length": "0", "X-Error-Code": "RepoNotFound"})
        what, revision = rest.split("/")[2:4] if rest.count("/") > 2 else ("revision", "main")
        if revision not in ("main", COMMIT, "v1"):
            return self.begin(404, {"Content-Length": "0", "X-Error-Code": "RevisionNotFound"})
        files = site.repos[repo]
        if what == "tree":
            told = [{"type": "file", "path": f, "size": len(b), "oid": etag(b)[:40]} for f, b in files.items()]
        else:
            told = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
        body = json.dumps(told).encode()
        self.begin(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def begin(self, code, headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def give(self, body, headers):
        site = self.server.site
        if body is None:
            return self.begin(404, {"Content-Length": "0", "X-Error-Code": "EntryNotFound", **headers})
        start, span = 0, self.headers.get("Range")
        fresh = self.headers.get("If-Range") in (None, f'"{etag(body)}"')
        site.ranges.append(span)
        if span and site.resumes and fresh:
            start = int(span.removeprefix("bytes=").partition("-")[0])
            if start >= len(body):
                return self.begin(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"})
            headers["Content-Range"] = f"bytes {start + site.shift}-{len(body) - 1}/{len(body)}"
        if site.etags:
            headers["ETag"] = f'{"W/" if site.weak else ""}"{etag(body)}"'
        if site.lengths:
            headers["Content-Length"] = str(len(body) - start)
        else:
            headers["Connection"] = "close"
        self.begin(206 if "Content-Range" in headers else 200, {"Content-Type": site.kind, **headers})
        if self.command == "HEAD":
            return None
        cut = site.cuts.pop(0) if site.cuts else None
        part = body[start:] if cut is None else body[start : start + cut]
        for i in range(0, len(part), 1 << 16):
            self.wfile.write(part[i : i + (1 << 16)])
            time.sleep(site.pause)
        if cut is not None:
            self.close_connection = True


def etag(body):
    return hashlib.sha256(body).hexdigest()


@contextmanager
def serving():
    """A Site, answering at site.url."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args):
            pass  # clients that go away

    server = Server(("127.0.0.1", 0), Handler)
    server.site = site = Site()
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def cache(root, repo, folder, commit=COMMIT, ref="main"):
    """Put the files of a folder into a hub cache at `root`, as huggingface_hub lays them out; its snapshot."""
    base = Path(root) / f"models--{repo.replace('/', '--')}"
    snapshot = base / "snapshots" / commit
    for file in (p for p in Path(folder).rglob("*") if p.is_file()):
        body = file.read_bytes()
        blob, link = base / "blobs" / etag(body), snapshot / file.relative_to(folder)
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(body)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if ref:
        (base / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (base / "refs" / ref).write_text(commit)
    return snapshot
