"""restore.inpaint: kinds in and out, what may change and what may not, seeds, memory, errors."""

import inspect
import io
import json
import warnings

import numpy as np
import pytest
import torch
from conftest import closed_form, save_tiny
from PIL import Image

import restore
from restore import images, jobs, tasks
from restore.errors import DivergedError, InputError, OutOfMemory, PriorError, RestoreError
from restore.levels import cosine, linear
from restore.load import load_prior
from restore.prior import Prior
from restore.unet import UNet

METHODS = list(tasks.INPAINT_METHODS)
ODD = (37, 53)


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    return load_prior(tiny_folder, device="cpu", dtype="float32")


def inpaint_result(image, mask, *, prior, progress=None, **options):
    return tasks.Inpaint(**options).run(images.read(image), mask, prior, progress)


class Spy:
    """A closed-form network that remembers the shapes it was asked for."""

    def __init__(self):
        self.shapes = []

    def __call__(self, x, t, **given):
        self.shapes.append(tuple(x.shape))
        return closed_form(x, t)


@pytest.fixture
def spy():
    return Spy()


@pytest.fixture
def spied(spy):
    return Prior(spy, predicts="eps", schedule=linear(1000), clip=True, multiple=8)


def colours(shape=ODD, seed=0, batch=1):
    """(B,3,H,W) in [0.2, 0.8]"""
    return torch.rand(batch, 3, *shape, generator=torch.Generator().manual_seed(seed)) * 0.6 + 0.2


def hole(shape=ODD, top=10, bottom=25, left=12, right=30):
    mask = torch.zeros(shape)
    mask[top:bottom, left:right] = 1
    return mask


def restored(image, mask=None, prior=None, steps=2, **options):
    return restore.inpaint(image, mask, prior=prior, steps=steps, **options)


# ---------------------------------------------------------------- kinds

CHANNELS = {"gray": (), "RGB": (3,), "RGBA": (4,)}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("method", METHODS)
def test_arrays_keep_every_pixel_outside_the_mask(dtype, channels, method, tiny):
    values = np.random.default_rng(0).random((*ODD, *CHANNELS[channels]))
    image = (values * np.iinfo(dtype).max).astype(dtype) if np.issubdtype(dtype, np.integer) else values.astype(dtype)
    before, mask = image.copy(), hole().numpy()
    out = restored(image, mask, tiny, method=method)
    assert (out.dtype, out.shape) == (image.dtype, image.shape)
    assert (out[mask == 0] == image[mask == 0]).all()
    assert (image == before).all()
    assert (out[mask > 0] != image[mask > 0]).mean() > 0.5
    if channels == "RGBA":
        assert (out[..., 3] == image[..., 3]).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, *ODD), (1, *ODD), (2, 3, *ODD), (2, 1, *ODD)])
def test_tensors(dtype, shape, tiny):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    image = (image * 255).to(dtype) if dtype == torch.uint8 else image.to(dtype)
    out = restored(image, hole(), tiny)
    assert (out.dtype, out.shape, out.device) == (image.dtype, image.shape, image.device)
    outside = hole() == 0
    assert (out[..., outside] == image[..., outside]).all()
    assert (out[..., ~outside] != image[..., ~outside]).any()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pil_images_and_bytes(mode, tiny):
    values = np.random.default_rng(0).integers(0, 256, (*ODD, len(mode)), dtype=np.uint8)
    image = Image.fromarray(values.squeeze(-1) if len(mode) == 1 else values, mode)
    out = restored(image, Image.fromarray(hole().numpy().astype(np.uint8) * 255), tiny)
    assert isinstance(out, Image.Image)
    assert (out.mode, out.size) == (image.mode, image.size)
    outside = hole().numpy() == 0
    assert (np.asarray(out)[outside] == np.asarray(image)[outside]).all()
    file = io.BytesIO()
    image.save(file, "PNG")
    data = restored(file.getvalue(), hole().numpy(), tiny)
    assert data.startswith(b"\x89PNG")
    assert (np.asarray(Image.open(io.BytesIO(data))) == np.asarray(out)).all()


def test_paths_and_pictures(tmp_path, tiny):
    Image.fromarray((colours()[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(tmp_path / "photo.png")
    Image.fromarray((hole().numpy() * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    out = restored(str(tmp_path / "photo.png"), tmp_path / "mask.png", tiny)
    assert isinstance(out, Image.Image)
    picture = images.read(tmp_path / "photo.png")
    again = restored(picture, tmp_path / "mask.png", tiny)
    assert isinstance(again, images.Picture)
    assert (np.asarray(out) == np.round(again.rgb[0].permute(1, 2, 0).numpy() * 255)).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.png", "photo.png"]


def test_transparency_is_the_mask_and_becomes_opaque(tiny):
    values = np.random.default_rng(0).integers(0, 256, (*ODD, 4), dtype=np.uint8)
    values[..., 3] = 255
    values[:5, :5, 3] = 200
    values[10:20, 15:30, 3] = 0
    out = restored(values, None, tiny)
    inside = np.zeros(ODD, bool)
    inside[10:20, 15:30] = True
    assert (out[~inside] == values[~inside]).all()
    assert (out[inside][:, 3] == 255).all()
    assert (out[inside] != values[inside]).any()
    with pytest.raises(InputError, match="transparency"):
        restored(values[..., :3], None, tiny)


def test_one_mask_each_in_a_batch(tiny):
    batch = colours(batch=2)
    masks = torch.stack([hole(), hole(top=0, bottom=8, left=40, right=53)])[:, None]
    out = restored(batch, masks, tiny)
    changed = (out != batch).any(1, keepdim=True)
    assert not (changed & (masks == 0)).any()
    assert changed[0].any()
    assert changed[1].any()


# ---------------------------------------------------------------- what decides the answer


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["inside", "border", "corner", "thin", "all"])
def test_what_lay_under_the_mask_does_not_matter(method, where, tiny):
    """The old scratch must not shine through: rubbish under the mask, bit-identical answers."""
    box = {"inside": (10, 25, 12, 30), "border": (20, 37, 10, 30), "corner": (0, 9, 0, 9), "thin": (18, 19, 2, 50)}
    mask = torch.ones(ODD) if where == "all" else hole(ODD, *box[where])
    image = colours()
    answers = []
    for rubbish in (torch.zeros_like(image), torch.ones_like(image), colours(seed=9)):
        answers.append(restored(torch.where(mask > 0, rubbish, image), mask, tiny, method=method))
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_what_lay_under_transparency_does_not_matter(tiny):
    values = (torch.cat([colours(), torch.ones(1, 1, *ODD)], 1)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    values[10:20, 15:30, 3] = 0
    other = values.copy()
    other[10:20, 15:30, :3] = 17
    assert (restored(values, None, tiny) == restored(other, None, tiny)).all()


@pytest.mark.parametrize("method", ["ddrm", "repaint"])
def test_seeds(method, tiny):
    def made(seed):
        return restored(colours(), hole(), tiny, method=method, seed=seed)

    assert torch.equal(made(0), made(0))
    assert not torch.equal(made(0), made(1))
    assert torch.equal(restored(colours(), hole(), tiny, method=method), made(0))
    answers = restored(colours(), hole(), tiny, method=method, seed=4, samples=3)
    assert [torch.equal(answer, made(4 + k)) for k, answer in enumerate(answers)] == [True] * 3
    assert torch.equal(made(np.int64(1)), made(1))


def test_global_randomness_is_neither_used_nor_touched(tiny):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = restored(colours(), hole(), tiny, method="repaint")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert torch.equal(restored(colours(), hole(), tiny, method="repaint"), first)


def test_steps_method_and_strength_change_the_answer(tiny):
    def made(**options):
        return restored(colours(), hole(), tiny, **options)

    for options in ({"steps": 5}, {"strength": 0.2}, {"strength": 1.0}, {"strength": 1}, {"noise_std": 0.1}):
        assert not torch.equal(made(method="ddrm", **options), made(method="ddrm")), options
    assert not torch.equal(made(method="repaint", eta=0.5), made(method="repaint"))
    assert len({made(method=method).numpy().tobytes() for method in METHODS}) == len(METHODS)


def test_full_strength_starts_from_noise_alone(spied, monkeypatch):
    """strength 1 forgets the rough fill: with another fill the answer is the same."""
    first = restored(colours(), hole(), spied, method="ddrm", strength=1)
    monkeypatch.setattr(tasks, "rough_fill", lambda rgb, mask: rgb * 0)
    assert torch.equal(restored(colours(), hole(), spied, method="ddrm", strength=1), first)
    assert not torch.equal(
        restored(colours(), hole(), spied, method="ddrm", strength=0.3),
        restored(colours(), hole(), spied, method="ddrm", strength=1),
    )


def test_feather_fades_inwards(spied):
    image, mask = colours(), hole()
    hard = restored(image, mask, spied)
    soft = restored(image, mask, spied, feather=4)
    assert torch.equal(soft[..., mask == 0], image[..., mask == 0])
    gap = (soft - image).abs() - (hard - image).abs()
    assert (gap <= 1e-6).all()
    assert torch.equal(soft[..., 16:19, 18:24], hard[..., 16:19, 18:24])
    assert not torch.equal(soft[..., 10, 12:30], hard[..., 10, 12:30])


@pytest.mark.parametrize("method", METHODS)
def test_the_answer_is_what_the_prior_likes(method, gaussian_prior):
    """The closed-form prior is N(0.2, 0.5^2) by pixel in model space, 0.6 in [0, 1]: holes go there."""
    image = torch.full((1, 3, 64, 64), 0.1)
    out = restored(image, hole((64, 64), 10, 54, 10, 54), gaussian_prior, steps=40, method=method, strength=1)
    assert abs(float(out[..., 10:54, 10:54].mean()) - 0.6) < 0.05


def test_steps_of_a_flow_prior_start_at_any_strength():
    prior = Prior(lambda x, t: -x, predicts="flow", schedule=restore.Flow())
    for strength in (None, 0.5, 1):
        out = restored(colours(), hole(), prior, method="ddrm", strength=strength)
        assert out.isfinite().all()


# ---------------------------------------------------------------- sizes and regions


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 300), (300, 5), (2, 2), (37, 53), (8, 8)])
@pytest.mark.parametrize("method", METHODS)
def test_tiny_pictures(size, method, tiny):
    image = colours(size)
    out = restored(image, torch.ones(size), tiny, method=method)
    assert out.shape == image.shape
    mask = torch.ones(size)
    mask[0, 0] = 0
    out = restored(image, mask, tiny, method=method)
    assert torch.equal(out[..., 0, 0], image[..., 0, 0])


def test_sides_are_padded_to_what_the_network_takes(spy, spied):
    for size in ((37, 53), (5, 300), (1, 1)):
        spy.shapes.clear()
        restored(colours(size), torch.ones(size), spied)
        assert all(h % 8 == 0 and w % 8 == 0 for _, _, h, w in spy.shapes)


@pytest.mark.parametrize("method", METHODS)
def test_far_holes_are_worked_on_in_boxes_of_their_own(method, spy, spied):
    size = (400, 700)
    mask = torch.zeros(size)
    for y, x in ((0, 0), (390, 690), (200, 350)):
        mask[y : y + 10, x : x + 10] = 1
    image, told = colours(size), []
    result = inpaint_result(image, mask, prior=spied, steps=3, method=method, progress=told.append)
    assert len({shape[2:] for shape in spy.shapes}) > 1
    assert all(h <= 10 + 2 * tasks.MARGIN + 8 and w <= 10 + 2 * tasks.MARGIN + 8 for _, _, h, w in spy.shapes)
    assert result.info.calls == len(spy.shapes) == told[-1].total == told[-1].done
    changed = (result.images[0] != image).any(1)[0]
    assert not (changed & (mask == 0)).any()
    assert all(changed[y : y + 10, x : x + 10].any() for y, x in ((0, 0), (390, 690), (200, 350)))


def test_holes_near_each_other_share_a_box(spy, spied):
    mask = torch.zeros(200, 200)
    mask[80:90, 80:90] = mask[80:90, 100:110] = 1
    restored(colours((200, 200)), mask, spied, method="ddrm", steps=3)
    assert len(spy.shapes) == 3


def test_a_large_picture_is_never_shown_whole(spy, spied):
    image, mask = torch.rand(1, 3, 2048, 2048), torch.zeros(2048, 2048)
    mask[1000:1020, 700:730] = 1
    restored(image, mask, spied)
    assert max(max(shape[2:]) for shape in spy.shapes) <= 30 + 2 * tasks.MARGIN + 8


def test_a_large_hole_is_worked_on_in_tiles(spy, spied):
    restored(torch.rand(1, 3, 64, 1400), torch.ones(64, 1400), spied, steps=1)
    assert max(max(shape[2:]) for shape in spy.shapes) <= jobs.TILES[0]
    spy.shapes.clear()
    restored(torch.rand(1, 3, 64, 1400), torch.ones(64, 1400), spied, steps=1, tile=None)
    assert {shape[2:] for shape in spy.shapes} == {(64, 1400)}
    spy.shapes.clear()
    restored(torch.rand(1, 3, 64, 600), torch.ones(64, 600), spied, steps=1, tile=128)
    assert max(max(shape[2:]) for shape in spy.shapes) == 128


def test_empty_mask_gives_a_copy(tiny):
    image = np.random.default_rng(0).integers(0, 256, (*ODD, 3), dtype=np.uint8)
    told = []
    result = inpaint_result(image, np.zeros(ODD), prior=tiny, samples=2, progress=told.append, method="ddrm")
    assert all((answer == image).all() for answer in result.images)
    assert not np.shares_memory(result.images[0], image)
    assert not np.shares_memory(*result.images)
    assert (result.info.calls, told) == (0, [])
    assert "empty" in result.info.note


# ---------------------------------------------------------------- progress and report


@pytest.mark.parametrize(
    "options",
    [
        {"method": "ddrm"},
        {"method": "ddrm", "samples": 3},
        {"method": "repaint", "jump": 2, "resamplings": 3, "steps": 7},
        {"method": "repaint", "samples": 2},
        {"method": "repaint", "steps": 1},
        {"strength": 0.01},
        {"steps": 1},
    ],
)
def test_progress_reaches_its_total(options, spied, spy):
    told = []
    result = inpaint_result(colours(), hole(), prior=spied, progress=told.append, **{"steps": 4, **options})
    assert [p.done for p in told] == list(range(1, len(told) + 1))
    assert {p.total for p in told} == {len(told)} == {result.info.calls} == {len(spy.shapes)}
    for p in told:
        assert p.preview.shape[:2] == (1, 3)
        assert 0 <= p.preview.min() <= p.preview.max() <= 1


def test_preview_is_an_image_and_not_model_space(gaussian_prior):
    """The estimate of a flat picture at the prior's mean is 0.6 in [0, 1], 0.2 in model space."""
    told = []
    restored(torch.full((1, 3, 16, 16), 0.6), hole((16, 16), 4, 8, 4, 8), gaussian_prior, progress=told.append)
    assert abs(float(told[-1].preview.mean()) - 0.6) < 0.02


def test_progress_may_stop_the_work(spied):
    class EnoughError(Exception):
        pass

    def stop(progress):
        raise EnoughError

    with pytest.raises(EnoughError):
        restored(colours(), hole(), spied, progress=stop)


def test_report(tiny):
    info = inpaint_result(colours(), hole(), prior=tiny, method="repaint", steps=3, seed=5, samples=2).info
    facts = json.loads(json.dumps(info.as_dict()))
    wanted = {"method": "repaint", "steps": 3, "seed": 5, "samples": 2, "device": "cpu", "dtype": "float32"}
    assert wanted.items() <= facts.items()
    assert facts["prior"].endswith("tiny")
    assert facts["calls"] > 0


# ---------------------------------------------------------------- memory


def failing(limit, error, asked):
    def net(x, t):
        asked.append(tuple(x.shape[2:]))
        if x.shape[-1] * x.shape[-2] > limit**2:
            raise error
        return closed_form(x, t)

    return Prior(net, schedule=linear(1000), clip=True, multiple=8)


ERRORS = {
    "torch": torch.OutOfMemoryError("CUDA out of memory"),
    "torch on the CPU": RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    "torch on Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    "python": MemoryError(),
}


@pytest.mark.parametrize(
    ("error", "method"), [*((error, "ddrm") for error in ERRORS), *(("torch", m) for m in METHODS[::2])]
)
def test_smaller_tiles_when_memory_runs_out(error, method, spied):
    asked = []
    image, mask = colours((300, 400)), hole((300, 400), 40, 260, 40, 360)
    prior = failing(260, ERRORS[error], asked)
    told = []
    with pytest.warns(UserWarning, match="tiles of 256 pixels"):
        result = inpaint_result(image, mask, prior=prior, method=method, steps=3, progress=told.append)
    assert result.info.calls == told[-1].done == told[-1].total
    assert max(asked[1:]) <= (256, 256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = restored(image, mask, spied, steps=3, method=method, tile=256)
    assert torch.equal(result.images[0], same)
    assert torch.equal(same[..., mask == 0], image[..., mask == 0])


def test_tiles_of_a_local_network_change_nothing_but_rounding(spied):
    image, mask = colours((300, 400)), hole((300, 400), 40, 260, 40, 360)
    whole = restored(image, mask, spied, method="ddrm", steps=3)
    torch.testing.assert_close(restored(image, mask, spied, method="ddrm", steps=3, tile=128), whole)


def test_out_of_memory_at_the_smallest_tile(spied):
    asked = []
    with pytest.warns(UserWarning, match="out of memory"), pytest.raises(OutOfMemory, match="128 pixels"):
        restored(colours((300, 400)), torch.ones(300, 400), failing(100, ERRORS["torch"], asked))
    assert [max(shape) for shape in asked] == [400, 256, 128]
    asked.clear()
    with pytest.raises(OutOfMemory):
        restored(colours(), torch.ones(ODD), failing(10, ERRORS["torch"], asked))
    assert len(asked) == 1
    with pytest.raises(OutOfMemory):
        restored(colours((300, 400)), torch.ones(300, 400), failing(100, ERRORS["torch"], asked), tile="none")


def test_other_errors_are_not_taken_for_memory():
    def net(x, t):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="do not fit"):
        restored(colours(), hole(), Prior(net, schedule=linear(1000)))


# ---------------------------------------------------------------- priors of every kind


def test_prior_with_classes(tmp_path):
    plain = save_tiny(tmp_path / "plain", num_class_embeds=3)
    plain = load_prior(plain, device="cpu", dtype="float32")
    with pytest.raises(InputError, match="classes"):
        restored(colours(), hole(), plain)
    first, second = (restored(colours(), hole(), plain.labelled(k)) for k in (0, 1))
    assert not torch.equal(first, second)
    folder = save_tiny(tmp_path / "named", num_class_embeds=3)
    (folder / "labels.json").write_text('["cat", "dog"]')
    named = load_prior(folder, device="cpu", dtype="float32")
    assert named.labels == ["cat", "dog"]
    free = restored(colours(), hole(), named)  # the third class is 'no label'
    assert torch.equal(free, restored(colours(), hole(), named.labelled(2)))
    assert not torch.equal(free, restored(colours(), hole(), named.labelled(0)))


def test_prior_of_other_channels():
    prior = Prior(lambda x, t: x, schedule=cosine(), channels=4, name="latent")
    with pytest.raises(InputError, match=r"latent.*4 channels"):
        restored(colours(), hole(), prior)


def test_prior_as_a_network_of_diffusers():
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=16, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    prior = load_prior(net, schedule=linear(1000), dtype="float32", device="cpu")
    prior.multiple = 2
    image = colours()
    out = restored(image, hole(), prior)
    assert torch.equal(out[..., hole() == 0], image[..., hole() == 0])


def test_tiles_have_to_suit_the_prior(spied):
    spied.multiple = 32
    with pytest.raises(InputError, match="multiple of 32"):
        restored(colours(), hole(), spied, tile=136)


def test_reduced_precision_keeps_the_rest(tiny_folder):
    prior = load_prior(tiny_folder, device="cpu", dtype="bfloat16")
    image = colours()
    out = restored(image, hole(), prior)
    assert out.dtype == torch.float32
    assert torch.equal(out[..., hole() == 0], image[..., hole() == 0])


# ---------------------------------------------------------------- errors

REFUSED = [
    {"method": "magic"},
    {"steps": 0},
    {"steps": 2.5},
    {"steps": True},
    {"samples": 0},
    {"samples": None},
    {"seed": -1},
    {"seed": 0.5},
    {"seed": None},
    {"feather": -1},
    {"feather": 1.5},
    {"strength": 0},
    {"strength": 1.0001},
    {"strength": float("nan")},
    {"method": "ddrm", "eta": -0.1},
    {"method": "ddrm", "eta": 1.1},
    {"method": "ddrm", "eta": float("nan")},
    {"method": "ddrm", "jump": 2},
    {"method": "ddrm", "resamplings": 2},
    {"method": "repaint", "jump": 0},
    {"method": "repaint", "resamplings": 0},
    {"method": "repaint", "steps": 5, "jump": 5},
    {"method": "repaint", "steps": 1, "resamplings": 2},
    {"method": "repaint", "noise_std": 0.1},
    {"method": "ddrm", "noise_std": -0.1},
    {"method": "ddrm", "noise_std": 1.0},
    {"tile": "big"},
    {"tile": 8},
    {"tile": 130},
    {"tile": -128},
    {"tile": "²"},
    {"device": "toaster"},
    {"dtype": "int8"},
    {"device": "cpu", "dtype": "float16"},
]


@pytest.mark.parametrize("options", REFUSED, ids=str)
def test_bad_options_are_refused_before_any_work(options, tiny_folder, monkeypatch):
    def stop(self, x, level):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(Prior, "__call__", stop)
    with pytest.raises(InputError) as error:
        restore.inpaint(colours(), hole(), prior=tiny_folder, **options)
    assert "\n" not in str(error.value)
    if options.get("method") != "magic" and not {"device", "dtype"} & set(options):
        with pytest.raises(InputError):
            tasks.Inpaint(**options)


def test_options_of_a_ready_prior_are_refused_rather_than_ignored(tiny):
    for options in ({"device": "cpu"}, {"dtype": "bfloat16"}):
        with pytest.raises(InputError, match="load_prior"):
            restored(colours(), hole(), tiny, **options)


def test_unknown_options_are_named(tiny):
    with pytest.raises(TypeError, match="stepps"):
        restore.inpaint(colours(), hole(), prior=tiny, stepps=3)


def test_masks_that_do_not_fit(tiny):
    with pytest.raises(InputError, match="100 x 20"):
        restored(colours(), torch.ones(20, 100), tiny)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_named_with_its_step(method, bad):
    count = []

    def net(x, t):
        count.append(t)
        return closed_form(x, t) * (bad if len(count) == 2 else 1)

    options = {"resamplings": 1} if method == "repaint" else {}
    with pytest.raises(DivergedError, match="step 2"):
        restored(colours(), hole(), Prior(net, schedule=linear(1000)), steps=5, method=method, **options)
    assert len(count) == 2


def test_errors_are_what_python_programs_expect():
    for kind, base, code in (
        (InputError, ValueError, 2),
        (DivergedError, FloatingPointError, 1),
        (PriorError, RestoreError, 4),
        (OutOfMemory, RestoreError, 5),
    ):
        assert issubclass(kind, base)
        assert issubclass(kind, RestoreError)
        assert kind.exit_code == code
    with pytest.raises(ValueError, match="magic"):
        restore.inpaint(colours(), hole(), method="magic")
    with pytest.raises(PriorError, match="nowhere"):
        restore.inpaint(colours(), hole(), prior="nowhere")


def test_untrained_unet_as_module():
    torch.manual_seed(0)
    prior = Prior(UNet(channels=(8, 16), layers=1), schedule=cosine(), clip=True, multiple=2)
    assert restored(colours(), hole(), prior).isfinite().all()


def test_signature_shows_every_option():
    """help() and completion in a notebook name the options."""
    names = inspect.signature(restore.inpaint).parameters
    assert {"image", "mask", "prior", "method", "steps", "seed", "samples", "noise_std", "progress"} <= set(names)
