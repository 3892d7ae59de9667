"""restore.inpaint: kinds in and out, what may change and what may not, seeds, progress."""

import inspect
import io
import json

import numpy as np
import pytest
import torch
from inpainting import METHODS, ODD, colours, hole, inpaint_result, restored
from PIL import Image

import restore
from restore import images
from restore.errors import InputError
from restore.prior import Prior
from restore.tasks import inpainting as inpainting_task

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
    monkeypatch.setattr(inpainting_task, "rough_fill", lambda rgb, mask: rgb * 0)
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


# ---------------------------------------------------------------- the signature


def test_signature_shows_every_option():
    """help() and completion in a notebook name the options."""
    names = inspect.signature(restore.inpaint).parameters
    assert {"image", "mask", "prior", "method", "steps", "seed", "samples", "noise_std", "progress"} <= set(names)
