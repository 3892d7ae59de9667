"""Judges of flowers.py: small residual networks that name clean pictures of 64 px, trained from nothing.

They share nothing with a prior or its guidance. Judge A is trained on what the prior was trained on, and is right so
often of the held-out tenth; judge B is trained on the held-out tenth alone, which the prior never saw.
"""

import sys
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from restore.metrics import luma_y
from restore.train.config import Data, Source
from restore.train.data import Cut, Pictures, cut

SIDE, SHRINK = 64, (0.5, 0.75)  # the crops of the prior: windows of 85 to 128 px, area-averaged to 64
STEPS_A, STEPS_B = 2600, 800
PEAK, BATCH, MIXED, SMOOTH = 3e-3, 64, 0.2, 0.05  # learning rate; crops a step; mixup's alpha; label smoothing


class Block(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))), the first half-way smaller and wider where asked."""

    def __init__(self, inside, outside):
        super().__init__()
        stride = 1 if inside == outside else 2
        self.norm1, self.norm2 = nn.BatchNorm2d(inside), nn.BatchNorm2d(outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.short = nn.Conv2d(inside, outside, 1, bias=False) if stride == 2 else None
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x):
        h = F.relu(self.norm1(x))
        short = x if self.short is None else self.short(F.avg_pool2d(h, 2))
        return short + self.conv2(F.relu(self.norm2(self.conv1(h))))


class Judge(nn.Module):
    """(B,3,64,64) in [0, 1] -> (B,labels) logits; `features` (B,W) are what they are made of."""

    def __init__(self, labels, widths=(32, 64, 128, 256), layers=2, drop=0.2):
        super().__init__()
        blocks = [nn.Conv2d(3, widths[0], 4, 2, 1, bias=False)]
        for inside, outside in zip((widths[0], *widths), widths, strict=False):
            blocks += [Block(inside, outside), *(Block(outside, outside) for _ in range(layers - 1))]
        self.body = nn.Sequential(*blocks, nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(drop), nn.Linear(widths[-1], labels))

    def features(self, x):
        return self.body((2 * x - 1).contiguous(memory_format=torch.channels_last)).mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))

    @torch.no_grad()
    def says(self, x):
        """(B,labels) probabilities for pictures (B,3,64,64) in [0, 1]: the mean of a picture's and its mirror's."""
        parts = list(x.split(128))
        return torch.cat([(self(p).softmax(1) + self(p.flip(3)).softmax(1)) / 2 for p in parts])


# ---------------------------------------------------------------- pictures


def read(tar, holdout=0.1):
    """(labels, rest, held): the two lists of (picture (H,W,3) uint8, label number), split as the prior's data is."""
    data = Pictures(Data([Source(str(tar))], labels=True, holdout=holdout), seed=0)
    pairs = ([(data.decode(item), data.labels.index(item.label)) for item in part] for part in (data.items, data.held))
    return data.labels, *pairs


def crops(pairs, rng, shrink=SHRINK, flip=True):
    """((B,3,64,64) in [0, 1], (B,)): a crop of each picture."""
    made = np.stack([cut(picture, Cut(SIDE, shrink, flip), rng) for picture, _ in pairs])
    return torch.from_numpy(made).permute(0, 3, 1, 2).float() / 255, torch.tensor([label for _, label in pairs])


def varied(x, rng):
    """Turned by up to 20 degrees, with other brightness, contrast and saturation, and a square of it left grey."""
    turn, light, contrast, colour = (torch.rand(len(x), 1, 1, 1, generator=rng) * 2 - 1 for _ in range(4))
    turn = 0.35 * turn.flatten()
    rows = torch.stack([turn.cos(), -turn.sin(), 0 * turn, turn.sin(), turn.cos(), 0 * turn], 1).view(-1, 2, 3)
    x = F.grid_sample(x, F.affine_grid(rows, list(x.shape), False), padding_mode="reflection", align_corners=False)
    middle = x.mean((1, 2, 3), keepdim=True)
    x = middle + (x - middle) * (1 + 0.4 * contrast) + 0.2 * light
    x = x.mean(1, keepdim=True).lerp(x, 1 + 0.4 * colour)
    at = torch.randint(-16, SIDE, (len(x), 2, 1), generator=rng)
    inside = (torch.arange(SIDE) >= at) & (torch.arange(SIDE) < at + 20)  # (B,2,64)
    return torch.where((inside[:, 0, :, None] & inside[:, 1, None])[:, None], 0.5, x).clamp(0, 1)


# ---------------------------------------------------------------- training


def train(pairs, labels, steps, seed=0):
    """A Judge trained on crops of `pairs`, in bf16: AdamW, one cycle, mixup, label smoothing."""
    torch.manual_seed(seed)
    numbers, rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    judge = Judge(labels).to(memory_format=torch.channels_last).train()
    best = torch.optim.AdamW(judge.parameters(), lr=PEAK, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(best, PEAK, total_steps=steps, pct_start=0.15)
    begin, order = time.monotonic(), []
    for step in range(steps):
        if len(order) < BATCH:
            order += numbers.permutation(len(pairs)).tolist()
        x, y = crops([pairs[order.pop()] for _ in range(BATCH)], numbers, shrink=(0.5, 0.9))
        x, share = varied(x, rng), float(numbers.beta(MIXED, MIXED))
        with torch.autocast("cpu", torch.bfloat16):
            out = judge(x.lerp(x.flip(0), 1 - share)).float()
        loss = share * F.cross_entropy(out, y, label_smoothing=SMOOTH)
        loss = loss + (1 - share) * F.cross_entropy(out, y.flip(0), label_smoothing=SMOOTH)
        best.zero_grad()
        loss.backward()
        best.step()
        rate.step()
        if step % 50 == 49:
            print(f"step {step + 1} of {steps}, {loss:.3f}, {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return judge.eval()


def kept(file, pairs, labels, steps, seed=0):
    """The judge of `file`; trained, and written there, where it is missing."""
    judge = Judge(labels)
    if file.exists():
        judge.load_state_dict(load_file(file))
        return judge.eval()
    judge = train(pairs, labels, steps, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in judge.state_dict().items()}, file)
    return judge


def both(folder, rest, held, labels):
    """Judge A, of `rest`, and judge B, of `held`; trained where their files are missing."""
    parts = (("a", rest, STEPS_A), ("b", held, STEPS_B))
    return [kept(folder / f"{name}.safetensors", pairs, labels, steps) for name, pairs, steps in parts]


# ---------------------------------------------------------------- measures


def recognised(found, x, y):
    """The share of pictures x (B,3,64,64) that a judge takes for y (B,); then that of each label by itself."""
    right = (found.says(x).argmax(1) == y).float()
    return [float(right.mean()), *(float(right[y == k].mean()) for k in y.unique())]


def percents(*shares):
    return " / ".join(f"{100 * share:.0f}" for share in shares)


def spread(found, x, y):
    """The mean distance of two pictures of one label, in a judge's features."""
    with torch.no_grad():
        features = found.features(x)
    return float(torch.stack([torch.pdist(features[y == k]).mean() for k in y.unique()]).mean())


def composition(a, b):
    """The mean correlation (Pearson's) of two pictures' luminance, averaged over squares to 8 x 8 values each."""
    a, b = (F.adaptive_avg_pool2d(luma_y(x), 8).flatten(1) for x in (a, b))  # (B,64)
    return float(F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)).mean())


def decibels(a, b):
    """PSNR of all pictures as if they were one: some come back exactly, and have none of their own."""
    return f"{-10 * (a - b).square().mean().log10():.1f}"


def scrambled(x, side=16):
    """Pictures (B,3,64,64) whose squares of `side` pixels are dealt out anew: their colours and textures, no shapes."""
    rng, squares = torch.Generator().manual_seed(4), F.unfold(x, side, stride=side)  # (B,3*side*side,n)
    dealt = [part[:, torch.randperm(part.shape[1], generator=rng)] for part in squares]
    return F.fold(torch.stack(dealt), SIDE, side, stride=side)


@dataclass
class Court:
    """Judges A and B, and the pictures that they learnt from: pairs of (picture, label)."""

    judges: list[Judge]
    rest: list  # what the prior and judge A were trained on
    held: list  # the held-out tenth, and what judge B was trained on

    @cached_property
    def real(self):
        """Held-out crops like those of the prior's training, and their labels."""
        return crops(self.held, np.random.default_rng(2))

    def by_label(self, x, y):
        """Cells `A / B`: what share of pictures x (B,3,64,64) each judge takes for y (B,), and of each label's."""
        return list(map(percents, *(recognised(found, x, y) for found in self.judges)))

    def recognised(self, x, y):
        """The first of these cells, for all labels."""
        return self.by_label(x, y)[0]

    def unseen(self, times=3):
        """The same cells for real pictures that the judge has not seen, in several crops each."""
        shares = []
        for found, pairs in zip(self.judges, (self.held, self.rest), strict=True):
            rng = np.random.default_rng(1)
            made = [crops(pairs, rng) for _ in range(times)]
            shares.append(recognised(found, *(torch.cat(parts) for parts in zip(*made, strict=True))))
        return list(map(percents, *shares))

    def looks(self, x, y):
        """Cells: what judge A still recognises, scrambled; two samples' mean distance to it over two real pictures'."""
        first = self.judges[0]
        apart = spread(first, x, y) / spread(first, *self.real)
        return percents(recognised(first, scrambled(x), y)[0]), f"{apart:.2f}"
