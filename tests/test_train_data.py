"""Training crops: the same number gives the same crop, whatever holds the pictures."""

import tarfile
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from restore.errors import InputError
from restore.train.config import Data, Source
from restore.train.data import Cut, Loader, Pictures, cut, decode, listing


@pytest.fixture
def folder(tmp_path):
    """Eight pictures of 20-40 px in two folders, cats and dogs."""
    rng = np.random.default_rng(0)
    for i in range(8):
        path = tmp_path / "pictures" / ("cats" if i % 2 else "dogs") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + i, 40 - i, 3), dtype=np.uint8)).save(path)
    return tmp_path / "pictures"


def pictures(*paths, seed=0, **options):
    return Pictures(Data([Source(str(p)) for p in paths], **{"crop": 8, "holdout": 0.0} | options), seed, quiet=True)


def packed(folder, path):
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname=".")
    return path


def test_a_crop_is_a_function_of_seed_and_number(folder):
    first, again = pictures(folder, rotate=True), pictures(folder, rotate=True, cache_gb=0.0)
    crops = [first[n, 8]["image"] for n in range(20)]
    for n in reversed(range(20)):
        assert torch.equal(again[n, 8]["image"], crops[n])
    assert crops[0].shape == (8, 8, 3)
    assert crops[0].dtype == torch.uint8
    assert not torch.equal(pictures(folder, seed=1)[0, 8]["image"], crops[0])
    assert not again.cache


def test_tar_and_folder_give_the_same_crops(folder, tmp_path):
    tar = packed(folder, tmp_path / "p.tar")
    a, b = pictures(folder, labels=True), pictures(tar, labels=True)
    assert [item.name for item in a.items] == [item.name for item in b.items]
    for n in range(10):
        assert torch.equal(a[n, 8]["image"], b[n, 8]["image"])
        assert a[n, 8]["label"] == b[n, 8]["label"]


def test_damaged_pictures_are_skipped_and_counted(folder, capsys):
    (folder / "cats" / "broken.png").write_bytes(b"no picture")
    whole = (folder / "dogs" / "0.png").read_bytes()
    (folder / "dogs" / "torn.png").write_bytes(whole[: len(whole) // 2])
    data = Pictures(Data([Source(str(folder))], crop=8, holdout=0.0), 0)
    for n in range(100):
        data[n, 8]
    assert len(data.bad) == 2
    told = capsys.readouterr().err
    assert told.count("broken.png") == 1
    assert told.count("torn.png") == 1


def test_workers_tell_of_damaged_pictures(folder, capfd):
    (folder / "cats" / "broken.png").write_bytes(b"no picture")
    for cache in (4.0, 0.0):  # the training process finds it while it loads all, or a worker does
        data = Pictures(Data([Source(str(folder))], crop=8, holdout=0.0, cache_gb=cache), 0)
        for batch in islice(Loader(data, 0, 8, 8, list(range(8)), workers=2), 20):
            names = data.names(batch["item"].tolist())
            assert "cats/broken.png" not in names
        assert data.names(data.bad) == ["cats/broken.png"]
        assert 1 <= capfd.readouterr().err.count("broken.png") <= 2


def test_an_error_in_a_worker_is_the_same_line(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.png").write_bytes(b"")
    told = []
    for workers in (0, 2):
        with pytest.raises(InputError) as caught:
            next(iter(Loader(pictures(tmp_path / "a", cache_gb=0.0), 0, 4, 8, [0, 1, 2, 3], workers)))
        told.append(str(caught.value))
    assert told[0] == told[1] == f"no usable picture in {tmp_path / 'a'}: all are damaged"


def test_no_usable_picture_is_an_input_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no usable picture"):
        pictures(tmp_path / "empty")
    with pytest.raises(InputError, match="there is no"):
        pictures(tmp_path / "nowhere")
    (tmp_path / "empty" / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="all are damaged"):
        pictures(tmp_path / "empty")[0, 8]
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b rubbish")
    with pytest.raises(InputError, match="uncompressed tar"):
        pictures(tmp_path / "a.tar.gz")


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (64, 3), (9, 100)])
def test_small_pictures_are_mirrored_to_the_crop(shape):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for n in range(20):
        crop = cut(picture, Cut(16, (0.5, 1.0), flip=True, rotate=True), np.random.default_rng(n))
        assert crop.shape == (16, 16, 3)


def test_crops_at_scale_one_are_windows_of_the_picture():
    picture = np.arange(400, dtype=np.uint16).reshape(20, 20).astype(np.uint8)[..., None].repeat(3, 2)
    windows = {picture[y : y + 8, x : x + 8].tobytes() for y in range(13) for x in range(13)}
    found = {cut(picture, Cut(8), np.random.default_rng(n)).tobytes() for n in range(2000)}
    assert found == windows


def test_shrinking_averages_areas():
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    crop = cut(picture, Cut(8, (0.5, 0.5)), np.random.default_rng(0))
    mean = picture.reshape(8, 2, 8, 2, 3).mean((1, 3))
    assert np.abs(crop - mean).max() <= 0.5


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert decode(listing(tmp_path)[0]).shape == (30, 20, 3)


def test_held_out_pictures_are_never_drawn(folder, tmp_path):
    data = pictures(folder, holdout=0.4)
    held = {item.name for item in data.held}
    assert held
    assert not held & {item.name for item in data.items}
    assert {item.name for item in pictures(packed(folder, tmp_path / "p.tar"), holdout=0.4).held} == held
    assert [item.name for item in pictures(folder, holdout=["cats/1.png"]).held] == ["cats/1.png"]
    with pytest.raises(InputError, match=r"cats/9\.png"):
        pictures(folder, holdout=["cats/9.png"])
    name, image = next(data.held_out(1, 16))
    assert image.shape == (1, 3, 16, 16)
    assert name in held


def test_sources_are_drawn_by_weight(folder, tmp_path):
    Image.new("RGB", (20, 20), (255, 0, 0)).save(tmp_path / "red.png")
    (tmp_path / "red").mkdir()
    (tmp_path / "red.png").rename(tmp_path / "red" / "red.png")
    data = Data([Source(str(folder), 3.0), Source(str(tmp_path / "red"))], crop=8, holdout=0.0)
    drawn = Pictures(data, 0)
    red = sum(bool((drawn[n, 8]["image"] == torch.tensor([255, 0, 0])).all()) for n in range(400))
    assert abs(red / 400 - 0.25) < 0.08


def test_labels_are_names_of_folders(folder, tmp_path):
    data = pictures(folder, labels=True)
    assert data.labels == ["cats", "dogs"]
    assert {data[n, 8]["label"] for n in range(20)} == {0, 1}
    with pytest.raises(InputError, match="labels"):
        pictures(folder / "cats", labels=True)


def test_workers_and_shares_give_the_same_batches(folder):
    def images(rows, workers=0):
        return [b["image"] for b in islice(Loader(pictures(folder), 8, 4, 8, rows, workers), 3)]

    whole = images([0, 1, 2, 3])
    assert all(torch.equal(a, b) for a, b in zip(whole, images([0, 1, 2, 3], workers=2), strict=True))
    halves = zip(images([0, 1]), images([2, 3]), strict=True)
    assert all(torch.equal(w, torch.cat(h)) for w, h in zip(whole, halves, strict=True))


def test_one_shard_draws_as_there_were_none(folder):
    data = pictures(folder)
    for n in range(40):
        rng = np.random.default_rng((0, n))
        rng.uniform()
        number = int(rng.integers(0, 8))
        expected = cut(decode(data.items[number]), Cut(8, (0.5, 1.0), flip=True), rng)
        sample = data[n, 8]
        assert sample["item"] == number
        assert np.array_equal(sample["image"], expected)


def test_a_shard_draws_its_pictures_alone(folder, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "one.png")
    (tmp_path / "other").mkdir()
    for i in range(3):
        Image.new("RGB", (20, 20)).save(tmp_path / "other" / f"{i}.png")
    data = pictures(folder, tmp_path / "other", shards=3)  # 8 pictures, then 3
    parts = [{data[n, 8, shard]["item"] for n in range(100)} for shard in range(3)]
    assert parts == [{0, 3, 6, 8}, {1, 4, 7, 9}, {2, 5, 10}]
    again = pictures(folder, tmp_path / "other", shards=3)
    again.preload([2])
    assert sorted(again.cache) == [2, 5, 10]
    with pytest.raises(InputError, match="other has 3 pictures to train on: too few for 4 shards"):
        pictures(folder, tmp_path / "other", shards=4)


def test_a_damaged_shard_is_an_input_error(folder):
    data = pictures(folder, shards=8)
    data.damaged[3] = True
    assert data[0, 8, 2]["item"] == 2
    with pytest.raises(InputError, match="shard 3 of 8: all are damaged"):
        data[0, 8, 3]


def test_rows_draw_from_their_shards(folder):
    data = pictures(folder, shards=2)
    for workers in (0, 2):
        batches = islice(Loader(data, 0, 4, 8, [0, 1, 2, 3], workers, [0, 0, 1, 1]), 10)
        assert all((batch["item"] % 2).tolist() == [0, 0, 1, 1] for batch in batches)
    Loader(fresh := pictures(folder, shards=2), 0, 4, 8, [2, 3], 1, [1, 1])
    assert sorted(fresh.cache) == [1, 3, 5, 7]
