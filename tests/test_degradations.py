"""What conditional trainings see: degradations against restore.degrade, PIL and scipy; pairs, margins, mistakes."""

import io
import tarfile
from itertools import islice

import cv2
import numpy as np
import pytest
import torch
from pictures import smooth
from PIL import Image
from scipy import ndimage

from restore.degrade import degrade
from restore.errors import InputError
from restore.train import degradations
from restore.train.conditional_config import (
    Condition,
    ConditionalConfig,
    ConditionalData,
    ConditionalTrain,
    Degradation,
    PairedSource,
)
from restore.train.data import Loader, decode
from restore.train.degradations import Pairs, degraded
from restore.train.plan import phase


class Given:
    """A generator of numbers that are known: `uniform` is at a share of its range, the noise is `z`."""

    def __init__(self, share=0.25, z=None):
        self.share, self.z = share, z

    def uniform(self, low=0.0, high=1.0, size=None):
        return low + self.share * (high - low)

    def standard_normal(self, shape, dtype):
        return self.z.reshape(shape).astype(dtype)


@pytest.fixture(scope="module")
def crop():
    return cv2.convertScaleAbs(smooth(48, 64, 3), alpha=2, beta=-128)


def made(crop, kind, scale=1, shrunk="bicubic", rng=None, edge=0, **ranges):
    how = Degradation(kind, **{name: (float(a), float(b)) for name, (a, b) in ranges.items()})
    told = Condition(scale, shrunk, [how])
    return degraded(crop, told, how, rng or np.random.default_rng(0), edge)


def through_jpeg(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def close(a, b, ties=3e-3):
    """Equal, but for roundings of halves, of which there may be this share."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.uint8
    gap = np.abs(a.astype(int) - b.astype(int))
    assert gap.max() <= 1
    assert gap.mean() <= ties, gap.mean()


# ---------------------------------------------------------------- one stage


@pytest.mark.parametrize("scale", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("method", ["bicubic", "average"])
def test_upscale_is_degrades_shrinking(crop, scale, method):
    crop = np.ascontiguousarray(crop[: 48 // scale * scale, : 64 // scale * scale])
    pair = made(crop, "upscale", scale, method)
    close(pair.condition, degrade(crop, scale=scale, method=method))
    assert pair.image is crop
    assert not pair.hole.any()
    assert pair.hole.shape == crop.shape[:2]


def test_shrinking_by_average_is_a_mean(crop):
    mean = crop.reshape(12, 4, 16, 4, 3).mean((1, 3))
    assert np.abs(made(crop, "upscale", 4, "average").condition - mean).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("sigma", [0.5, 1.7, 4.0])
def test_blur_is_scipys(crop, sigma):
    pair = made(crop, "deblur", blur=(sigma, sigma))
    want = ndimage.gaussian_filter(crop.astype(float), (sigma, sigma, 0), mode="reflect")
    close(pair.condition, want.round().astype(np.uint8))
    close(pair.condition, degrade(crop, kernel=f"gaussian:{sigma}"))


@pytest.mark.parametrize(("share", "angle"), [(0.0, 0), (0.25, 45), (0.5, 90), (0.7, 126)])
def test_motion_is_degrades(crop, share, angle):
    pair = made(crop, "deblur", rng=Given(share), blur=(0, 0), motion=(9, 9))
    close(pair.condition, degrade(crop, kernel=f"motion:9,{angle}"))
    if share == 0:
        mean = ndimage.uniform_filter1d(crop.astype(float), 9, axis=1, mode="reflect")
        close(pair.condition, mean.round().astype(np.uint8))


@pytest.mark.parametrize("sigma", [2.0, 12.0, 40.0])
def test_noise_is_white_of_the_sigma(sigma):
    flat = np.full((128, 128, 3), 128, np.uint8)
    noise = made(flat, "denoise", noise=(sigma, sigma)).condition.astype(float) - 128
    clipped = np.clip(np.random.default_rng(1).normal(0, sigma, 10**6), -128, 127).round()
    assert noise.std() == pytest.approx(clipped.std(), rel=0.015)
    assert abs(noise.mean()) < 4 * sigma / noise.size**0.5
    channels = noise.reshape(-1, 3)
    assert np.abs(np.corrcoef(channels.T) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("quality", [1, 10, 55, 95, 100])
def test_jpeg_is_pils(crop, quality):
    assert (made(crop, "jpeg", jpeg=(quality, quality)).condition == through_jpeg(crop, quality)).all()


def test_gray_is_rec_601(crop):
    pair = made(crop, "colorize")
    want = (crop @ np.array([0.299, 0.587, 0.114])).round()
    assert np.abs(pair.condition[..., 0] - want).max() <= 1
    assert np.abs(pair.condition[..., 0] - want).mean() < 3e-3
    close(pair.condition, degrade(crop, gray=True))
    assert (pair.image == crop).all()


@pytest.mark.parametrize("more", [{"noise": (25, 25)}, {"jpeg": (30, 30)}, {"noise": (25, 25), "jpeg": (30, 30)}])
def test_gray_stays_gray(crop, more):
    channels = made(crop, "colorize", **more).condition
    assert (channels == channels[..., :1]).all()
    if "noise" in more:
        assert (channels != made(crop, "colorize").condition).mean() > 0.8


# ---------------------------------------------------------------- the order of stages


@pytest.mark.parametrize("scale", [1, 2])
def test_blur_then_shrink_then_noise_then_jpeg(crop, scale):
    z = np.random.default_rng(3).standard_normal((1, 3, 48 // scale, 64 // scale)).astype(np.float32)
    kind = "repair" if scale == 1 else "upscale"
    ranges = {"blur": (1.5, 1.5), "motion": (7, 7), "noise": (20, 20), "jpeg": (40, 40)}
    found = made(crop, kind, scale, rng=Given(0.25, z), **ranges).condition
    x = torch.from_numpy(crop).permute(2, 0, 1)[None] / 255
    x = degrade(degrade(x, kernel="gaussian:1.5"), kernel="motion:7,45")
    x = degrade(x, scale=scale) if scale > 1 else x
    x = x.numpy() + 20 / 255 * z
    noisy = (x.clip(0, 1) * 255).round().astype(np.uint8)[0].transpose(1, 2, 0)
    gap = np.abs(found.astype(int) - through_jpeg(noisy, 40).astype(int))
    assert np.median(gap) == 0
    assert gap.mean() < 0.05  # shrinking may overshoot, and `degrade` clips then
    assert np.abs(found.astype(int) - noisy.astype(int)).mean() > 2  # JPEG does come last


def test_gray_comes_after_the_blur_and_before_the_noise(crop):
    z = np.random.default_rng(3).standard_normal((48, 64)).astype(np.float32)
    found = made(crop, "colorize", rng=Given(0.5, z), blur=(2, 2), noise=(30, 30)).condition
    gray = degrade(torch.from_numpy(crop).permute(2, 0, 1)[None] / 255, kernel="gaussian:2", gray=True).numpy()
    want = ((gray[0, 0] + 30 / 255 * z).clip(0, 1) * 255).round().astype(np.uint8)
    close(found, want[..., None].repeat(3, 2))


def test_an_edge_is_cut_off_before_the_jpeg(crop):
    """JPEG's blocks begin with the crop, and are not cut."""
    found = made(crop, "repair", blur=(1, 1), jpeg=(20, 20), edge=12)
    blurred = np.ascontiguousarray(degrade(crop, kernel="gaussian:1")[12:-12, 12:-12])
    assert (found.condition == through_jpeg(blurred, 20)).mean() > 0.99
    assert (found.image == crop[12:-12, 12:-12]).all()
    assert found.hole.shape == (24, 40)
    small = made(crop, "upscale", 4, edge=8)
    close(small.condition, np.ascontiguousarray(degrade(crop, scale=4)[2:-2, 2:-2]))


# ---------------------------------------------------------------- holes


@pytest.mark.parametrize("kind", ["inpaint", "uncrop"])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_holes_have_about_their_share_and_all_else_is_exact(crop, kind, share):
    shares = []
    for n in range(60):
        pair = made(crop, kind, rng=np.random.default_rng(n), hole=(share, share))
        assert (pair.condition[~pair.hole] == crop[~pair.hole]).all()
        assert (pair.condition[pair.hole] == 128).all()
        assert (pair.image == crop).all()
        shares.append(pair.hole.mean())
    assert share - 0.03 <= np.mean(shares) <= share + 0.08
    assert min(shares) > 0.7 * share - 0.01
    assert max(shares) < share + 0.3
    assert len({round(value, 4) for value in shares}) > (20 if kind == "inpaint" else 1)


def test_what_is_cropped_away_is_a_border(crop):
    seen = set()
    for n in range(80):
        hole = made(crop, "uncrop", rng=np.random.default_rng(n), hole=(0.1, 0.5)).hole
        rows, columns = (~hole).any(1).nonzero()[0], (~hole).any(0).nonzero()[0]
        inside = np.zeros_like(hole)
        inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert (inside == ~hole).all()  # what is known is a box
        sides = (rows[0] > 0, rows[-1] < 47, columns[0] > 0, columns[-1] < 63)
        seen.add(tuple(map(bool, sides)))
    one = [tuple(i == k for i in range(4)) for k in range(4)]
    assert seen == {*one, (True, True, False, False), (False, False, True, True), (True,) * 4}


@pytest.mark.parametrize("size", [(8, 8), (8, 40), (1, 1), (2, 3)])
def test_holes_of_small_crops(size):
    crop = np.full((*size, 3), 7, np.uint8)
    for kind in ("inpaint", "uncrop"):
        for n in range(40):
            hole = made(crop, kind, rng=np.random.default_rng(n)).hole
            assert hole.shape == size
            assert hole.any()


def test_inpainting_has_boxes_and_strokes():
    crop, boxes = np.zeros((96, 96, 3), np.uint8), 0
    for n in range(60):
        hole = made(crop, "inpaint", rng=np.random.default_rng(n), hole=(0.05, 0.1)).hole.astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(hole)
        boxes += all(s[cv2.CC_STAT_AREA] == s[2] * s[3] for s in stats[1:count])
    assert 15 < boxes < 45


# ---------------------------------------------------------------- ranges


def test_ranges_are_drawn_from_whole_and_kept_to(crop, monkeypatch):
    seen = {"gaussian": [], "motion": [], "angle": [], "jpeg": []}
    kernel, jpeg = degradations.read_kernel, degradations.compressed

    def read(text):
        kind, _, numbers = text.partition(":")
        numbers = [float(number) for number in numbers.split(",")]
        seen[kind].append(numbers[0])
        seen["angle"] += numbers[1:]
        return kernel(text)

    def compressed(x, quality):
        seen["jpeg"].append(quality)
        return jpeg(x, quality)

    monkeypatch.setattr(degradations, "read_kernel", read)
    monkeypatch.setattr(degradations, "compressed", compressed)
    small = np.ascontiguousarray(crop[:16, :16])
    ranges = {"blur": (0.5, 3.0), "motion": (2.0, 9.0), "jpeg": (30, 60)}
    for n in range(200):
        made(small, "repair", rng=np.random.default_rng(n), **ranges)
    for name, (low, high) in {
        "gaussian": ranges["blur"], "motion": ranges["motion"], "jpeg": ranges["jpeg"], "angle": (0, 180)
    }.items():  # fmt: skip
        values = np.array(seen[name])
        assert len(values) == 200
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high >= values.max() > high - 0.05 * (high - low)
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.07 * (high - low))  # uniform


def test_sigmas_of_noise_are_uniform_over_the_range():
    flat = np.full((32, 32, 3), 128, np.uint8)
    found = [
        made(flat, "denoise", rng=np.random.default_rng(n), noise=(5, 30)).condition.astype(float).std()
        for n in range(200)
    ]
    assert 4.8 < min(found) < 7
    assert 28.5 < max(found) < 31.5
    assert np.mean(found) == pytest.approx(17.5, abs=1.5)


def test_nothing_is_blurred_where_the_draw_is_next_to_none(crop):
    assert (made(crop, "repair", blur=(0, 0.1), motion=(0, 1)).condition == crop).all()


MISTAKES = {
    "kind": ({"kind": "unblur"}, "unknown kind 'unblur': choose one of upscale, colorize"),
    "weight": ({"kind": "jpeg", "weight": 0.0}, "weight of jpeg is 0"),
    "falling": ({"kind": "jpeg", "jpeg": (80.0, 20.0)}, "jpeg is [80.0, 20.0]: give two rising numbers from 1 to 100"),
    "quality 0": ({"kind": "jpeg", "jpeg": (0.0, 20.0)}, "jpeg is [0.0, 20.0]"),
    "negative": ({"kind": "denoise", "noise": (-1.0, 20.0)}, "noise is [-1.0, 20.0]"),
    "too much": ({"kind": "deblur", "blur": (1.0, 99.0)}, "from 0 to 32"),
    "nan": ({"kind": "deblur", "blur": (float("nan"), 2.0)}, "two rising numbers"),
    "hole": ({"kind": "jpeg", "hole": (0.1, 0.2)}, "hole belongs to inpaint and uncrop, not to jpeg"),
    "all": ({"kind": "inpaint", "hole": (0.1, 1.0)}, "from 0 to 0.95"),
    "stages": ({"kind": "inpaint", "noise": (0.0, 2.0)}, "inpaint takes no blur, motion, noise or jpeg"),
    "repair": ({"kind": "repair"}, "repair needs one or more of blur, motion, noise and jpeg"),
    "repair by nothing": ({"kind": "repair", "blur": (0.0, 0.0)}, "repair needs one or more"),
    "nothing": ({"kind": "deblur", "blur": (0.0, 0.0)}, "deblur changes nothing: its ranges end at 0"),
    "no hole": ({"kind": "uncrop", "hole": (0.0, 0.0)}, "uncrop changes nothing"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_a_degradation(name):
    keys, words = MISTAKES[name]
    with pytest.raises(InputError) as caught:
        Degradation(**keys)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "say what to undo: a scale above 1, or [[condition.degradations]]"),
        ({"scale": 0}, "scale is 0: give a whole number from 1 to 16"),
        ({"scale": 17}, "scale is 17"),
        ({"scale": 4, "degradations": [Degradation("colorize")]}, "a scale of 4 and the degradation colorize"),
        ({"degradations": [Degradation("upscale")]}, "a scale of 1 and the degradation upscale"),
        ({"scale": 2, "shrunk": "nearest"}, "shrunk is 'nearest': choose bicubic or average"),
        ({"scale": 2, "residual": -1.0}, "residual is -1"),
        ({"scale": 2, "dropout": 1.0}, "dropout is 1: give a share in [0, 1)"),
        ({"scale": 2, "augment": 256.0}, "augment is 256"),
    ],
)
def test_mistakes_of_a_condition(keys, words):
    with pytest.raises(InputError) as caught:
        Condition(**keys)
    assert words in str(caught.value)


def test_tasks_are_the_commands_that_undo_them():
    kinds = ["inpaint", "jpeg", "uncrop", "colorize", "repair"]
    ranges = {"repair": {"blur": (0.0, 1.0)}}
    told = Condition(degradations=[Degradation(kind, **ranges.get(kind, {})) for kind in kinds])
    assert told.tasks == ["inpaint", "repair", "colorize"]


# ---------------------------------------------------------------- pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six pictures of about 60 x 80, without repetition."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(6):
        pixels = cv2.convertScaleAbs(cv2.GaussianBlur(noise_of(60 + i, 80, i), (0, 0), 1.5), alpha=2, beta=-128)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def noise_of(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pairs(*sources, kinds=("upscale",), scale=1, seed=0, phases=(), quiet=True, condition=None, folders=(), **data):
    sources = [source if isinstance(source, PairedSource) else PairedSource(str(source)) for source in sources]
    kinds = [Degradation(kind) if isinstance(kind, str) else kind for kind in kinds]
    keys = {"crop": 16, "holdout": 0.0, "flip": False, "shrink": (1.0, 1.0)}
    config = ConditionalConfig(
        ConditionalData(sources, **keys | data),
        ConditionalTrain(steps=1, phases=list(phases)),
        condition=Condition(scale, degradations=kinds, **condition or {}),
        seed=seed,
    )
    return Pairs(config, [*folders, ""], quiet)


ALL = ("colorize", "inpaint", "uncrop", "deblur", "denoise", "jpeg")


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("options", [{"kinds": ALL}, {"scale": 4}])
def test_a_pair_is_a_function_of_seed_and_number(folder, options):
    options = {"flip": True, "rotate": True, "shrink": (0.5, 1.0)} | options
    data, again = pairs(folder, **options), pairs(folder, cache_gb=0.0, **options)
    found = [data[n, 16] for n in range(24)]
    assert all(same(again[n, 16], found[n]) for n in reversed(range(24)))
    assert len({pair["image"].numpy().tobytes() for pair in found}) == 24
    assert len({pair["condition"].numpy().tobytes() for pair in found}) == 24
    assert not same(pairs(folder, seed=1, **options)[0, 16], found[0])
    scale = options.get("scale", 1)
    for pair in found:
        assert pair["image"].shape == (16, 16, 3)
        assert pair["condition"].shape == (16 // scale, 16 // scale, 3)
        assert pair["hole"].shape == (16, 16)
        assert pair["image"].dtype == pair["condition"].dtype == torch.uint8


def test_any_count_of_workers_and_any_start_give_the_same_batches(folder):
    def batches(start, count, workers):
        data = pairs(folder, kinds=ALL, flip=True, shrink=(0.5, 1.0))
        return list(islice(Loader(data, start, 4, 16, [0, 1, 2, 3], workers), count))

    whole = batches(0, 4, 0)
    for workers in (1, 2):
        assert all(same(a, b) for a, b in zip(whole, batches(0, 4, workers), strict=True))
    assert all(same(a, b) for a, b in zip(whole[2:], batches(8, 2, 2), strict=True))  # as after a resumption


def test_degradations_are_drawn_by_weight(folder):
    kinds = [Degradation("colorize", weight=3.0), Degradation("uncrop", weight=1.0), Degradation("denoise", weight=4.0)]
    data, count = pairs(folder, kinds=kinds), {"colorize": 0, "uncrop": 0, "denoise": 0}
    for n in range(400):
        pair = data[n, 16]
        gray = (pair["condition"] == pair["condition"][..., :1]).all()
        count["uncrop" if pair["hole"].any() else "colorize" if gray else "denoise"] += 1
    for kind, share in (("colorize", 3 / 8), ("uncrop", 1 / 8), ("denoise", 1 / 2)):
        assert count[kind] / 400 == pytest.approx(share, abs=4 * (share * (1 - share) / 400) ** 0.5)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("shrunk", ["bicubic", "average"])
def test_image_and_condition_are_turned_alike(folder, scale, shrunk):
    """Shrinking the turned picture gives the turned condition. (There is no room for a margin: it is the crop's.)"""
    keys = {"scale": scale, "crop": 60, "condition": {"shrunk": shrunk}, "holdout": ["4.png", "5.png"]}  # the larger
    data, bare = pairs(folder, flip=True, rotate=True, **keys), pairs(folder, **keys)
    turns = set()
    for n in range(40):
        pair, plain = data[n, 60], bare[n, 60]["image"].numpy()
        close(pair["condition"].numpy(), degrade(pair["image"].numpy(), scale=scale, method=shrunk), ties=0.1)
        kinds = {(m, k): np.rot90(plain, k)[:, ::-1] if m else np.rot90(plain, k) for m in (0, 1) for k in range(4)}
        found = [key for key, value in kinds.items() if np.array_equal(value, pair["image"])]
        assert len(found) == 1
        turns.update(found)
    assert len(turns) == 8


def test_holes_are_turned_with_their_picture(folder):
    data = pairs(folder, kinds=("inpaint", "uncrop"), flip=True, rotate=True)
    plain = pairs(folder, kinds=("inpaint", "uncrop"))
    turned = 0
    for n in range(40):
        pair = data[n, 16]
        assert (pair["condition"][~pair["hole"]] == pair["image"][~pair["hole"]]).all()
        assert (pair["condition"][pair["hole"]] == 128).all()
        turned += not np.array_equal(pair["hole"], plain[n, 16]["hole"])
    assert turned > 20


# ---------------------------------------------------------------- margins


def place(picture, image):
    """Where a crop lies in its picture."""
    gap = cv2.matchTemplate(picture, image, cv2.TM_SQDIFF)
    y, x = np.unravel_index(gap.argmin(), gap.shape)
    assert (picture[y : y + len(image), x : x + image.shape[1]] == image).all()
    return y, x


MARGINS = {
    "x2": (2, "bicubic", Degradation("upscale"), {"scale": 2}),
    "x4": (4, "bicubic", Degradation("upscale"), {"scale": 4}),
    "x4 average": (4, "average", Degradation("upscale"), {"scale": 4, "method": "average"}),
    "x2 blurred": (2, "bicubic", Degradation("upscale", blur=(1.3, 1.3)), {"scale": 2, "kernel": "gaussian:1.3"}),
    "blurred": (1, "bicubic", Degradation("deblur", blur=(1.9, 1.9)), {"kernel": "gaussian:1.9"}),
    "gray": (1, "bicubic", Degradation("colorize", blur=(1.0, 1.0)), {"kernel": "gaussian:1", "gray": True}),
}


@pytest.mark.parametrize("name", MARGINS)
def test_a_crop_is_shown_as_a_part_of_the_whole_picture(folder, name):
    """Its borders too: no kernel ends at them."""
    scale, shrunk, how, options = MARGINS[name]
    data, places = pairs(folder, kinds=[how], scale=scale, condition={"shrunk": shrunk}), set()
    for n in range(24):
        pair = data[n, 16]
        picture = decode(data.items[pair["item"]])
        y, x = place(picture, pair["image"].numpy())
        whole = degrade(np.ascontiguousarray(picture[y % scale :, x % scale :]), **options)
        top, left, side = y // scale, x // scale, 16 // scale
        close(pair["condition"].numpy(), np.ascontiguousarray(whole[top : top + side, left : left + side]))
        places.add((y, x))
    assert len(places) > 18


def test_where_there_is_no_room_the_crop_ends_with_the_picture(tmp_path):
    Image.fromarray(smooth(18, 16, 3)).save(tmp_path / "a.png")
    data = pairs(tmp_path, scale=2)
    for n in range(6):
        pair = data[n, 16]
        close(pair["condition"].numpy(), degrade(pair["image"].numpy(), scale=2))


def test_motion_reaches_into_the_margin(folder):
    """At some angle it is a part of the whole, blurred picture; with a crop mirrored at its borders, at none."""
    data = pairs(folder, kinds=[Degradation("deblur", blur=(0.0, 0.0), motion=(15.0, 15.0))])
    gaps = []
    for pair in (data[n, 16] for n in range(4)):
        picture = decode(data.items[pair["item"]])
        y, x = place(picture, pair["image"].numpy())
        wholes = [degrade(picture, kernel=f"motion:15,{angle}") for angle in range(0, 180, 4)]
        parts = np.stack([whole[y : y + 16, x : x + 16] for whole in wholes]).astype(int)
        gaps.append(np.abs(parts - pair["condition"].numpy().astype(int)).mean((1, 2, 3)).min())
    assert max(gaps) < 2.0


def test_jpeg_is_of_the_crop_alone(folder):
    """Its blocks begin at the crop's corner, as those of the pictures that people have, however large the picture."""
    data = pairs(folder, kinds=[Degradation("jpeg", jpeg=(30.0, 30.0))])
    both = pairs(folder, kinds=[Degradation("repair", blur=(0.0, 0.05), jpeg=(30.0, 30.0))])
    for n in range(8):
        for pair in (data[n, 16], both[n, 16]):
            assert np.array_equal(pair["condition"], through_jpeg(pair["image"].numpy(), 30))


# ---------------------------------------------------------------- prepared pairs


def prepare(tmp_path, scale, ending="jpg", good=None):
    """tmp_path/good with 60 x 80 pictures, tmp_path/bad with others, 1 / scale of the size: where each pixel lies."""
    good = good or {f"{i}.png": noise_of(60, 80, i) for i in range(4)}
    for name, pixels in good.items():
        other = tmp_path / "bad" / f"{name.rsplit('.', 1)[0]}.{ending}"
        for path in (tmp_path / "good" / name, other):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "good" / name)
        rows, columns = np.mgrid[: pixels.shape[0] // scale, : pixels.shape[1] // scale]
        where = np.stack([rows, columns, np.zeros_like(rows) + int(pixels.sum()) % 251], 2).astype(np.uint8)
        Image.fromarray(where).save(other, **({"lossless": True} if ending == "webp" else {}))
    return PairedSource(str(tmp_path / "good"), condition=str(tmp_path / "bad"))


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("ending", ["png", "bmp", "webp"])
def test_prepared_pairs_are_cut_alike(tmp_path, scale, ending):
    """The other half tells where it was cut: by its pixels, which are unchanged."""
    source = prepare(tmp_path, scale, ending)
    kinds = ["upscale"] if scale > 1 else ["jpeg"]
    data, places = pairs(source, kinds=kinds, scale=scale), set()
    for n in range(60):
        pair = data[n, 16]
        picture = decode(data.items[pair["item"]])
        y, x, mark = (pair["condition"][0, 0].numpy().astype(int)) * [scale, scale, 1]
        assert (pair["image"].numpy() == picture[y : y + 16, x : x + 16]).all()
        rows, columns = np.mgrid[y // scale : (y + 16) // scale, x // scale : (x + 16) // scale]
        assert (pair["condition"].numpy() == np.stack([rows, columns, rows * 0 + mark], 2)).all()
        assert mark == picture.sum() % 251
        assert not pair["hole"].any()
        places.add((y, x))
    assert len(places) > 30
    assert max(y for y, _ in places) >= 40
    assert max(x for _, x in places) >= 60


@pytest.mark.parametrize("scale", [1, 4])
def test_prepared_pairs_are_turned_alike(tmp_path, scale):
    source, turns = prepare(tmp_path, scale, "png"), set()
    kinds = ["upscale"] if scale > 1 else ["jpeg"]
    data = pairs(source, kinds=kinds, scale=scale, flip=True, rotate=True)
    for n in range(60):
        pair = data[n, 16]
        picture, told = decode(data.items[pair["item"]]), pair["condition"].numpy().astype(int)
        # each condition pixel names its cell: the image there is that cell of the picture, turned
        cells = pair["image"].numpy().reshape(16 // scale, scale, 16 // scale, scale, 3).astype(int).sum((1, 3))
        sums = picture.reshape(60 // scale, scale, 80 // scale, scale, 3).astype(int).sum((1, 3))
        assert (cells == sums[told[..., 0], told[..., 1]]).all()
        corner = told[0, 0, :2]
        turns.add((*np.sign(told[-1, 0, :2] - corner), *np.sign(told[0, -1, :2] - corner)))
    assert len(turns) == 8


def test_pairs_in_subfolders_and_by_their_own_ending_first(tmp_path):
    good = {"a/1.png": noise_of(20, 20, 1), "b/1.png": noise_of(20, 20, 2), "1.x.png": noise_of(20, 20, 3)}
    source = prepare(tmp_path, 1, "bmp", good)
    data = pairs(source, kinds=["jpeg"])
    assert {(data.items[p["item"]].name, p["condition"][0, 0, 2].item()) for p in (data[n, 16] for n in range(40))} == {
        (name, int(pixels.sum()) % 251) for name, pixels in good.items()
    }
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "bad" / "a" / "1.png")
    data = pairs(source, kinds=["jpeg"])  # of two with this stem, the one that has the whole name
    marks = {data.items[p["item"]].name: p["condition"][..., 2].max().item() for p in (data[n, 16] for n in range(40))}
    assert marks["a/1.png"] == 0
    (tmp_path / "bad" / "a" / "1.png").rename(tmp_path / "bad" / "a" / "1.gif")
    with pytest.raises(InputError, match=r"bad holds two pictures named a/1\.\*"):
        pairs(source, kinds=["jpeg"])


def test_a_missing_half_is_named(tmp_path):
    source = prepare(tmp_path, 1, "png")
    (tmp_path / "bad" / "2.png").unlink()
    with pytest.raises(InputError, match=r"bad holds no picture named 2\.\*"):
        pairs(source, kinds=["jpeg"])
    with pytest.raises(InputError, match="there is no"):
        pairs(PairedSource(source.path, condition=str(tmp_path / "worse")), kinds=["jpeg"])


def test_halves_that_do_not_fit_or_are_damaged_are_skipped_named_and_counted(tmp_path, capsys):
    source = prepare(tmp_path, 4, "png")
    Image.new("RGB", (21, 15)).save(tmp_path / "bad" / "1.png")
    (tmp_path / "bad" / "3.png").write_bytes(b"no picture")
    data = pairs(source, scale=4, quiet=False)
    assert {data.items[data[n, 16]["item"]].name for n in range(40)} == {"0.png", "2.png"}
    assert data.names(data.bad) == ["1.png", "3.png"]
    told = capsys.readouterr().err
    assert "skipped 1.png: the pair has sizes 21 x 15 and 80 x 60, not 1 : 4\n" in told
    assert f"skipped {tmp_path / 'bad' / '3.png'}: " in told  # which of the two it is
    assert told.count("skipped") == 2


def test_pairs_of_tars_are_those_of_folders(tmp_path):
    source = prepare(tmp_path, 2, "png")
    for name in ("good", "bad"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            tar.add(tmp_path / name, arcname=".")
    folders, tars = (
        pairs(source, scale=2),
        pairs(PairedSource("good.tar", condition="bad.tar"), scale=2, folders=[tmp_path]),
    )
    assert all(same(folders[n, 16], tars[n, 16]) for n in range(12))


def test_orientation_of_one_half_is_applied(tmp_path):
    source = prepare(tmp_path, 1, "png", {"0.png": noise_of(40, 60, 0)})
    plain = pairs(source, kinds=["jpeg"])
    upright = Image.open(tmp_path / "bad" / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "bad" / "0.png", exif=exif)
    assert Image.open(tmp_path / "bad" / "0.png").size == (40, 60)
    turned = pairs(source, kinds=["jpeg"])
    assert all(same(plain[n, 16], turned[n, 16]) for n in range(12))


@pytest.mark.parametrize("scale", [1, 4])
def test_held_out_pairs(tmp_path, scale):
    source = prepare(tmp_path, scale, "png")
    kinds = ["upscale"] if scale > 1 else ["jpeg"]
    data = pairs(source, kinds=kinds, scale=scale, holdout=["1.png", "3.png"])
    assert [item.name for item in data.items] == ["0.png", "2.png"]
    found = list(data.held_pairs(8, 40, 8))
    assert [name for name, _ in found] == ["1.png", "3.png"]
    for name, pair in found:
        y, x = (pair.condition[0, 0, :2].astype(int)) * scale
        picture = np.asarray(Image.open(tmp_path / "good" / name))
        assert pair.image.shape == (40, 40, 3)
        assert (pair.image == picture[y : y + 40, x : x + 40]).all()
        assert abs(y - 10) < scale
        assert abs(x - 20) < scale
        assert pair.condition.shape == (40 // scale, 40 // scale, 3)
    shared = pairs(source, kinds=kinds, scale=scale, holdout=0.6)
    assert 0 < len(shared.held) < 4
    assert len(list(shared.held_pairs(8, 40, 8))) == len(shared.held)


def test_a_folder_to_hold_out_has_no_other_halves(tmp_path):
    source = prepare(tmp_path, 1, "png")
    with pytest.raises(InputError, match="holdout: a folder of pictures has no other halves"):
        pairs(source, kinds=["jpeg"], holdout=str(tmp_path / "good"))


def test_mistakes_of_prepared_pairs(tmp_path):
    source = prepare(tmp_path, 1, "png")
    with pytest.raises(InputError, match=r"set shrink = \[1.0, 1.0\]"):
        pairs(source, kinds=["jpeg"], shrink=(0.5, 1.0))
    with pytest.raises(InputError, match="one kind of degradation"):
        pairs(source, kinds=["jpeg", "denoise"])


def test_prepared_pairs_beside_pictures(tmp_path, folder):
    """A source without other halves is degraded."""
    source = prepare(tmp_path, 1, "png")
    data, seen = pairs(source, folder, kinds=["colorize"]), {True: 0, False: 0}
    for n in range(40):
        pair = data[n, 16]
        gray = bool((pair["condition"] == pair["condition"][..., :1]).all())
        assert gray == (str(folder) in data.items[pair["item"]].file)
        seen[gray] += 1
    assert min(seen.values()) > 8


# ---------------------------------------------------------------- what is held out


def test_held_out_pictures_are_degraded_by_turns_and_always_alike(folder):
    data = pairs(folder, kinds=("colorize", "uncrop", "jpeg"), holdout=0.9)
    first, again = list(data.held_pairs(4, 32, 8)), list(data.held_pairs(4, 32, 8))
    assert len(first) == 4
    for i, ((name, pair), (other, same_pair)) in enumerate(zip(first, again, strict=True)):
        assert name == other == data.held[i].name
        assert all(np.array_equal(a, b) for a, b in zip(pair, same_pair, strict=True))
        picture = decode(data.held[i])
        top, left = ((length - 32) // 2 for length in picture.shape[:2])
        assert (pair.image == picture[top : top + 32, left : left + 32]).all()
        assert pair.hole.any() == (i == 1)
        assert (pair.condition == pair.condition[..., :1]).all() == (i in (0, 3))


def test_held_out_pictures_of_odd_sizes_are_cut_to_the_multiple(folder):
    for _, pair in pairs(folder, scale=3, holdout=0.9).held_pairs(4, 50, 4):
        assert pair.image.shape == (48, 48, 3)
        assert pair.condition.shape == (16, 16, 3)
    for _, pair in pairs(folder, scale=2, holdout=0.9).held_pairs(4, 500, 8):
        assert pair.image.shape[1:] == (80, 3)
        assert pair.image.shape[0] in (56, 64)


def test_held_out_pictures_that_cannot_be_used_are_told_of_once(tmp_path, folder, capsys):
    for path in folder.iterdir():
        Image.open(path).save(tmp_path / path.name)
    Image.new("RGB", (15, 40)).save(tmp_path / "small.png")
    (tmp_path / "torn.png").write_bytes(b"no picture")
    data = pairs(tmp_path, scale=2, quiet=False, holdout=["small.png", "torn.png", "0.png"])
    for _ in range(3):
        assert [name for name, _ in data.held_pairs(8, 32, 8)] == ["0.png"]
    told = capsys.readouterr().err
    assert told.count("skipped small.png: 15 x 40 is smaller than the crop of 16") == 1
    assert told.count("torn.png") == 1


# ---------------------------------------------------------------- pictures that cannot be used


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", [4.0, 0.0])
def test_small_and_damaged_pictures_are_skipped_named_and_counted(tmp_path, folder, capfd, workers, cache):
    for path in folder.iterdir():
        Image.open(path).save(tmp_path / path.name)
    Image.new("RGB", (15, 40)).save(tmp_path / "small.png")
    whole = (folder / "0.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    data = pairs(tmp_path, scale=2, quiet=False, cache_gb=cache)
    for batch in islice(Loader(data, 0, 8, 16, list(range(8)), workers), 12):
        assert not {"small.png", "torn.png"} & set(data.names(batch["item"].tolist()))
    assert data.names(data.bad) == ["small.png", "torn.png"]
    told = capfd.readouterr().err
    assert 1 <= told.count("skipped small.png: 15 x 40 is smaller than the crop of 16") <= max(1, workers)
    assert 1 <= told.count("torn.png") <= max(1, workers)


def test_the_largest_crop_of_all_phases_counts(folder, tmp_path):
    from restore.train.config import Phase

    for i, side in enumerate((16, 31, 32)):
        Image.fromarray(noise_of(side, 40, i)).save(tmp_path / f"{i}.png")
    phases = [Phase(0.5, crop=32)]
    data = pairs(tmp_path, scale=2, phases=phases)
    assert {data[n, 16]["item"] for n in range(20)} == {2}
    assert data.names(data.bad) == ["0.png", "1.png"]
    assert phase(ConditionalTrain(steps=10, phases=phases), 16, 0.6)[0] == 32


@pytest.mark.parametrize("workers", [0, 2])
def test_none_that_can_be_used(tmp_path, workers):
    for i in range(3):
        Image.new("RGB", (15, 40)).save(tmp_path / f"{i}.png")
    (tmp_path / "torn.png").write_bytes(b"")
    data = pairs(tmp_path, scale=2)
    with pytest.raises(InputError) as caught:
        next(iter(Loader(data, 0, 2, 16, [0, 1], workers)))
    assert str(caught.value) == f"no usable picture in {tmp_path}: all are damaged or too small"


def test_an_empty_folder(tmp_path, folder):
    with pytest.raises(InputError, match="no usable picture in"):
        pairs(tmp_path, scale=2)
    with pytest.raises(InputError, match=r"holds no picture named 0\.\*"):
        pairs(PairedSource(str(folder), condition=str(tmp_path)), kinds=["jpeg"])


def test_other_kinds_of_pictures(tmp_path, folder):
    """Gray, with transparency, with 16 bits, with a palette: all are RGB of 8 bits."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (30, 30), dtype=np.uint8)).save(tmp_path / "gray.png")
    Image.fromarray(rng.integers(0, 256, (30, 30, 4), dtype=np.uint8)).save(tmp_path / "alpha.png")
    Image.open(folder / "0.png").quantize(16).save(tmp_path / "palette.png")
    data = pairs(tmp_path, scale=2)
    for n in range(12):
        pair = data[n, 16]
        assert pair["condition"].shape == (8, 8, 3)
    assert not data.bad
