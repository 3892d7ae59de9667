"""Classical restorations, the baselines of photos.py: pictures (H,W,3) of uint8 in and out.

A table of methods is {name: {setting: function of what is given}}. Where there are several settings, photos.py tries
all of them and reports the one with the best mean PSNR, which a user without the truth cannot choose so well.
"""

import importlib.util
from functools import partial

import cv2
import numpy as np
import torch
from PIL import Image
from skimage import restoration
from torch.nn.functional import interpolate

from restore.noise import unclip

BM3D = importlib.util.find_spec("bm3d") is not None
INSTALL = (
    "BM3D is left out: pip install --target PEERS --no-deps bm3d==4.0.3 bm4d==4.2.5, then PYTHONPATH=PEERS "
    "(binaries of Tampere University, for non-commercial use)"
)


def to_8_bits(x):
    return (np.clip(x, 0, 1) * 255).round().astype(np.uint8)


def settings(method, name, values, /, **fixed):
    """{"name value": method with that value}."""
    return {f"{name} {value:g}": partial(method, **{name: value}, **fixed) for value in values}


# ---------------------------------------------------------------- enlarging


def resized(given, scale, interpolation):
    return cv2.resize(given, None, fx=scale, fy=scale, interpolation=interpolation)


def pil_lanczos(given, scale):
    return np.array(Image.fromarray(given).resize((scale * given.shape[1], scale * given.shape[0]), Image.LANCZOS))


def back_projected(given, scale, rounds):
    """Bicubic, then corrected until shrinking it gives back what is given (Irani and Peleg 1991)."""
    y = torch.from_numpy(given / 255.0).permute(2, 0, 1)[None]  # (1,3,h,w)
    x = interpolate(y, scale_factor=scale, mode="bicubic")
    for _ in range(rounds):
        missing = y - interpolate(x, y.shape[2:], mode="bicubic", antialias=True)
        x = x + interpolate(missing, scale_factor=scale, mode="bicubic")
    return to_8_bits(x[0].permute(1, 2, 0).numpy())


def enlargers(scale):
    return {
        "bicubic (cv2)": {"": partial(resized, scale=scale, interpolation=cv2.INTER_CUBIC)},
        "Lanczos4 (cv2)": {"": partial(resized, scale=scale, interpolation=cv2.INTER_LANCZOS4)},
        "Lanczos (PIL)": {"": partial(pil_lanczos, scale=scale)},
        "bicubic, back-projected": settings(back_projected, "rounds", (2, 5, 20), scale=scale),
    }


# ---------------------------------------------------------------- deblurring


def by_channel(deconvolve, given, kernel):
    """A deconvolution of one channel in [0, 1] on all, in a frame that runs out to the mean so that little rings.

    Of frames by repetition, by mirroring, tapered (MATLAB's edgetaper) and this one, this measured best, by up to 5 dB
    for the motion blur."""
    reach, found = 2 * max(kernel.shape), []
    for channel in np.moveaxis(given / 255.0, 2, 0):
        frame = np.pad(channel, reach, mode="linear_ramp", end_values=channel.mean())
        found.append(deconvolve(frame)[reach:-reach, reach:-reach])
    return to_8_bits(np.stack(found, axis=2))


def wiener(given, kernel, balance):
    return by_channel(lambda x: restoration.wiener(x, kernel, balance), given, kernel)


def unsupervised_wiener(given, kernel):
    return by_channel(lambda x: restoration.unsupervised_wiener(x, kernel, rng=0)[0], given, kernel)


def richardson_lucy(given, kernel, rounds):
    return by_channel(lambda x: restoration.richardson_lucy(x, kernel, rounds), given, kernel)


def deblurrers(kernel):
    return {
        "none": {"": lambda given: given},
        "Wiener (skimage)": settings(wiener, "balance", (0.001, 0.003, 0.01, 0.03, 0.1), kernel=kernel),
        "unsupervised Wiener (skimage)": {"": partial(unsupervised_wiener, kernel=kernel)},
        "Richardson-Lucy (skimage)": settings(richardson_lucy, "rounds", (10, 20, 40, 80, 160), kernel=kernel),
    }


# ---------------------------------------------------------------- denoising; sigma is on the [0, 255] scale


def cv2_non_local_means(given, sigma, h):
    return cv2.fastNlMeansDenoisingColored(given, None, h * sigma, h * sigma, 7, 21)


def non_local_means(given, sigma, h):
    sigma = sigma / 255
    options = {"patch_size": 5, "patch_distance": 6, "fast_mode": True, "channel_axis": -1}
    return to_8_bits(restoration.denoise_nl_means(given / 255.0, h=h * sigma, sigma=sigma, **options))


def total_variation(given, sigma, weight):
    return to_8_bits(restoration.denoise_tv_chambolle(given / 255.0, weight * sigma / 255, channel_axis=-1))


def bm3d_color(given, sigma, unclipped=False):
    """CBM3D; unclipped: then corrected for the noise cut off at black and white, as restore's denoise is."""
    import bm3d

    profile = bm3d.BM3DProfile()
    profile.num_threads = torch.get_num_threads()
    found = bm3d.bm3d_rgb(given / 255.0, sigma / 255, profile).clip(0, 1)
    if unclipped:
        low, high = np.mean(given == 0) > 1e-4, np.mean(given == 255) > 1e-4
        found = unclip(torch.from_numpy(found), sigma / 255, low, high).numpy()
    return to_8_bits(found)


def denoisers(sigma):
    """h and weight are multiples of sigma."""
    found = {
        "none": {"": lambda given: given},
        "non-local means (cv2)": settings(cv2_non_local_means, "h", (0.5, 0.6, 0.7, 0.8), sigma=sigma),
        "non-local means (skimage)": settings(non_local_means, "h", (0.3, 0.4, 0.5, 0.6, 0.7), sigma=sigma),
        "total variation (skimage)": settings(total_variation, "weight", (0.5, 0.6, 0.7, 0.8, 1.0), sigma=sigma),
    }
    if BM3D:
        found["BM3D"] = {"": partial(bm3d_color, sigma=sigma)}
        found["BM3D, unclipped"] = {"": partial(bm3d_color, sigma=sigma, unclipped=True)}
    return found


# ---------------------------------------------------------------- inpainting


def cv2_inpainted(given, hole, method, radius):
    return cv2.inpaint(given, hole.astype(np.uint8), radius, method)


def biharmonic(given, hole):
    return to_8_bits(restoration.inpaint_biharmonic(given / 255.0, hole, channel_axis=-1))


def fillers():
    return {
        "TELEA (cv2)": settings(cv2_inpainted, "radius", (2, 3, 5, 10), method=cv2.INPAINT_TELEA),
        "Navier-Stokes (cv2)": settings(cv2_inpainted, "radius", (2, 3, 5, 10), method=cv2.INPAINT_NS),
        "biharmonic (skimage)": {"": biharmonic},
    }
