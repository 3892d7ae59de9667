"""The class-conditional prior of flowers, judged by strangers to it: python benchmarks/flowers.py FLOWERS.TAR

    ... --prior runs/flowers/prior --judges runs/judges      # what is judged; the judges, trained where missing
    ... --tables guidance methods translate settings         # only these
    ... --classifier FOLDER                                  # classifier guidance by this noisy classifier too
    ... --sheet FILE.png                                     # pictures of it all; --tables none for nothing else
    ... --show daisy=FILE@ROW,COLUMN,SIDE                    # squares of other pictures to translate on the sheet
    ... --quick                                              # a miniature

Judge A learnt from the nine tenths that the prior was trained on, judge B from the held-out tenth alone: judge.py.
Nothing is chosen by its looks: the seeds are 0, 1, ..., the pictures the first held-out ones of each label.
"""

import argparse
import sys
import time
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import judge
import numpy as np
import torch
from gallery import side_by_side, stacked
from PIL import Image

import restore
from restore import tasks
from restore.algorithms import sdedit
from restore.steps import begin, ddim, heun, last, once, sample
from restore.tasks.common import MAX_RATIO, image_space, model_space, top_ratio, walk
from restore.wrappers import classifier_free, classifier_guided, clip

SCALES, BATCH = (1, 1.5, 2, 3, 4), 50
METHODS = ("heun 25", "heun 18", "heun 10", "ddim 50", "ddim 25", "ddpm 250", "ddpm 100")


class Way(NamedTuple):
    """How a picture is made: the options of `generate`, `translate` or `edit`."""

    method: str
    steps: int
    guidance: float = 1.0  # classifier-free: 0 is blind to the label, 1 the plain conditional prior
    classifier: float = 0.0  # the scale of the noisy classifier's guidance
    strength: float = 1.0  # the share of the schedule to go up
    clip: bool = True  # x0 to [-1, 1]


def move(method, rng=None):
    return heun if method == "heun" else once(ddim, eta=tasks.Generate.METHODS[method].eta, rng=rng)


@dataclass
class Bench:
    """`generate`, `translate` and `edit` without their files and many at a time; what with, and who judges them."""

    prior: restore.Prior
    court: judge.Court
    samples: int  # of a label
    sources: int  # pictures of a label to translate
    classifier: restore.Classifier | None = None

    @cached_property
    def given(self):
        """What is translated: the first held-out pictures of each label, whole; and their labels."""
        first = [
            p for k in range(len(self.prior.labels)) for p in [p for p in self.court.held if p[1] == k][: self.sources]
        ]
        return judge.crops(first, np.random.default_rng(0), shrink=(0.5, 0.5), flip=False)

    @cached_property
    def pairs(self):
        """(which of `given`, to which label): every picture to every other label."""
        own = self.given[1]
        return torch.tensor([(i, k) for i in range(len(own)) for k in range(len(self.prior.labels)) if k != own[i]]).T

    def led(self, y, way):
        """The prior, led to the labels y (B,)."""
        prior = copy(self.prior)
        prior.clip = prior.clip and way.clip
        denoise = prior.labelled(y) if way.guidance else prior.unlabelled
        if way.guidance not in (0, 1):  # clipped after it, as `generate` does
            denoise = classifier_free(denoise.unclipped, prior.unlabelled.unclipped, way.guidance)
            denoise = clip(denoise) if prior.clip else denoise
        if not way.classifier:
            return denoise
        log_prob = lambda x, level: self.classifier(x, level).log_softmax(1).gather(1, y[:, None]).squeeze(1)  # noqa: E731
        return classifier_guided(denoise, log_prob, way.classifier)

    def batched(self, function, way, *given):
        """function of a part of each of `given` at a time: (the answers, seconds for each)."""
        found, start = [], time.perf_counter()
        for parts in zip(*(part.split(BATCH) for part in given), strict=True):
            print(f"\r\033[K{way}: {sum(map(len, found))} of {len(given[0])}", end="", file=sys.stderr, flush=True)
            found.append(function(*(part.to(self.prior.device) for part in parts)))
        print("\r\033[K", end="", file=sys.stderr)
        return torch.cat(found), (time.perf_counter() - start) / len(given[0])

    def pictures(self, x):
        """(B,3,H,W) in [0, 1], of 8 bits as a file has them."""
        return (image_space(self.prior, x, x.shape[-2:]) * 255).round().cpu() / 255

    def drawn(self, way, samples=None):
        """Samples of each label by the seeds 0, 1, ... as `generate` draws them; their labels; seconds for each."""
        count, levels, samples = len(self.prior.labels), walk(self.prior, way.steps, MAX_RATIO), samples or self.samples
        y, blank = torch.arange(count).repeat_interleave(samples), torch.zeros(3, judge.SIDE, judge.SIDE)
        noise = [begin(blank, levels[0], rng=torch.Generator().manual_seed(seed)) for seed in range(samples)]
        rng = torch.Generator().manual_seed(2**32)  # of ddpm's later noise, which is not generate's

        def some(x, y):
            return self.pictures(last(sample(self.led(y, way), x, levels, move=move(way.method, rng))))

        x, seconds = self.batched(some, way, torch.stack(noise * count), y)
        return x, y, seconds

    def ode(self, x, y, way, up=False):
        """A half of DDIB for labels y (B,): pictures (B,3,H,W) from latents, or what pictures become on the way up."""
        high, low = top_ratio(self.prior, way.strength), tasks.Translate.METHODS[way.method].low
        levels = walk(self.prior, way.steps + 1, high, low)[:-1]  # at strength 1 those of `Translate.walks`
        if up:
            levels, way = levels[::-1], way._replace(guidance=1.0, classifier=0.0)

        def some(x, y):
            x = levels[0].alpha * model_space(self.prior, x) if up else x
            x = last(sample(self.led(y, way), x, levels, move=move(way.method)))
            return x if up else self.pictures(x / levels[-1].alpha)

        return self.batched(some, way, x, y)

    def edited(self, x, y, way):
        """SDEdit of pictures (B,3,H,W) to labels y (B,), as `edit` does it; seconds for each."""
        levels, rng = walk(self.prior, way.steps, top_ratio(self.prior, way.strength)), torch.Generator().manual_seed(0)

        def some(x, y):
            return self.pictures(last(sdedit(self.led(y, way), model_space(self.prior, x), levels, rng=rng)))

        return self.batched(some, way, x, y)


# ---------------------------------------------------------------- samples


def table(*columns):
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)


def row(*cells):
    print(f"| {' | '.join(cells)} |", flush=True)


def guidance_table(bench, args):
    """How strongly to lead to a label, and by what."""
    table("samples", "recognised, % (A / B)", *bench.prior.labels, "scrambled", "diversity", "seconds a picture")
    row("real, unseen by the judge", *bench.court.unseen(), *bench.court.looks(*bench.court.real), "-")
    ways = {f"guidance {scale:g}": Way(args.method, args.steps, scale) for scale in args.scales}
    for scale in args.classifier_scales if bench.classifier else ():
        ways[f"no label, classifier {scale:g}"] = Way(args.method, args.steps, 0, scale)
        ways[f"label, classifier {scale:g}"] = Way(args.method, args.steps, 1, scale)
    for name, way in ways.items():
        x, y, seconds = bench.drawn(way)
        row(name, *bench.court.by_label(x, y), *bench.court.looks(x, y), f"{seconds:.2f}")


def methods_table(bench, args):
    """How to sample where somebody waits."""
    exact = bench.drawn(Way("heun", 50, args.guidance))[0]
    table(
        "method",
        "recognised, % (A / B)",
        "scrambled",
        "diversity",
        "PSNR to heun 50",
        "network calls",
        "seconds a picture",
    )
    for name in METHODS:
        method, steps = name.split()[0], int(name.split()[1])
        x, y, seconds = bench.drawn(Way(method, steps, args.guidance))
        close = "-" if method == "ddpm" else judge.decibels(x, exact)
        calls = (2 * steps - 1 if method == "heun" else steps) * (1 if args.guidance == 1 else 2)
        row(name, bench.court.recognised(x, y), *bench.court.looks(x, y), close, f"{calls}", f"{seconds:.2f}")


# ---------------------------------------------------------------- from one label to another


def translations(bench):
    """The head of a table; and the function that prints a row of it."""
    (source, own), (which, to) = bench.given, bench.pairs

    def changed(name, x, seconds=0.0, back=None):
        shares = (bench.court.recognised(x, y) for y in (to, own[which]))
        returned = "-" if back is None else judge.decibels(back, source)
        row(name, *shares, f"{judge.composition(x, source[which]):.2f}", returned, f"{seconds:.2f}")

    table("way", "new label, % (A / B)", "old label, %", "composition", "to its own label: PSNR", "seconds a picture")
    return changed


def translated(bench, way):
    """DDIB of every picture to every other label; seconds for each; and back to its own label, unguided."""
    (source, own), (which, to) = bench.given, bench.pairs
    z, up = bench.ode(source, own, way, up=True)
    x, down = bench.ode(z[which], to, way)
    return x, up + down, bench.ode(z, own, way._replace(guidance=1.0))[0]


def translate_table(bench, args):
    """DDIB by guidance, beside SDEdit and pictures that have nothing to do with the source."""
    (source, own), (which, to), (real, labels) = bench.given, bench.pairs, bench.court.real
    changed, rng = translations(bench), np.random.default_rng(3)
    changed("the source itself", source[which])
    changed("a real picture of the new label", real[[int(rng.choice(np.flatnonzero(labels == k))) for k in to]])
    for scale in args.scales:
        changed(f"DDIB, guidance {scale:g}", *translated(bench, Way("heun", 40, scale)))
    for strength in (0.5, 0.6, 0.7, 0.8):
        way = Way("sdedit", 30, args.guidance, strength=strength)
        changed(f"SDEdit, strength {strength:g}, guidance {args.guidance:g}", *bench.edited(source[which], to, way))
    way = Way("heun", 40)
    back, _ = bench.ode(bench.ode(translated(bench, way)[0], to, way, up=True)[0], own[which], way)
    print(f"\nTo another label and back to its own, without guidance: {judge.decibels(back, source[which])} dB.")


def settings_table(bench, args):
    """The solver, the clipping and the strength of DDIB."""
    changed, usual = translations(bench), Way("heun", 40, args.guidance)
    ways = {"heun 40": usual, "heun 40, x0 not clipped": usual._replace(clip=False)}
    ways |= {f"{m} {n}": usual._replace(method=m, steps=n) for m, n in (("heun", 20), ("ddim", 80), ("ddim", 40))}
    for scale in (args.guidance, args.guidance + 1):
        part = {
            f"strength {s:g}, guidance {scale:g}": usual._replace(strength=s, guidance=scale) for s in (0.9, 0.8, 0.7)
        }
        ways |= part
    for name, way in ways.items():
        changed(name, *translated(bench, way))


# ---------------------------------------------------------------- pictures


def tile(x, side=128):
    image = Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy())
    return image.resize((side, side), Image.Resampling.NEAREST)


def shown(bench, texts):
    """(pictures (B,3,64,64), labels) of LABEL=FILE@ROW,COLUMN,SIDE; without any, held-out ones of each label."""
    if not texts:
        return [part[:: bench.sources] for part in bench.given]
    found, labels = [], []
    for label, _, rest in (text.partition("=") for text in texts):
        file, _, square = rest.rpartition("@")
        top, left, side = map(int, square.split(","))
        box = (left, top, left + side, top + side)
        part = Image.open(file).convert("RGB").resize((judge.SIDE, judge.SIDE), Image.Resampling.BOX, box)
        found.append(torch.from_numpy(np.array(part)).permute(2, 0, 1) / 255)
        labels.append(bench.prior.labels.index(label))
    return torch.stack(found), torch.tensor(labels)


def sheet(bench, args, columns=8):
    """Samples, a row for each label; then sources, and their translations to every label."""
    count, way = len(bench.prior.labels), Way("heun", 40, args.guidance)
    rows = list(bench.drawn(Way(args.method, args.steps, args.guidance), columns)[0].split(columns))
    source, own = shown(bench, args.show)
    z, _ = bench.ode(source, own, way, up=True)
    moved, _ = bench.ode(z.repeat_interleave(count, 0), torch.arange(count).repeat(len(source)), way)
    rows += [[x, *part] for x, part in zip(source, moved.split(count), strict=True)]
    stacked([side_by_side([tile(x) for x in row], 4) for row in rows], 4).save(args.sheet)


def main():
    tables = {"guidance": guidance_table, "methods": methods_table}
    tables |= {"translate": translate_table, "settings": settings_table}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="the tar of LABEL/NAME pictures that the prior was trained on")
    parser.add_argument("--prior", default="flowers")
    parser.add_argument("--judges", type=Path, default=Path("runs/judges"))
    parser.add_argument("--tables", nargs="+", choices=[*tables, "none"], default=list(tables))
    parser.add_argument("--samples", type=int, default=20, help="of a label")
    parser.add_argument("--sources", type=int, default=8, help="pictures of a label to translate")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="of classifier-free guidance")
    parser.add_argument("--guidance", type=float, default=2.0, help="for all but the guidance tables")
    parser.add_argument("--method", default=tasks.Generate().chosen, choices=tasks.Generate.METHODS)
    parser.add_argument("--steps", type=int, default=tasks.Generate().count)
    parser.add_argument("--classifier", help="the folder of a noisy classifier")
    parser.add_argument("--classifier-scales", type=float, nargs="+", default=(1, 2, 4, 8))
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--show", nargs="+", metavar="LABEL=FILE@ROW,COLUMN,SIDE", default=())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quick", action="store_true", help="few samples, few steps")
    args = parser.parse_args()
    if args.quick:
        args.samples, args.sources, args.steps, args.scales = 4, 1, 5, (1, 2)
    labels, rest, held = judge.read(args.pictures)
    prior, noisy = restore.load_prior(args.prior, device=args.device, dtype=args.dtype), None
    if args.classifier:
        noisy = restore.load_classifier(args.classifier, device=args.device, dtype=args.dtype)
    if prior.labels != labels or (noisy and noisy.labels != labels):
        parser.error(f"the labels of the pictures are {labels}, and not those of the prior or the classifier")
    court = judge.Court(judge.both(args.judges, rest, held, len(labels)), rest, held)
    bench = Bench(prior, court, args.samples, args.sources, noisy)
    for name, show in tables.items():
        if name in args.tables:
            show(bench, args)
    if args.sheet:
        sheet(bench, args)


if __name__ == "__main__":
    main()
