"""Every task in one call, small pictures for them, and priors in closed form that are exact at any level."""

import math
from itertools import pairwise

import numpy as np
import torch
from inpainting import hole
from pictures import file_of, png16, tiff_of
from PIL import Image
from scipy.fft import dctn, idctn

from restore import images, tasks
from restore.levels import linear
from restore.picture import luma
from restore.prior import Prior

TABLE = linear(1000)
SIZE = (21, 27)  # odd: of no multiple that a network could want
SCALE = {"upscale": 2}  # of the answer; 1 for the others

REQUESTS = {
    "inpaint": (tasks.Inpaint, {}),
    "upscale": (tasks.Upscale, {"scale": 2}),
    "deblur": (tasks.Deblur, {"kernel": "gaussian:0.7", "noise_std": 0.02}),
    "denoise": (tasks.Denoise, {"noise_std": 0.1}),
    "colorize": (tasks.Colorize, {}),
    "edit": (tasks.Edit, {}),
    "refine": (tasks.Refine, {"factor": 4}),
    "translate": (tasks.Translate, {}),
    "generate": (tasks.Generate, {"size": SIZE}),
}
INVERSE, EDITING = ("upscale", "deblur", "denoise", "colorize"), ("edit", "refine", "translate")
PICTURES = (*INVERSE, *EDITING)  # tasks of a picture alone
METHODS = [(task, method) for task, (kind, _) in REQUESTS.items() for method in kind.METHODS]
RANDOM = [  # without what Options call one answer
    (task, method) for task, method in METHODS
    if REQUESTS[task][0].METHODS[method].eta is not None
]  # fmt: skip


def methods(names, pairs=METHODS):
    """Of these tasks, as parameters of a test."""
    return [pair for pair in pairs if pair[0] in names]


def request(task, **options):
    """The options of a task, short where nothing else is said."""
    kind, own = REQUESTS[task]
    chosen = kind(**{**own, **options})
    short = {} if chosen.chosen == "mmse" or "steps" in options else {"steps": 3}
    return kind(**{**own, **short, **options})


def result(task, image, prior, progress=None, **options):
    """The Result of a task on any kind of picture; `inpaint` fills a hole, `translate` stays with the prior."""
    asked = request(task, **options)
    if task == "generate":
        return asked.run(prior, progress)
    picture = images.read(image)
    given = {
        "inpaint": (hole(picture.rgb.shape[-2:], 5, 12, 6, 15), prior),
        "edit": (None, prior),
        "translate": (prior, prior),
    }
    return asked.run(picture, *given.get(task, (prior,)), progress)


def made(task, image, prior, **options):
    """The first answer of a task."""
    return result(task, image, prior, **options).images[0]


# ---------------------------------------------------------------- pictures


def colours(shape=SIZE, seed=0, batch=1):
    """(B,3,H,W) in [0.3, 0.7]"""
    return torch.rand(batch, 3, *shape, generator=torch.Generator().manual_seed(seed)) * 0.4 + 0.3


def grown(task, shape=SIZE):
    """The size of a task's answer."""
    return tuple(SCALE.get(task, 1) * side for side in shape)


def values(channels, dtype=np.uint8, batch=False):
    """The same as an array (H,W,C): gray, gray and alpha, RGB or RGBA, alpha one half; or a batch of two."""
    x = colours(batch=2 if batch else 1).permute(0, 2, 3, 1).numpy()
    x = np.concatenate([x, np.full_like(x[..., :1], 0.5)], -1)
    x = x[..., {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]]
    x = (x * np.iinfo(dtype).max).round().astype(dtype) if np.issubdtype(dtype, np.integer) else x.astype(dtype)
    return x if batch else x[0]


KINDS = {
    "PIL L": lambda: Image.fromarray(values(1)[..., 0]),
    "PIL LA": lambda: Image.fromarray(values(2)),
    "PIL RGB": lambda: Image.fromarray(values(3)),
    "PIL RGBA": lambda: Image.fromarray(values(4)),
    "PIL I;16": lambda: Image.fromarray(values(1, np.uint16)[..., 0]),
    "PIL I": lambda: Image.fromarray(values(1, np.uint16)[..., 0].astype(np.int32)),
    "bytes PNG": lambda: file_of(Image.fromarray(values(4)), "PNG"),
    "bytes BMP": lambda: file_of(Image.fromarray(values(3)), "BMP"),
    "bytes of 16 bits": lambda: png16(values(3, np.uint16), 2),
    "bytes of gray 16 bits": lambda: tiff_of(values(1, np.uint16)[..., 0]),
    "numpy (H,W)": lambda: values(1)[..., 0],
    "numpy (H,W) float": lambda: values(1, np.float64)[..., 0],
    "numpy (H,W,1)": lambda: values(1, np.float32),
    "numpy (H,W,3)": lambda: values(3),
    "numpy uint16": lambda: values(3, np.uint16),
    "numpy float16": lambda: values(3, np.float16),
    "numpy RGBA": lambda: values(4, np.float32),
    "numpy batch": lambda: values(3, np.uint8, batch=True),
    "torch (3,H,W)": lambda: colours()[0],
    "torch (1,H,W)": lambda: luma(colours())[0],
    "torch batch": lambda: colours(batch=2).double(),
    "torch gray batch": lambda: luma(colours(batch=2)),
    "torch uint8": lambda: (colours() * 255).to(torch.uint8),
    "Picture": lambda: images.read(values(3)),
}


# ---------------------------------------------------------------- priors, in model space


class White:
    """The eps-network of N(mean, std^2), pixel by pixel; the means of even and odd pixels are `chequer` times as much
    more and less. `told` lists the times that it was asked for."""

    def __init__(self, mean=0.2, std=0.5, schedule=TABLE, chequer=0.0):
        self.mean, self.std, self.schedule = torch.as_tensor(mean, dtype=torch.float32), std, schedule
        self.chequer = chequer
        self.told, self.shapes = [], []

    def __call__(self, x, t, class_labels=None):
        self.told.append(float(t[0]))
        self.shapes.append(tuple(x.shape[2:]))
        level, mean = self.schedule.at(float(t[0])), self.means(x, class_labels)
        return level.sigma * (x - level.alpha * mean) / (level.alpha**2 * self.std**2 + level.sigma**2)

    def means(self, x, which=None):
        """Pixel by pixel for x (B,3,H,W), of the classes `which`."""
        mean = self.mean.reshape(-1, 1, 1) if which is None else self.mean[which].reshape(-1, 1, 1, 1)
        rows, columns = (torch.arange(side) for side in x.shape[-2:])
        return mean * (1 + self.chequer * (-1) ** (rows[:, None] + columns))


def white(mean=0.2, std=0.5, schedule=TABLE, chequer=0.0, **options):
    """A Prior of independent pixels; mean: one number, or one for each of three channels."""
    return Prior(White(mean, std, schedule, chequer), schedule=schedule, **{"name": "white", **options})


def spectrum(size, reach=8.0, std=0.25):
    """Variances (H,W) of the cosine waves of smooth pictures, falling as f^-4 below `reach` pixels."""
    rows, columns = (np.arange(side) / (2 * side) for side in size)  # cycles a pixel
    f = np.hypot(rows[:, None], columns)
    s = 1 / (1 + (2 * np.pi * reach * f) ** 2) ** 2
    return std**2 * s / s.mean()


def smooth(reach=8.0, std=0.25, **options):
    """A Prior of smooth pictures about mid gray, of any size: independent cosine waves, so mirrored borders."""

    def net(x, t):
        level, var = TABLE.at(float(t[0])), torch.from_numpy(spectrum(x.shape[-2:], reach, std)).float()
        return waves(x, level.sigma / (level.alpha**2 * var + level.sigma**2))

    return Prior(net, schedule=TABLE, **{"name": "smooth", **options})


def waves(x, gain):
    """x (B,C,H,W) with its cosine waves multiplied by gain (H,W)."""
    z = dctn(x.double().numpy(), axes=(-2, -1), norm="ortho") * gain.double().numpy()
    return torch.from_numpy(idctn(z, axes=(-2, -1), norm="ortho")).to(x)


def drawn(size, seed=0, reach=8.0, std=0.25, batch=1):
    """Pictures (B,3,H,W) in [0, 1] drawn from `smooth`."""
    z = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
    x = waves(z, torch.from_numpy(spectrum(size, reach, std)).sqrt())
    return ((x + 1) / 2).clamp(0, 1)


def chained(std, levels, fresh):
    """What a chain of DDIM steps makes of u = x / alpha on a Gaussian of this spread, level by level, in closed form.

    fresh: (ratio, next ratio) -> the variance of fresh noise. Returns what is left of u's distance from the mean, and
    the spread, of a u with noise of the first level alone."""
    slope, var = 1.0, levels[0].ratio ** 2
    for now, then in pairwise(level.ratio for level in levels):
        trust, new = std**2 / (std**2 + now**2), fresh(now, then)
        keep = trust + (1 - trust) * math.sqrt(max(then**2 - new, 0)) / now
        slope, var = keep * slope, keep**2 * var + new
    return slope, math.sqrt(var)


def ddpm(now, then, eta=1.0):
    """The fresh noise of DDIM with eta (Song et al. 2021, eq. 16) on the scale of u."""
    return (eta * then) ** 2 * (1 - (then / now) ** 2)


def classes(means=(-0.4, 0.1, 0.5), std=0.3, null=None, labels=("cat", "dog", "owl"), chequer=0.0, **options):
    """A class-conditional white Prior: the class k is N(means[k], std^2); null: the mean of no class, if it may be."""
    every = [*means] if null is None else [*means, null]
    labels = list(labels) if isinstance(labels, tuple) else labels
    none = None if null is None else len(means)
    net = White(every, std, chequer=chequer)
    return Prior(net, schedule=TABLE, labels=labels, null_label=none, **{"name": "classes", **options})
