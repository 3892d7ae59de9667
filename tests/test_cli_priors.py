"""`restore priors list, info, download`: what they print, and their exit codes."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import ENV, run
from huggingface_hub import constants
from serving import cache, serving

from restore import zoo

BODY = bytes(range(256)) * 3000
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RESTORE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home" / "checkpoints"


@pytest.fixture
def site():
    with serving() as found:
        found.files["/net.pt"] = BODY
        yield found


def failed(*args, code=4):
    result = run("priors", *args, code=code)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


# ---------------------------------------------------------------- list and info


def test_list_fits_and_says_what_is_here(home, tmp_path, tiny_folder):
    home.mkdir(parents=True)
    (home / "lsun_cat.pt").write_bytes(b"weights")
    cache(tmp_path / "hub", "google/ddpm-church-256", tiny_folder)
    result = run("priors", "list")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    here = {line.split()[0] for line in lines if line[26:30].strip() == "yes"}
    assert {"photo", "lsun_cat", "ddpm-church-256"} <= here
    assert not {"lsun_horse", "ddpm-cat-256"} & here
    assert re.search(r"^ddpm-cat-256 +- +455 +256 apache-2\.0 +cats$", result.stdout, re.M)
    assert re.search(r"^afhq_dog_4m +- +\? +256 unknown +dogs$", result.stdout, re.M)
    assert [line.split()[0] for line in lines if "good for" in line] == ["prior", "classifier"]
    assert "priors download NAME" in result.stderr


def test_list_as_json():
    result = run("priors", "list", "--json")
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert set(rows) >= {"photo", *(known.name for known in zoo.TABLE)}
    assert (rows["photo"]["here"], rows["ddpm-cat-256"]["here"]) == (True, False)
    assert rows["ddpm-cat-256"]["id"] == "google/ddpm-cat-256"
    keys = {"name", "kind", "title", "licence", "megabytes", "size", "here", "folder"}
    assert all(keys <= set(row) for row in rows.values())
    assert result.stderr == ""


def test_info_of_what_is_not_here():
    text = run("priors", "info", "64x64_classifier").stdout
    assert re.search(r"^here +no$", text, re.M)
    assert re.search(r"^url +https://openaipublic.*64x64_classifier\.pt$", text, re.M)
    facts = json.loads(run("priors", "info", "google/ddpm-cat-256", "--json").stdout)
    assert facts["licence"] == "apache-2.0"
    assert "restore priors download some/cats`" in failed("info", "some/cats")
    assert "no prior 'nope'" in failed("info", "nope")


def test_a_hub_id_as_a_prior(tmp_path, tiny_folder, desk):
    words = failed_desk(desk, "google/ddpm-cat-256")
    assert "google/ddpm-cat-256 is not on this machine: run `restore priors download google/ddpm-cat-256`" in words
    cache(tmp_path / "hub", "google/ddpm-cat-256", tiny_folder)
    desk.inpaint(desk.photo, "--mask", desk.mask, prior="google/ddpm-cat-256")


def failed_desk(desk, prior):
    result = desk.inpaint(desk.photo, "--mask", desk.mask, prior=prior, code=4)
    assert result.stderr.count("\n") == 1
    return result.stderr


# ---------------------------------------------------------------- download


def test_download_says_where_it_is(site, home):
    result = run("priors", "download", site.at("net.pt"))
    path = home / "net.pt"
    assert result.stderr == f"restore: note: {site.at('net.pt')} was fetched to {path}, sha256 {SHA}\n"
    assert result.stdout == ""
    again = run("priors", "download", site.at("net.pt"), "--json")
    assert "is here already" in again.stderr
    assert json.loads(again.stdout) == {"name": site.at("net.pt"), "path": str(path), "sha256": SHA, "new": False}
    assert run("priors", "download", site.at("net.pt"), "--quiet").stderr == ""
    assert len(site.asked) == 1


def test_download_that_fails(site):
    site.codes |= {"/login.pt": 403}
    assert "asks for a login (403)" in failed("download", site.at("login.pt"))
    assert "no such file (404)" in failed("download", site.at("gone.pt"))
    assert "nothing is known of" in failed("download", "nope")
    assert "no direct address" in failed("download", "ffhq_10m")
    assert "as --offline asks" in failed("download", site.at("net.pt"), "--offline")
    assert "as --offline asks" in failed("download", "google/ddpm-cat-256", "--offline")
    assert "not the address of a checkpoint" in failed("download", site.at("page"), code=2)
    assert site.asked == ["GET /login.pt", "GET /gone.pt"]


def test_download_of_another_file_than_the_table_knows(site, monkeypatch, home):
    known = zoo.Entry("net", "tests", None, None, None, file="net.pt", url=site.at("net.pt"), sha256="0" * 64)
    monkeypatch.setattr(zoo, "TABLE", (known,))
    assert SHA in failed("download", "net")
    assert not list(home.glob("net.pt*"))


def test_download_of_what_the_cache_has(tmp_path, tiny_folder):
    folder = cache(tmp_path / "hub", "some/cats", tiny_folder)
    result = run("priors", "download", "some/cats", "--offline")
    assert result.stderr == f"restore: note: some/cats is here already: {folder}\n"


def start(home, *args, **env):
    """The command in a process of its own."""
    env = {**ENV, "RESTORE_HOME": str(home.parent), "PYTHONPATH": os.pathsep.join(sys.path), **env}
    command = [sys.executable, "-m", "restore.cli", "priors", "download", *args]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)


def test_interrupted_and_resumed(site, home):
    site.pause = 0.05
    process = start(home, site.at("net.pt"))
    part = home / "net.pt.part"
    until = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "interrupted" in process.communicate()[1]
    assert process.returncode == 130
    assert 0 < part.stat().st_size < len(BODY)
    site.pause = 0
    run("priors", "download", site.at("net.pt"), "-q")
    assert (home / "net.pt").read_bytes() == BODY
    assert site.ranges[-1].startswith("bytes=")
    assert not part.exists()


def test_two_processes_do_not_disturb_each_other(site, home):
    site.pause = 0.02
    both = [start(home, site.at("net.pt")) for _ in range(2)]
    said = sorted(process.communicate()[1] for process in both)
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("was fetched" in text for text in said) == 1
    assert (home / "net.pt").read_bytes() == BODY
    assert site.asked == ["GET /net.pt"]


def test_offline_by_the_environment(site, home):
    process = start(home, site.at("net.pt"), HF_HUB_OFFLINE="1")
    assert "as HF_HUB_OFFLINE is set" in process.communicate()[1]
    assert process.returncode == 4
    assert site.asked == []


def test_docs_name_every_command():
    text = (Path(__file__).parents[1] / "docs" / "priors.md").read_text()
    for words in ("restore priors download", "restore priors convert", "RESTORE_HOME", "HF_HUB_OFFLINE", "--offline"):
        assert words in text
