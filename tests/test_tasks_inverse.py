"""upscale, deblur and colorize against their closed forms."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from pictures import png16
from PIL import Image
from tasking import SIZE, chained, colours, drawn, made, smooth, values, white

from restore import images, tasks
from restore.algorithms import dpir
from restore.errors import InputError
from restore.kernels import gaussian, read_kernel
from restore.noise import estimate_noise
from restore.operators import blur, downscale
from restore.picture import luma
from restore.steps import last
from restore.tasks.common import walk

# ---------------------------------------------------------------- upscale


@pytest.mark.parametrize("shrunk", ["bicubic", "average"])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("method", ["dpir", "ddrm"])
@pytest.mark.parametrize("strength", [None, 1])
def test_shrinking_an_enlargement_gives_the_picture_back(shrunk, scale, method, strength):
    image, options = colours() / 4 + 0.4, {"scale": scale, "shrunk": shrunk, "strength": strength, "method": method}
    out = made("upscale", image, white(0.0, 0.1), **options)
    assert 0 < out.min() < out.max() < 1  # nothing was cut off
    small = downscale(scale, tuple(out.shape[-2:]), method=shrunk).A(out)
    assert (small - image).abs().max() < 2e-6
    assert (out - out.mean((-2, -1), keepdim=True)).abs().mean() > 0.003


def test_shrinking_gives_it_back_where_the_network_wants_more_pixels_too():
    """But for what the filter mixes with the pixels that were added to the right and below, and taken away again."""
    out = made("upscale", colours(), white(0.0, 0.1, multiple=16))
    small = downscale(2, tuple(out.shape[-2:])).A(out)
    gap = (small - colours()).abs().amax((0, 1))
    assert gap[:-2, :-2].max() < 2e-6
    out = made("upscale", colours(), white(0.0, 0.1, multiple=16), shrunk="average")
    assert (torch.nn.functional.avg_pool2d(out, 2) - colours()).abs().max() < 2e-6


def test_noise_makes_the_measurement_less_binding():
    gaps = []
    for noise in (0.0, 0.02, 0.1, 0.2):
        out = made("upscale", colours(), white(0.0, 0.2), noise_std=noise, steps=10)
        gaps.append(float((downscale(2, tuple(out.shape[-2:])).A(out) - colours()).norm()))
    assert gaps == sorted(gaps)
    assert gaps[-1] > 1


def drawn_by_ddrm(std, steps, eta):
    """The spread of what nothing is known of (eq. 8): fresh noise is eta^2 of all noise, so that it comes out short."""
    return chained(std, walk(white(), steps, math.inf), lambda _, ratio: (eta * ratio) ** 2)[1]


@pytest.mark.parametrize("eta", [0.0, 0.5, None])
def test_ddrm_draws_what_block_means_leave_open(eta):
    """Of a white Gaussian: the mean of four pixels is known, so each varies by 3/4 of its variance."""
    options = {"method": "ddrm", "shrunk": "average", "eta": eta, "strength": 1, "steps": 40}
    out = made("upscale", torch.full((1, 3, 32, 32), 0.55), white(0.0, 0.2), **options)
    assert abs(float(out.mean()) - 0.55) < 1e-5
    wanted = drawn_by_ddrm(0.2, 40, 1.0 if eta is None else eta) / 2
    assert float(out.std()) == pytest.approx(wanted * math.sqrt(3 / 4), rel=0.03)
    assert eta != 0 or wanted == pytest.approx(0.1, rel=0.1)


def test_a_smooth_prior_enlarges_better_than_bicubic():
    truth = drawn((48, 64), reach=3.0)
    small = downscale(4, (48, 64)).A(truth).clamp(0, 1)
    out = made("upscale", small, smooth(reach=3.0), scale=4, steps=12)
    cheap = torch.nn.functional.interpolate(small, scale_factor=4, mode="bicubic")
    assert (out - truth).norm() < 0.9 * (cheap - truth).norm()


# ---------------------------------------------------------------- deblur

KERNELS = {"uniform": "uniform:5", "gaussian": "gaussian:2", "motion": "motion:9,30", "even": np.ones((4, 6))}
EDGE = 24


def blurred(truth, kernel, noise=0.005):
    """The inner part of a picture that was blurred as a whole, and of the truth."""
    y = scipy.ndimage.convolve(truth.double().numpy(), read_kernel(kernel).numpy()[None, None], mode="reflect")
    y = torch.from_numpy(y) + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return y.float().clamp(0, 1)[..., EDGE:-EDGE, EDGE:-EDGE], truth[..., EDGE:-EDGE, EDGE:-EDGE]


def errors(out, truth, width=5):
    """Root mean square inside, and in the outermost pixels."""
    gap = (out - truth).square().mean((0, 1))
    inner = gap[width:-width, width:-width]
    return float(inner.mean().sqrt()), float(((gap.sum() - inner.sum()) / (gap.numel() - inner.numel())).sqrt())


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_rings_at_the_borders(kernel):
    """A window on a larger blurred picture; the periodic blur, which most codes take, is wrong there, and rings."""
    kernel, prior = KERNELS[kernel], smooth(reach=4.0, multiple=8)
    y, truth = blurred(drawn((96, 92), reach=4.0), kernel)
    inside, border = errors(y, truth)
    for method in ("dpir", "ddrm"):
        inner, outer = errors(made("deblur", y, prior, kernel=kernel, noise_std=0.005, steps=12, method=method), truth)
        assert inner < 0.85 * inside
        assert outer < min(2 * inner, 0.95 * border)
    op, model = blur(read_kernel(kernel).float(), tuple(y.shape[-2:])), 2 * y - 1
    rings = last(dpir(prior, op, model, 0.01, walk(prior, 12, 0.4), start=model))
    assert errors((rings + 1) / 2, truth)[1] > 3 * outer


@pytest.mark.parametrize("method", ["dpir", "ddrm"])
@pytest.mark.parametrize("size", [(3, 3), (4, 4), (5, 2), (2, 3), (1, 6)])
def test_a_deblurred_dot_is_where_it_was(size, method):
    truth = torch.full((1, 3, 24, 26), 0.4)
    truth[..., 11, 14] = torch.tensor([0.79, 0.8, 0.81])  # no gray, whose noise would be that of all channels
    kernel = np.random.default_rng(0).random(size) + 0.2
    y = torch.from_numpy(scipy.ndimage.convolve(truth.double().numpy(), (kernel / kernel.sum())[None, None])).float()
    out = made("deblur", y, white(-0.2, 0.3), kernel=kernel, method=method, steps=10, noise_std=0.0)
    light = (out - 0.4).mean((0, 1))
    assert divmod(int(light.argmax()), 26) == (11, 14)
    light = light[5:18, 8:21].clamp(min=0.02) - 0.02
    rows, columns = torch.arange(5.0, 18)[:, None], torch.arange(8.0, 21)
    assert abs(float((rows * light).sum() / light.sum()) - 11) < 0.4
    assert abs(float((columns * light).sum() / light.sum()) - 14) < 0.4
    assert light.max() > 0.25


@pytest.mark.parametrize("method", ["dpir", "ddrm"])
@pytest.mark.parametrize("where", [(0, 0), (0, 4), (3, 2), (4, 4)])
def test_a_kernel_that_only_shifts_is_undone(where, method):
    """To the noise that is assumed, or that DDRM's last level has, where the picture was not shifted out of sight."""
    kernel, truth = np.zeros((5, 5)), colours((24, 28))
    kernel[where] = 3.0  # of any sum
    y = torch.from_numpy(scipy.ndimage.convolve(truth.numpy(), kernel[None, None] / 3))
    out = made("deblur", y, white(0.0, 0.2), kernel=kernel, method=method, noise_std=0.0, steps=8)
    assert (out - truth)[..., 2:-2, 2:-2].square().mean().sqrt() < {"dpir": 0.002, "ddrm": 0.012}[method]


def test_kernels_of_every_kind_give_the_same(tmp_path):
    kernel = gaussian(1.2)
    gray = (kernel / kernel.max() * 255).round().to(torch.uint8).numpy()
    Image.fromarray(gray).save(tmp_path / "kernel.png")
    y = colours((24, 28))

    def of(kernel):
        return made("deblur", y, white(), kernel=kernel)

    exact, rough = of("gaussian:1.2"), of(gray)
    for same in (kernel, kernel.float(), kernel.numpy(), 7 * kernel.numpy()):
        torch.testing.assert_close(of(same), exact, atol=1e-4, rtol=0)
    for same in (tmp_path / "kernel.png", str(tmp_path / "kernel.png"), Image.fromarray(gray), gray.astype(float)):
        torch.testing.assert_close(of(same), rough, atol=1e-4, rtol=0)
    assert 1e-3 < (rough - exact).abs().max() < 0.1


def test_a_kernel_of_one_pixel_changes_next_to_nothing():
    y = colours()
    out = made("deblur", y, white(0.0, 0.5), kernel=np.ones((1, 1)), noise_std=0.0)
    assert (out - y).abs().max() < 0.01


def test_noise_of_a_blurred_picture(monkeypatch):
    """Estimated where it is not given; never less than half a step of 8 bits."""
    y, truth = blurred(drawn((112, 112)), "gaussian:1", 0.05)
    estimated = estimate_noise(y)
    assert estimated == pytest.approx(0.05, rel=0.1)
    free, told = (made("deblur", y, smooth(), kernel="gaussian:1", noise_std=n) for n in (None, estimated))
    assert torch.equal(free, told)
    assert tasks.Deblur(kernel="gaussian:1", noise_std=0.0).noise(y) == 0.5 / 255
    assert tasks.Deblur(kernel="gaussian:1").noise(torch.full((1, 3, 32, 32), 0.5)) == 0.5 / 255
    right, wrong = (made("deblur", y, smooth(), kernel="gaussian:1", noise_std=n, steps=8) for n in (0.05, 0.0))
    assert (right - truth).norm() < 0.8 * (wrong - truth).norm()


@pytest.mark.parametrize("size", [(24, 3), (3, 30), (40, 40)])
def test_a_kernel_larger_than_the_picture_is_refused(size):
    with pytest.raises(InputError, match=f"kernel is {size[1]} x {size[0]}, and the picture 27 x 21"):
        made("deblur", colours(), white(), kernel=np.ones(size))
    assert made("deblur", colours(), white(), kernel=np.ones(SIZE)).shape == (1, 3, *SIZE)


# ---------------------------------------------------------------- colorize


@pytest.mark.parametrize("method", ["dpir", "ddrm"])
@pytest.mark.parametrize("strength", [None, 1])
def test_the_brightness_stays(method, strength):
    gray, prior = luma(colours()), white((0.3, 0.0, -0.3), 0.1, multiple=4)
    out = made("colorize", gray, prior, method=method, strength=strength)
    assert out.shape == (1, 3, *SIZE)
    assert 0 < out.min() < out.max() < 1
    assert (luma(out) - gray).abs().max() < 2e-6
    assert (out[:, 0] - out[:, 2]).mean() > 0.05
    bright = (gray[0, 0] * 255).round().to(torch.uint8).numpy()
    image = made("colorize", Image.fromarray(bright), prior, method=method, strength=strength)
    weights = np.asarray(image) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(weights - bright).max() <= 0.5


def test_of_a_colour_picture_only_the_brightness_is_looked_at():
    image = colours()
    out = made("colorize", image, white((0.3, 0.0, -0.3), 0.1))
    torch.testing.assert_close(made("colorize", luma(image).expand(-1, 3, -1, -1), white((0.3, 0.0, -0.3), 0.1)), out)
    assert not torch.allclose(out, image, atol=0.02)


@pytest.mark.parametrize("options", [{"method": "dpir"}, {"method": "ddrm"}, {"method": "ddrm", "eta": 0.0}], ids=str)
def test_colours_are_the_prior_s(options):
    """Of a white Gaussian, given its luma: mean + a (y - a mean) / (a a); DDRM varies about it, across a."""
    mean, std, gray = torch.tensor([0.3, 0.1, -0.2]), 0.15, torch.full((1, 1, 40, 40), 0.55)
    a = torch.tensor([0.299, 0.587, 0.114])
    wanted = (mean + a * (0.1 - a @ mean) / (a @ a) + 1) / 2
    out = made("colorize", gray, white(mean, std), strength=1, steps=30, **options)
    assert (out.mean((0, 2, 3)) - wanted).abs().max() < 0.004
    free = (torch.eye(3) - torch.outer(a, a) / (a @ a)) / 4
    free *= 0 if options["method"] == "dpir" else drawn_by_ddrm(std, 30, options.get("eta", 1.0)) ** 2
    assert (torch.cov(out[0].flatten(1)) - free).norm() < 0.08 * free.norm() + 1e-8


def test_a_gray_file_of_16_bits_becomes_colour_of_16_bits():
    deep = values(1, np.uint16)[..., 0]
    found = images.read(made("colorize", png16(deep, 0), white((0.3, 0.0, -0.3), 0.1)))
    assert (found.depth, found.gray) == (16, False)
    assert np.abs((luma(found.rgb)[0, 0] * 65535).numpy() - deep).max() < 1.5
