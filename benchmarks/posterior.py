"""Distance of our samplers from exact posteriors, next to the published numbers of other toolkits.

    python benchmarks/posterior.py --posterior PATH/posterior.py

PATH/posterior.py is the exact-posterior benchmark: `problem(name)` gives a Gaussian-mixture prior with a closed-form
network `eps(x, t)`, a linear operator `Amat`, a measurement `y` and its noise `sigma`; `score(problem, samples)` the
distances. Everything is in the problems' own units.
"""

import argparse
import importlib.util
from pathlib import Path
from statistics import mean

import torch

from restore.algorithms.ddrm import ddrm
from restore.algorithms.repaint import repaint
from restore.levels import calls, linear, travel
from restore.operators import Mask
from restore.prior import Prior
from restore.steps import last

PROBLEMS = ("gmm80-mask-s0.05", "gmm80-mask-s0")
CALLS = (20, 50, 100, 250)
COLUMNS = ("sw", "mean_err", "w_tv", "std_ratio", "resid")
SOURCE = (
    "Peers (sw at the same number of calls, one run each, which chance moves by about .02): the original "
    "bahjat-kawar/ddrm code, deepinv 0.5.0 (VP sigmas), diffusers 0.42.1 (eta 1), torch 2.13; oracle: DDPM steps with "
    "the exact posterior score. Floor of sw: .035; the prior itself: .398."
)
PEERS = {
    "gmm80-mask-s0.05": {
        "ddrm": {
            "original": (0.115, 0.097, 0.074, 0.049),
            "deepinv": (0.109, 0.152, 0.161, 0.135),
            "oracle": (0.069, 0.026, 0.035, 0.042),
        },
        "repaint": {"diffusers": (0.100, 0.110, 0.106, 0.093), "oracle": (0.069, 0.026, 0.035, 0.042)},
    }
}


def load(path):
    """The benchmark module at `path`."""
    spec = importlib.util.spec_from_file_location("posterior", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def image(problem, values):
    """Measured values (m,) at their pixels, zeros elsewhere: (1,C,H,W); only for operators that select pixels."""
    return (values.double() @ problem.Amat).float().reshape(1, *problem.shape)


def longest_travel(schedule, budget, jump, resamplings):
    """The finest trajectory with this time travel that costs at most `budget` network calls."""
    walks = (travel(schedule.levels(n), jump, resamplings) for n in range(budget, 0, -1))
    return next(walk for walk in walks if calls(walk) <= budget)


def run_ddrm(prior, problem, budget, args, rng):
    y = image(problem, problem.y).expand(len(problem.ref), -1, -1, -1)
    known = Mask(image(problem, torch.ones(len(problem.y))))
    return last(ddrm(prior, known, y, problem.sigma, prior.levels(budget), rng=rng))


def run_repaint(prior, problem, budget, args, rng):
    known = image(problem, problem.y).expand(len(problem.ref), -1, -1, -1)
    mask = image(problem, torch.ones(len(problem.y)))
    levels = longest_travel(prior.schedule, budget, args.jump, args.resamplings)
    return last(repaint(prior, known, mask, levels, rng=rng))


METHODS = {"ddrm": run_ddrm, "repaint": run_repaint}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--posterior", type=Path, required=True, help="the benchmark module, a Python file")
    parser.add_argument("--problems", nargs="+", default=PROBLEMS)
    parser.add_argument("--calls", nargs="+", type=int, default=CALLS, help="numbers of network calls")
    parser.add_argument("--repeats", type=int, default=1, help="average the scores of so many seeds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jump", type=int, default=1, help="levels that RePaint's time travel goes up")
    parser.add_argument("--resamplings", type=int, default=4, help="how often RePaint walks each stretch")
    args = parser.parse_args()
    bench = load(args.posterior)
    print(f"| problem | method | calls | {' | '.join(COLUMNS)} | peers' sw |\n|{'---|' * (len(COLUMNS) + 4)}")
    for name in args.problems:
        problem = bench.problem(name)
        prior = Prior(problem.eps, predicts="eps", schedule=linear(1000), channels=problem.shape[0])
        for method, run in METHODS.items():
            peers = PEERS.get(name, {}).get(method, {})
            for budget in args.calls:
                scores = []
                for seed in range(args.seed, args.seed + args.repeats):
                    rng = torch.Generator().manual_seed(seed)
                    scores.append(bench.score(problem, run(prior, problem, budget, args, rng)))
                ours = " | ".join(f"{mean(score[column] for score in scores):.3f}" for column in COLUMNS)
                theirs = [f"{who} {v[CALLS.index(budget)]:.3f}" for who, v in peers.items() if budget in CALLS]
                print(f"| {name} | {method} | {budget} | {ours} | {', '.join(theirs)} |", flush=True)
    print(f"\nddrm: eta 0.85, eta_b 1. repaint: eta 1, jump {args.jump}, {args.resamplings} resamplings. {SOURCE}")


if __name__ == "__main__":
    main()
