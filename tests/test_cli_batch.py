"""The command line given many pictures: names, masks by name, failures among them."""

import json
import os

from command import cut, hole, photo, pixels
from PIL import Image


def test_one_bad_file_does_not_stop_the_others(desk):
    bad = cut(photo(desk.here / "bad.png"))
    photo(desk.here / "last.png", seed=2)
    result = desk.inpaint(
        desk.photo, bad, desk.here / "nope.png", desk.here / "last.png", "-m", desk.mask, "-o", desk.here / "out",
        "--json", code=3,
    )  # fmt: skip
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in line for line in lines] == [False, True, True, False]
    assert lines[1]["input"] == str(bad)
    assert "damaged" in lines[1]["error"]
    assert sorted(os.listdir(desk.here / "out")) == ["last.png", "photo.png"]
    assert "2 of 4 pictures failed" in result.stderr
    assert result.stderr.count("restore: error: ") == 3


def test_folders_and_masks_by_name(desk):
    shots, masks = desk.here / "shots", desk.here / "masks"
    for folder in (shots, shots / "sub", masks, masks / "sub"):
        folder.mkdir()
    photo(shots / "a.png")
    photo(shots / "b.jpg", seed=3)
    photo(shots / "sub" / "a.png", seed=4)
    photo(shots / ".hidden.png")
    (shots / "notes.txt").write_text("no picture")
    hole(masks / "a.png")
    (masks / "a.json").write_text("{}")
    hole(masks / "b.png", where=(slice(0, 4), slice(0, 4)))
    hole(masks / "sub" / "a.png", where=(slice(20, 28), slice(0, 4)))
    desk.inpaint(shots, "-m", masks, "-o", desk.here / "flat")
    assert sorted(os.listdir(desk.here / "flat")) == ["a.png", "b.jpg"]
    desk.inpaint(shots, "-m", masks, "-o", desk.here / "deep", "--recursive")
    found = sorted(p.relative_to(desk.here / "deep").as_posix() for p in (desk.here / "deep").rglob("*.*"))
    assert found == ["a.png", "b.jpg", "sub/a.png"]
    changed = (pixels(desk.here / "deep/sub/a.png") != pixels(shots / "sub/a.png")).any(2)
    assert changed.any()
    assert not changed[:20].any()
    assert (pixels(desk.here / "deep/a.png") == pixels(desk.here / "flat/a.png")).all()


def test_a_folder_of_one_picture_is_still_a_folder(desk):
    (desk.here / "shots").mkdir()
    photo(desk.here / "shots" / "a.png")
    desk.inpaint(desk.here / "shots", "-m", desk.mask, "-o", desk.here / "out")
    assert os.listdir(desk.here / "out") == ["a.png"]
    assert "folder" in desk.inpaint(desk.here / "shots", "-m", desk.mask, "-o", desk.here / "o.png", code=2).stderr


def test_batch_beside_the_pictures(desk):
    photo(desk.here / "other.jpg", seed=2)
    desk.inpaint(desk.photo, desk.here / "other.jpg", "-m", desk.mask)
    assert (desk.here / "photo-inpaint.png").exists()
    assert Image.open(desk.here / "other-inpaint.jpg").format == "JPEG"


def test_the_prior_is_loaded_once(desk, monkeypatch):
    from restore import load

    loads = []
    monkeypatch.setattr(load, "load_prior", lambda *a, _load=load.load_prior, **k: loads.append(a) or _load(*a, **k))
    photo(desk.here / "other.png", seed=2)
    desk.inpaint(desk.photo, desk.here / "other.png", "-m", desk.mask)
    assert len(loads) == 1


def test_a_file_in_the_way_of_the_output_folder(desk):
    photo(desk.here / "other.png")
    (desk.here / "out").write_text("a file")
    args = [desk.photo, desk.here / "other.png", "-m", desk.mask, "-o"]
    assert "out is one file" in desk.inpaint(*args, desk.here / "out", code=2).stderr
    assert "in the way" in desk.inpaint(*args, desk.here / "out" / "sub", code=2).stderr


def test_a_folder_that_may_not_be_written_is_found_first(desk, no_network, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK)
    result = desk.inpaint(desk.photo, "-m", desk.mask, code=2)
    assert "no permission" in result.stderr
    assert result.stderr.count("\n") == 1
