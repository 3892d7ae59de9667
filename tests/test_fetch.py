"""Files from the web: resumed, checked, never half there."""

import errno
import hashlib
import json
import shutil
import sys
import threading
from pathlib import Path

import pytest
from serving import serving

from restore import fetch
from restore.errors import InputError, PriorError

BODY = bytes(range(256)) * 5000  # 1.28 MB
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RESTORE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(fetch, "PAUSE", 0)
    return tmp_path / "home" / "checkpoints"


@pytest.fixture
def site():
    with serving() as found:
        found.files["/net.pt"] = BODY
        yield found


def names(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock")) if folder.is_dir() else []


def refused(words, *args, kind=PriorError, **options):
    with pytest.raises(kind, match=words) as error:
        fetch.download(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- what goes well


def test_a_file_is_fetched_once_and_noted(site, home):
    found = fetch.download(site.at("net.pt"))
    assert found == (home / "net.pt", SHA, True)
    assert found.path.read_bytes() == BODY
    assert names(home) == ["net.pt", "net.pt.json"]
    assert fetch.record(found.path) == {"url": site.at("net.pt"), "sha256": SHA, "bytes": len(BODY)}
    assert fetch.download(site.at("net.pt"), SHA) == (home / "net.pt", SHA, False)
    assert site.asked == ["GET /net.pt"]


def test_a_broken_connection_is_taken_up_again(site, home):
    site.cuts = [300_000, 500_000]
    assert fetch.download(site.at("net.pt"), SHA).path.read_bytes() == BODY
    assert site.ranges == [None, "bytes=300000-", "bytes=800000-"]


def test_a_connection_that_brings_nothing_is_given_up_and_resumed_later(site, home):
    site.cuts = [400_000, *[0] * fetch.TRIES]
    refused("breaks at 0.4 MB: run this again", site.at("net.pt"))
    assert names(home) == ["net.pt.part", "net.pt.part.json"]
    site.ranges.clear()
    assert fetch.download(site.at("net.pt")).path.read_bytes() == BODY
    assert site.ranges == ["bytes=400000-"]
    assert names(home) == ["net.pt", "net.pt.json"]


def test_an_interruption_keeps_what_came(site, home, monkeypatch):
    def stop(answer, file, digest, bar):
        file.write(answer.read(100_000))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_copy", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch.download(site.at("net.pt"))
    assert names(home) == ["net.pt.part", "net.pt.part.json"]
    assert fetch.download(site.at("net.pt")).path.read_bytes() == BODY
    assert site.ranges == [None, "bytes=100000-"]


def begun(site, home, body=BODY[:200_000], **notes):
    home.mkdir(parents=True, exist_ok=True)
    (home / "net.pt.part").write_bytes(body)
    (home / "net.pt.part.json").write_text(json.dumps({"url": site.at("net.pt"), **notes}))


def test_what_was_begun_is_not_mixed_with_another_file(site, home):
    begun(site, home, b"x" * 200_000, mark='"of another file"')
    assert fetch.download(site.at("net.pt")).path.read_bytes() == BODY
    assert site.ranges == ["bytes=200000-"]  # refused by If-Range: all of it came


def test_without_a_mark_it_begins_anew_unless_the_sha256_is_known(site, home):
    site.etags = False
    begun(site, home)
    fetch.download(site.at("net.pt"))
    assert site.ranges == [None]
    for path in home.iterdir():
        path.unlink()
    begun(site, home)
    assert fetch.download(site.at("net.pt"), SHA).path.read_bytes() == BODY
    assert site.ranges == [None, "bytes=200000-"]


def test_a_weak_mark_is_none(site, home):
    site.weak, site.cuts = True, [200_000, *[0] * fetch.TRIES]
    refused("breaks at", site.at("net.pt"))
    site.ranges.clear()
    assert fetch.download(site.at("net.pt")).path.read_bytes() == BODY
    assert site.ranges == [None]


def test_a_piece_that_was_not_asked_for(site, home):
    begun(site, home)
    site.shift = 7
    assert fetch.download(site.at("net.pt"), SHA).path.read_bytes() == BODY
    assert site.ranges == ["bytes=200000-", None]


def test_what_was_begun_from_another_address_is_not_used(site, home):
    begun(site, home, mark='"x"')
    site.files["/other/net.pt"] = BODY
    fetch.download(site.at("other/net.pt"))
    assert site.ranges == [None]


def test_a_part_that_is_whole_or_too_long(site, home):
    begun(site, home, BODY, mark='"m"', bytes=len(BODY))
    assert fetch.download(site.at("net.pt")).sha256 == SHA
    assert site.asked == []
    shutil.rmtree(home)
    begun(site, home, BODY + b"more")
    assert fetch.download(site.at("net.pt"), SHA).path.read_bytes() == BODY
    assert site.ranges == ["bytes=1280004-", None]


def test_servers_that_cannot_resume_or_do_not_tell_the_length(site, home):
    site.resumes, site.cuts = False, [300_000]
    assert fetch.download(site.at("net.pt"), SHA).path.read_bytes() == BODY
    site.files["/b.pt"], site.lengths = BODY, False
    assert fetch.download(site.at("b.pt")).path.read_bytes() == BODY


def test_two_at_once_fetch_it_once(site, home):
    site.pause, found = 0.01, []
    threads = [threading.Thread(target=lambda: found.append(fetch.download(site.at("net.pt"), SHA))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.new for one in found) == [False, False, True]
    assert site.asked == ["GET /net.pt"]
    assert (home / "net.pt").read_bytes() == BODY


# ---------------------------------------------------------------- what is refused


def test_another_sha256(site, home):
    (home / "kept.pt").parent.mkdir(parents=True)
    (home / "kept.pt").write_bytes(b"kept")
    assert SHA in refused("not the file that it should be", site.at("net.pt"), "0" * 64)
    assert names(home) == ["kept.pt"]
    (home / "net.pt").write_bytes(b"something else")
    refused("is not what it should be", site.at("net.pt"), SHA)
    assert (home / "net.pt").read_bytes() == b"something else"


def test_a_file_that_changed_is_noticed_here_and_there(site, home):
    path = fetch.download(site.at("net.pt")).path
    path.write_bytes(BODY[:-1] + b"?")
    refused("is not what it should be", site.at("net.pt"))
    assert fetch.unchanged(path) == path  # of the same length: a glance is not enough
    path.write_bytes(b"short")
    with pytest.raises(PriorError, match="has changed"):
        fetch.unchanged(path)
    path.unlink()
    site.files["/net.pt"] = b"a new one"
    refused("not the file that it should be .* as before", site.at("net.pt"))
    assert names(home) == ["net.pt.json"]


def test_two_files_of_one_name(site, home):
    fetch.download(site.at("net.pt"))
    site.files["/other/net.pt"] = b"other"
    refused(r"came from .*move it", site.at("other/net.pt"), kind=InputError)


@pytest.mark.parametrize(
    ("code", "words"),
    [(401, "asks for a login"), (403, "asks for a login"), (404, "no such file"), (503, "answers 503"), (500, "500")],
)
def test_answers_that_are_no_file(code, words, site, home):
    site.codes["/net.pt"] = code
    refused(words, site.at("net.pt"))
    assert names(home) == []


def test_a_page_is_not_a_file(site, home):
    site.kind = "text/html; charset=utf-8"
    refused("page for browsers", site.at("net.pt"))
    assert names(home) == []


def test_nobody_answers(home):
    with serving() as gone:
        url = gone.at("net.pt")
    refused("cannot reach 127.0.0.1: Connection refused", url)
    assert names(home) == []


def test_redirects_are_followed_but_not_to_other_protocols(site, home):
    site.redirects["/moved.pt"] = site.at("net.pt")
    assert fetch.download(site.at("moved.pt")).path == home / "moved.pt"
    site.redirects["/file.pt"] = "file:///etc/passwd"
    refused("answers 302", site.at("file.pt"))


def test_safe_addresses_do_not_lead_to_unsafe_ones(site, monkeypatch):
    answer = fetch.urlopen(site.at("net.pt"))
    monkeypatch.setattr(fetch, "urlopen", lambda *args, **options: answer)
    refused("leads to http://127.0.0.1.*, which is not safe", "https://somewhere/net.pt")


def test_no_space(site, home, monkeypatch):
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(home.parents[1])
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        refused("no space left in .*: 1 MB are needed, 0 MB are free", site.at("net.pt"))
    assert names(home) == []

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "_copy", full)
    refused("no space left in", site.at("net.pt"))


def test_offline(site, home, monkeypatch):
    refused("nothing is fetched, as --offline asks", site.at("net.pt"), offline=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("nothing is fetched, as HF_HUB_OFFLINE is set", site.at("net.pt"))
    assert site.asked == []
    assert not home.exists()
    home.mkdir(parents=True)
    (home / "net.pt").write_bytes(BODY)
    assert fetch.download(site.at("net.pt"), SHA, offline=True) == (home / "net.pt", SHA, False)


@pytest.mark.parametrize(
    "url",
    [
        "http://x/", "http://x/..", "http://x/a.pt/", "http://x/%2e%2e", "http://x/a/.pt", "http://x/.hidden.pt",
        "http://x/view", "http://x/page.html", "http://x/a%00.pt", "http://x/a%0a.pt", "http://x/C:a.pt", "http:///a.pt",
        "ftp://x/a.pt", "file:///etc/a.pt", "http://x/a.pt.json",
    ],
)  # fmt: skip
def test_addresses_that_are_refused(url, home):
    refused("not (an|the) address", url, kind=InputError)


@pytest.mark.parametrize(
    "path", ["a.pt", "..%2f..%2fa.pt", "x/..%5C..%5Ca.pt", "%2Fetc%2Fa.pt", "x/a.pt?download=true", "x/a.pt#part"]
)
def test_names_stay_in_the_folder(path):
    assert fetch.file_name(f"https://host/{path}") == "a.pt"
    assert fetch.place("a.pt").parent == fetch.home() / "checkpoints"


# ---------------------------------------------------------------- where it goes


@pytest.mark.parametrize(
    ("platform", "variable", "wanted"),
    [
        ("linux", "XDG_CACHE_HOME", "{}/restore"), ("darwin", None, "~/Library/Caches/restore"),
        ("win32", "LOCALAPPDATA", "{}/restore"), ("linux", None, "~/.cache/restore"),
    ],
)  # fmt: skip
def test_home(platform, variable, wanted, tmp_path, monkeypatch):
    assert fetch.home() == tmp_path / "home"
    for name in ("RESTORE_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
    assert fetch.home() == Path(wanted.format(tmp_path)).expanduser()
