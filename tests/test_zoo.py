"""The table of well-known networks, and what of it is on this machine."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import constants
from serving import serving

from restore import fetch, hub, load, shelf, zoo
from restore.errors import InputError, PriorError
from restore.load import describe, find, kind_of

GUIDED = "256x256_diffusion_uncond"
URL = f"https://openaipublic.blob.core.windows.net/diffusion/jul-2021/{GUIDED}.pt"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RESTORE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home" / "checkpoints"


def put(home, name, body=b"weights"):
    home.mkdir(parents=True, exist_ok=True)
    (home / name).write_bytes(body)
    return home / name


# ---------------------------------------------------------------- the table


def test_the_table_is_sound():
    names = [e.name for e in zoo.TABLE]
    assert len(set(names)) == len(names)
    assert not set(names) & (set(load.bundled()) | set(load.bundled("classifier")))
    for e in zoo.TABLE:
        assert (e.repo is None) != (e.file is None), e.name
        assert len(e.name) <= 25, e.name
        assert len(e.good_for) <= 24, e.name
        assert e.kind in ("prior", "classifier")
        assert e.origin.startswith("https://")
        assert e.repo is None or hub.parse(e.repo) == hub.Repo(e.repo)
        assert e.url is None or fetch.file_name(e.url) == e.file
        assert e.sha256 is None or re.fullmatch("[0-9a-f]{64}", e.sha256)
        assert e.megabytes is None or e.megabytes > 1
        for other in (e.name, e.repo, e.file, e.url):
            assert other is None or zoo.entry(other) is e


def test_what_papers_used_is_there():
    for repo in ("celebahq", "church", "bedroom", "cat", "ema-celebahq", "ema-church", "ema-bedroom", "ema-cat"):
        assert zoo.entry(f"google/ddpm-{repo}-256").licence == "apache-2.0"
    known = zoo.entry(GUIDED)
    assert (known.url, known.size) == (URL, 256)
    assert known.sha256 == "a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1"
    assert {e.name for e in zoo.TABLE if e.kind == "classifier"} == {
        f"{side}x{side}_classifier" for side in (64, 128, 256, 512)
    }
    assert zoo.entry("CompVis/ldm-celebahq-256").name == "ldm-celebahq-256"
    for text in ("", "photo", "nope", "None"):
        assert zoo.entry(text) is None


# ---------------------------------------------------------------- names -> files


@pytest.mark.parametrize("name", [GUIDED, f"{GUIDED}.pt", URL])
def test_files_by_name_and_address(name, home):
    with pytest.raises(PriorError, match=f"^{re.escape(name)} is not on this machine: run `restore priors download "):
        find(name)
    path = put(home, f"{GUIDED}.pt")
    assert find(name) == path


def test_any_address_that_was_downloaded(home):
    path = put(home, "mine.pt")
    assert find("https://host/some/mine.pt?download=true") == path
    with pytest.raises(PriorError, match=r"run `restore priors download https://host/other\.pt`"):
        find("https://host/other.pt")
    with pytest.raises(InputError, match="not the address of a checkpoint"):
        find("https://host/page")


def test_files_here_win(home, tmp_path, monkeypatch):
    put(home, f"{GUIDED}.pt")
    monkeypatch.chdir(tmp_path)
    Path(f"{GUIDED}.pt").write_bytes(b"mine")
    assert find(f"{GUIDED}.pt") == Path(f"{GUIDED}.pt")
    assert find(GUIDED) == home / f"{GUIDED}.pt"


def test_files_that_changed_are_refused(home):
    path = put(home, f"{GUIDED}.pt")
    path.with_name(f"{path.name}.json").write_text(json.dumps({"bytes": 3}))
    with pytest.raises(PriorError, match="has changed since it was fetched"):
        find(GUIDED)


def test_priors_are_no_classifiers():
    assert kind_of("64x64_classifier") == "classifier"
    assert kind_of("64x64_diffusion") == kind_of("ddpm-cat-256") == "prior"
    with pytest.raises(PriorError, match="64x64_classifier is a classifier, not a prior"):
        find("64x64_classifier")
    with pytest.raises(PriorError, match="64x64_diffusion is a prior, not a classifier"):
        find("64x64_diffusion", "classifier")


def test_files_to_fetch_by_hand(home):
    words = f"fetch it with a browser from https://drive.*, and put it at {home / 'ffhq_10m.pt'}"
    with pytest.raises(PriorError, match=f"ffhq_10m is not on this machine: {words}"):
        find("ffhq_10m")
    with pytest.raises(PriorError, match=f"ffhq_10m has no direct address: {words}"):
        shelf.download("ffhq_10m")
    path = put(home, "ffhq_10m.pt")
    assert find("ffhq_10m") == path
    found = shelf.download("ffhq_10m")
    assert (found.path, found.new) == (path, False)
    path.write_bytes(b"another")
    with pytest.raises(PriorError, match="not what it should be"):
        shelf.download("ffhq_10m")


def test_the_table_knows_where_and_what(home, monkeypatch):
    with serving() as site:
        known = zoo.Entry("net", "tests", None, None, None, file="net.pt", url=site.at("net.pt"), sha256="0" * 64)
        monkeypatch.setattr(zoo, "TABLE", (known,))
        site.files["/net.pt"] = b"weights"
        with pytest.raises(PriorError, match="not the file that it should be"):
            shelf.download("net")
        monkeypatch.setattr(zoo, "TABLE", (zoo.Entry("net", "tests", None, None, None, file="net.pt", url=known.url),))
        found = shelf.download("net")
    assert found.path.read_bytes() == b"weights"
    assert shelf.where(zoo.TABLE[0]) == find("net.pt") == found.path
    row = shelf.row(zoo.TABLE[0])
    assert (row["here"], row["sha256"], row["licence"]) == (True, found.sha256, "unknown")


def test_nothing_is_known():
    for name in ("nope", "a b", "x/y/../z"):
        with pytest.raises(PriorError, match="nothing is known of"):
            shelf.download(name)


# ---------------------------------------------------------------- what `restore priors info` says of it


def test_describe_what_is_not_here():
    facts = describe("google/ddpm-cat-256")
    assert (facts["name"], facts["here"], facts["licence"], facts["size"]) == ("ddpm-cat-256", False, "apache-2.0", 256)
    assert facts["page"] == "https://huggingface.co/google/ddpm-cat-256"
    assert describe("64x64_classifier", "classifier")["classes"] == 1000
    with pytest.raises(PriorError, match="not a prior"):
        describe("64x64_classifier")
    json.dumps([shelf.row(known) for known in zoo.TABLE])
