"""Distance of our samplers from exact posteriors, beside other toolkits' in the same process and by the same seeds.

python benchmarks/posterior.py --posterior PATH/posterior.py            # everything: 5 to 15 minutes on one core
python benchmarks/posterior.py --posterior PATH/posterior.py --quick    # 20 and 50 calls, one seed: half a minute
    ... --problems gmm8-svd-s0 --calls 20 100 --seeds 10 --only ddrm    # what you like

PATH/posterior.py is the exact-posterior benchmark: `problem(name)` gives a Gaussian-mixture prior with a closed-form
network, a linear operator `Amat`, a measurement `y` and its noise `sigma`; `score(problem, samples)` the distances, all
in the problem's own units. Peers that are not installed are left out, with a line that says how to get them: peers.py.

Columns: the median over the seeds, and of sw also the least and the most. sw: sliced Wasserstein-2 distance. mean_err:
of the mean. w_tv: total variation of the mode weights. std_ratio: spread about the modes, 1 is right. resid: root mean
square of A x - y. What does not run here stands there with the sw that was reported of it, one run each.
"""

import argparse
import importlib.util
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import peers
import torch

from restore.algorithms import ddrm, dpir, repaint
from restore.levels import Schedule, between, calls, linear, travel
from restore.operators import Dense, Mask, Operator
from restore.prior import Pred
from restore.steps import last

PROBLEMS = ("gmm80-mask-s0.05", "gmm80-pool-s0.05", "gmm80-svd-s0.05")
CALLS = (20, 50, 100, 250, 1000)
TRAVELS = ((1, 1), (5, 5), (10, 10))
COLUMNS = ("mean_err", "w_tv", "std_ratio", "resid")

# sw at CALLS of runs elsewhere, one each, which chance moves by about .02: for what does not run here. The original
# repositories, deepinv 0.5.0 and diffusers 0.42.1 (eta 1; its time travel was not noted) with torch 2.13.
REPORTED = {
    "gmm80-mask-s0.05": {
        "ddrm, original code": (0.115, 0.097, 0.074, 0.049, 0.025),
        "ddnm+, original code": (0.099, 0.091, 0.066, 0.087, 0.039),
        "pigdm, from the paper": (0.051, 0.077, 0.047, 0.088, 0.065),
        "dps, from the paper": (0.112, 0.095, 0.174, 0.225, 0.259),
        "repaint, diffusers": (0.100, 0.110, 0.106, 0.093, 0.102),
        "deepinv ddrm": (0.109, 0.152, 0.161, 0.135, 0.200),
        "deepinv ddrm, own sigmas": (0.326, None, 0.149, None, 0.209),
        "deepinv diffpir": (0.146, 0.167, 0.154, 0.149, 0.100),
        "deepinv moment matching": (0.064, 0.111, 0.098, 0.118, 0.096),
    },
    "gmm80-pool-s0.05": {
        "ddrm, original code": (0.145, 0.103, 0.136, 0.108, 0.081),
        "ddnm+, original code": (0.153, 0.120, 0.132, 0.076, 0.083),
        "pigdm, from the paper": (0.119, 0.144, 0.161, 0.164, 0.169),
        "dps, from the paper": (0.145, 0.134, 0.176, 0.219, 0.301),
        "deepinv ddrm": (0.194, 0.143, 0.113, 0.124, 0.131),
        "deepinv ddrm, own sigmas": (0.238, None, 0.098, None, 0.173),
        "deepinv diffpir": (0.161, 0.158, 0.162, 0.126, 0.121),
        "deepinv moment matching": (0.152, 0.144, 0.126, 0.111, 0.122),
    },
    "gmm80-svd-s0.05": {
        "ddrm, original code": (0.578, 0.561, 0.548, 0.515, 0.491),
        "ddnm+, original code": (0.578, 0.562, 0.547, 0.520, 0.496),
        "pigdm, from the paper": (0.507, 0.444, 0.384, 0.278, 0.193),
        "dps, from the paper": (0.460, 0.344, 0.196, 0.038, 0.054),
        "deepinv ddrm": (0.542, 0.545, 0.548, 0.548, 0.547),
        "deepinv ddrm, own sigmas": (0.472, None, 0.515, None, 0.558),
        "deepinv diffpir": (0.582, 0.598, 0.600, 0.585, 0.545),
        "deepinv moment matching": (0.093, 0.112, 0.122, 0.113, 0.116),
    },
}


def load(path):
    """The benchmark module at `path`."""
    spec = importlib.util.spec_from_file_location("exact_posterior", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Case:
    """A problem as a sampler meets it: a network, an operator, and one measurement for every sample."""

    bench: object
    problem: object
    schedule: Schedule = field(default_factory=lambda: linear(1000))

    def __post_init__(self):
        problem, count = self.problem, len(self.problem.ref)
        matrix = problem.Amat.float()  # (m,d)
        picks = ((matrix == 0) | (matrix == 1)).all() and (matrix.sum(1) == 1).all() and (matrix.sum(0) <= 1).all()
        self.op: Operator
        if picks:
            self.op = Mask(matrix.sum(0).reshape(problem.shape))
            y = (problem.yf @ matrix).reshape(1, *problem.shape)  # zeros where nothing is measured
        else:
            self.op, y = Dense(matrix, problem.shape), problem.yf[None]
        self.y = y.repeat(count, *(1,) * (y.ndim - 1))

    def denoise(self, x, level):
        """The network at any level, between the table's times too; at these it is `problem.eps`."""
        x0 = self.problem.denoise(x / level.alpha, level.ratio)
        return Pred(x0, (x - level.alpha * x0) / level.sigma)


# ---------------------------------------------------------------- runners: (case, calls, seed) -> samples (B,C,H,W)


def floor(case, budget, seed):
    """The exact posterior, drawn anew: what chance alone leaves of the distances."""
    p, rng = case.problem, torch.Generator().manual_seed(seed)
    k = torch.multinomial(p.post_w, len(p.ref), replacement=True, generator=rng)
    values, axes = torch.linalg.eigh(torch.from_numpy(p.raw["post_cov"]))
    z = torch.randn(len(p.ref), p.d, generator=rng, dtype=torch.float64)
    return (p.post_mu[k] + z * values.clamp(min=0).sqrt() @ axes.T).float().reshape(-1, *p.shape)


def prior(case, budget, seed):
    """The prior, blind to the measurement."""
    p, rng = case.problem, torch.Generator().manual_seed(seed)
    k = torch.multinomial(p.w, len(p.ref), replacement=True, generator=rng)
    x = p.M[k] + p.c0**0.5 * torch.randn(len(p.ref), p.d, generator=rng, dtype=torch.float64)
    x = x + (torch.randn(len(p.ref), p.r, generator=rng, dtype=torch.float64) * p.lr.sqrt()) @ p.Lr.T
    return x.float().reshape(-1, *p.shape)


def oracle(case, budget, seed):
    """DDPM steps with the exact posterior score: the limit for so many steps."""
    torch.manual_seed(seed)
    return case.bench.oracle(case.problem, budget, len(case.problem.ref), 1.0)


def run_ddrm(case, budget, seed, spacing="leading", **options):
    rng = torch.Generator().manual_seed(seed)
    levels = case.schedule.levels(budget, spacing=spacing)
    return last(ddrm(case.denoise, case.op, case.y, case.problem.sigma, levels, rng=rng, **options))


def run_dpir(case, budget, seed):
    """One answer, whatever the seed: as many copies as there are samples."""
    sigma = case.problem.sigma
    levels = between(case.schedule, budget, high=2.0, low=max(sigma, 0.01))
    return last(dpir(case.denoise, case.op, case.y[:1], sigma, levels)).expand(len(case.y), -1, -1, -1)


def run_repaint(case, budget, seed, jump=1, resamplings=1):
    """Of the trajectories with this time travel the finest that the calls allow; the measurement is taken as exact."""
    if not isinstance(case.op, Mask):
        return None
    for steps in range(budget, jump if resamplings > 1 else 0, -1):
        levels = travel(case.schedule.levels(steps), jump, resamplings)
        if calls(levels) <= budget:
            rng = torch.Generator().manual_seed(seed)
            return last(repaint(case.denoise, case.y, case.op.s, levels, rng=rng))
    return None


def run_repaint_most(case, budget, seed):
    """About six levels, each walked as often as the calls allow: what measures best here."""
    return run_repaint(case, budget, seed, 1, max(1, budget // 6))


def runners(travels):
    """Name -> runner, in the order of the table; and what is missing."""
    ours = {
        "floor": floor,
        "prior": prior,
        "oracle": oracle,
        "ddrm": run_ddrm,
        "ddrm, as released": partial(run_ddrm, as_released=True),
        "ddrm, eta 0.95 quadratic": partial(run_ddrm, eta=0.95, spacing="quadratic"),
        "dpir": run_dpir,
        **{f"repaint {j}x{n}": partial(run_repaint, jump=j, resamplings=n) for j, n in travels},
        "repaint 1x(calls/6)": run_repaint_most,
    }
    theirs, missing = peers.available(travels)
    return {**ours, **theirs}, missing


# ---------------------------------------------------------------- the table


def row(name, *cells):
    print(f"| {name:24} | " + " | ".join(cells) + " |", flush=True)


def measure(case, run, budget, seeds):
    """The scores of every seed, with how often the network was asked; none where the sampler does not apply."""
    scores = []
    for seed in seeds:
        case.problem.nfe = 0
        samples = run(case, budget, seed)
        if samples is None:
            break
        scores.append({**case.bench.score(case.problem, samples), "calls": case.problem.nfe})
    return scores


def table(case, methods, args):
    """Print the rows of one problem, and return name -> calls -> median sw."""
    reported, found, blank = REPORTED.get(case.problem.name, {}), {}, [f"{'':9}"] * len(COLUMNS)
    print(f"\n## {case.problem.name}\n")
    row("sampler", f"{'calls':9}", f"{'sw [least-most]':19}", *(f"{column:9}" for column in COLUMNS))
    row("-" * 24, "-" * 9, "-" * 19, *("-" * 9 for _ in COLUMNS))
    for name in [*methods, *(name for name in reported if name not in methods)]:
        if args.only and not any(part in name for part in args.only):
            continue
        free = name in ("floor", "prior")  # they ask no network
        for budget in args.calls[:1] if free else args.calls:
            if name not in methods:
                sw = reported[name][CALLS.index(budget)] if budget in CALLS else None
                if sw is not None:
                    row(name, f"{budget:<9}", f"{f'{sw:.3f} (reported)':19}", *blank)
                    found.setdefault(f"{name} (reported)", {})[budget] = sw
                continue
            scores = measure(case, methods[name], budget, args.seeds)
            if not scores:
                continue
            sw, made = [score["sw"] for score in scores], scores[0]["calls"]
            asked = "-" if free else f"{budget} ({made})" if 0 < made != budget else f"{budget}"
            others = (f"{median(score[column] for score in scores):<9.3f}" for column in COLUMNS)
            row(name, f"{asked:9}", f"{f'{median(sw):.3f} [{min(sw):.3f}-{max(sw):.3f}]':19}", *others)
            found.setdefault(name, {})[budget] = median(sw)
    return found


def summary(problem, samplers, budgets):
    """sw alone, one row a sampler."""
    print(f"\n## {problem}: sw\n")
    print(f"| {'calls':35} | " + " | ".join(f"{budget:<5}" for budget in budgets) + " |")
    print(f"| {'-' * 35} | " + " | ".join("-" * 5 for _ in budgets) + " |")
    for name, values in samplers.items():
        cells = (f"{values[budget]:<5.3f}" if budget in values else f"{'':5}" for budget in budgets)
        print(f"| {name:35} | " + " | ".join(cells) + " |")


def walk(text):
    """(jump, resamplings) of a time travel such as 10x10."""
    jump, _, resamplings = text.partition("x")
    return int(jump), int(resamplings)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posterior", type=Path, required=True, help="the benchmark module, a Python file")
    parser.add_argument("--problems", nargs="+", default=PROBLEMS)
    parser.add_argument("--calls", nargs="+", type=int, default=CALLS, help="numbers of network calls")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--travels", nargs="+", type=walk, default=TRAVELS, help="RePaint's: jump x resamplings")
    parser.add_argument("--only", nargs="+", help="samplers whose names contain one of these")
    parser.add_argument("--quick", action="store_true", help="20 and 50 calls, one seed")
    args = parser.parse_args()
    if args.quick:
        args.calls, args.seeds = (20, 50), 1
    args.seeds = range(args.seed, args.seed + args.seeds)
    bench, found, began = load(args.posterior), {}, time.perf_counter()
    methods, missing = runners(args.travels)
    for line in missing:
        print(line)
    for name in args.problems:
        found[name] = table(Case(bench, bench.problem(name)), methods, args)
    for name, samplers in found.items():
        summary(name, samplers, args.calls)
    print(
        f"\nSeeds {args.seeds.start} to {args.seeds.stop - 1}, {(time.perf_counter() - began) / 60:.0f} minutes. ddrm: "
        "eta 0.85, eta_b 1 and leading levels unless named; deepinv's at the same. repaint: eta 1, jump x resamplings."
    )


if __name__ == "__main__":
    main()
