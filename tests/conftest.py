"""Shared fixtures: closed-form priors, reference vectors, noise replayed in draw order."""

import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from command import hole, photo, run
from safetensors.torch import load_file

from restore.levels import linear
from restore.load import load_prior
from restore.prior import Pred, Prior

DATA = Path(__file__).parent / "data"
pytest.register_assert_rewrite("pictures", "inpainting")
torch.set_num_threads(1)  # tensors here are tiny: threads would wait for each other, badly so on a busy machine


def golden(name):
    """(tensors, facts) of one reference vector made by the original public code."""
    path = DATA / "golden" / name
    return load_file(f"{path}.safetensors"), json.loads(Path(f"{path}.json").read_text())


ABAR = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))).float()


def closed_form(x, t):
    """eps of a Gaussian prior N(0.2, 0.5^2) under linear betas: the network of the reference vectors."""
    a = ABAR[t.long()].reshape(-1, 1, 1, 1).to(x)
    return (1 - a).sqrt() * (x - a.sqrt() * 0.2) / (a * 0.25 + 1 - a)


@pytest.fixture
def gaussian_prior():
    return Prior(closed_form, predicts="eps", schedule=linear(1000))


@pytest.fixture
def learned_prior():
    """The same with learned variance channels sin(x)."""
    return Prior(lambda x, t: torch.cat([closed_form(x, t), x.sin()], 1), predicts="eps", schedule=linear(1000))


@pytest.fixture
def replay(monkeypatch):
    """replay(tensors): every following draw of noise takes the next of them, reshaped; returns the list left over."""

    def start(tensors):
        queue = list(tensors)

        def draw(shape, **kwargs):
            return queue.pop(0).reshape(shape).to(kwargs.get("dtype", torch.float32))

        monkeypatch.setattr(torch, "randn", draw)
        return queue

    return start


class Gaussian:
    """N(mean, cov) on flattened images: the exact eps-network at any level, and exact conditionals (float64)."""

    def __init__(self, mean, cov, shape):
        self.mean, self.cov, self.shape = mean, cov, shape
        self.values, self.vectors = torch.linalg.eigh(cov)

    def __call__(self, x, level):
        a, s = float(level.alpha), float(level.sigma)
        r = (x.reshape(len(x), -1) - a * self.mean) @ self.vectors
        gain = 1 / (a * a * self.values + s * s)
        eps = (s * (r * gain) @ self.vectors.T).reshape(x.shape)
        x0 = (self.mean + (a * self.values * r * gain) @ self.vectors.T).reshape(x.shape)
        return Pred(x0, eps)

    def marginal(self, level):
        """Mean (d,) and a square root (d,d) of the covariance of x at a level."""
        cov = level.alpha**2 * self.cov + level.sigma**2 * torch.eye(len(self.cov)).double()
        return level.alpha * self.mean, torch.linalg.cholesky(cov)

    def conditional(self, known, values):
        """Mean and covariance of the unknown part, given `values` at the indices where `known` is true."""
        k, u = known.nonzero()[:, 0], (~known).nonzero()[:, 0]
        gain = torch.linalg.solve(self.cov[k][:, k], self.cov[k][:, u]).T
        return self.mean[u] + gain @ (values - self.mean[k]), self.cov[u][:, u] - gain @ self.cov[k][:, u]


@pytest.fixture
def correlated():
    """A strongly correlated Gaussian on (1,1,4,4) images: neighbours agree."""
    grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"), -1).reshape(16, 2).double()
    cov = 0.3 * torch.exp(-torch.cdist(grid, grid) / 3)
    return Gaussian(torch.linspace(-0.3, 0.4, 16).double(), cov, (1, 4, 4))


class Mixture:
    """A mixture of N(means[k], var[k] I) on images: the exact eps-network at any level."""

    def __init__(self, weights, means, var):
        self.weights, self.means, self.var = weights, means, var  # (K,), (K,C,H,W), (K,)

    def __call__(self, x, level):
        total = level.alpha**2 * self.var + level.sigma**2
        gap = x[:, None] - level.alpha * self.means  # (B,K,C,H,W)
        fit = self.weights.log() - gap.pow(2).sum((2, 3, 4)) / (2 * total) - x[0].numel() / 2 * total.log()
        shrink = (level.alpha * self.var / total).reshape(-1, 1, 1, 1)
        x0 = (fit.softmax(1)[..., None, None, None] * (self.means + shrink * gap)).sum(1)
        return Pred(x0, (x - level.alpha * x0) / level.sigma)


@pytest.fixture
def mixture():
    """Three blobs on (1,2,2) images, float64."""
    means = torch.tensor([[0.9, -0.2, 0.1, 0.6], [-0.7, 0.4, 0.3, -0.5], [0.1, 0.8, -0.9, 0.2]]).double()
    weights = torch.tensor([0.2, 0.3, 0.5]).double()
    return Mixture(weights, means.reshape(3, 1, 2, 2), torch.tensor([0.05, 0.1, 0.2]).double())


def push(chain, mean, root):
    """N(mean, root root^T) on 4x4 images through an affine chain, exactly: mean (16,) and columns^T (16,16)."""
    starts = mean + torch.cat([torch.zeros(1, len(mean)).double(), root.T])
    out = chain(starts.reshape(-1, 1, 4, 4)).reshape(len(starts), -1)
    return out[0], out[1:] - out[0]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    """Standard normal float64 values."""
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def psnr(a, b):
    return -10 * math.log10(float((a.double() - b.double()).pow(2).mean()))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A prior in the layout of a diffusers pipeline, small and untrained: read it, never write to it."""
    return save_tiny(tmp_path_factory.mktemp("priors") / "tiny")


def save_tiny(folder, scheduler=None, change=None, index=True, **options):
    """Write an untrained prior to `folder`; change(net) may spoil its weights, `options` go to the network."""
    from diffusers import DDPMScheduler

    from restore.unet import UNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet(**{"channels": (8, 16), "layers": 1, "time_channels": 16, **options})
        for name, weight in net.named_parameters():
            if "film" in name or "conv2" in name:  # zero at first, so that blocks would do nothing
                torch.nn.init.normal_(weight, std=0.1)
    if change:
        with torch.no_grad():
            change(net)
    net.save_pretrained(folder / "unet")
    scheduler = scheduler or DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    scheduler.save_pretrained(folder / "scheduler")
    if index:
        kinds = {"scheduler": ["diffusers", type(scheduler).__name__], "unet": ["restore.unet", "UNet"]}
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", **kinds}))
    return folder


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    return load_prior(tiny_folder, device="cpu", dtype="float32")


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


@pytest.fixture
def desk(tmp_path, tiny_folder):
    """A folder with a picture and its mask; desk.inpaint(...) restores it with the tiny prior in few steps."""

    class Desk:
        here = tmp_path
        photo = photo(tmp_path / "photo.png")
        mask = hole(tmp_path / "mask.png")

        @staticmethod
        def inpaint(*args, prior=tiny_folder, steps=2, **options):
            return run("inpaint", *args, "--prior", prior, *(("--steps", steps) if steps else ()), **options)

    return Desk


@pytest.fixture
def no_network(monkeypatch):
    def stop(self, x, level):
        raise AssertionError("the network was asked, although the input is bad")

    monkeypatch.setattr(Prior, "__call__", stop)


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(step): the next run gets a SIGINT in the middle of that step of its training."""
    from restore.train.loop import Loop

    def at(step):
        plain = Loop._step

        def interrupted(self, batch, size):
            if self.step == step - 1:
                monkeypatch.setattr(Loop, "_step", plain)
                os.kill(os.getpid(), signal.SIGINT)
            return plain(self, batch, size)

        monkeypatch.setattr(Loop, "_step", interrupted)

    return at
