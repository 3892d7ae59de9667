"""The samplers of other toolkits on the problems of posterior.py: optional, and never needed by the project.

pip install --target PEERS --no-deps deepinv==0.5.0 torchvision==0.28.0 einops torchmetrics lightning-utilities \
    natsort h5py matplotlib requests
PYTHONPATH=PEERS python benchmarks/posterior.py ...

Each runner takes (case, calls, seed), like those of posterior.py, and returns samples (B,C,H,W), or None where it does
not apply. deepinv takes no generators for its samplers: torch.manual_seed stands in.
"""

import importlib
import sys
from itertools import pairwise

import torch

from restore.operators import Mask

INSTALL = (
    "pip install --target PEERS --no-deps deepinv==0.5.0 torchvision==0.28.0 einops torchmetrics lightning-utilities "
    "natsort h5py matplotlib requests; then PYTHONPATH=PEERS"
)


def import_deepinv():
    """deepinv, beside a torch without CUDA too, where the registry's torchvision lacks two operators.

    Declaring them is enough for its import; nothing here calls them. Raises ImportError where deepinv is not there."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        import_deepinv.declared = torch.library.Library("torchvision", "DEF")  # lives as long as the declarations
        for name in ("nms", "qnms"):
            import_deepinv.declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("deepinv")


def physics(deepinv, case, sigma):
    """The case's operator as deepinv's, by the same singular value decomposition."""
    op = case.op
    s = op.s.broadcast_to(op.vt(torch.zeros(1, *case.problem.shape)).shape).clone()
    noise = deepinv.physics.GaussianNoise(sigma)
    return deepinv.physics.DecomposablePhysics(
        U=op.u, U_adjoint=op.ut, V=op.v, V_adjoint=op.vt, mask=s, noise_model=noise
    )


class In01(torch.nn.Module):
    """A network of [-1, 1] as one of [0, 1], where deepinv's defaults are at home."""

    def __init__(self, denoise):
        super().__init__()
        self.denoise = denoise

    def forward(self, x, sigma):
        return (self.denoise(2 * x - 1, 2 * sigma) + 1) / 2


def in_01(deepinv, case, sampler):
    """The samples of a sampler that works in [0, 1], where the noise is half as large."""
    y = (case.y + case.op.A(torch.ones(1, *case.problem.shape))) / 2
    return 2 * sampler(y, physics(deepinv, case, case.problem.sigma / 2)) - 1


def deepinv_ddrm(deepinv):
    """DDRM at the levels that ours visits."""

    def run(case, calls, seed):
        torch.manual_seed(seed)
        sigmas = [level.ratio for level in case.schedule.levels(calls)[:-1]]
        sampler = deepinv.sampling.DDRM(case.problem.denoise, sigmas=sigmas)
        return sampler(case.y, physics(deepinv, case, case.problem.sigma))

    return run


def deepinv_ddrm_own(deepinv):
    """DDRM at deepinv's own levels, 1 to 0 in equal steps."""

    def run(case, calls, seed):
        torch.manual_seed(seed)
        sampler = deepinv.sampling.DDRM(In01(case.problem.denoise), sigmas=torch.linspace(1, 0, calls).tolist())
        return in_01(deepinv, case, sampler)

    return run


def deepinv_diffpir(deepinv):
    """DiffPIR with deepinv's defaults."""

    def run(case, calls, seed):
        torch.manual_seed(seed)
        model, fidelity = In01(case.problem.denoise), deepinv.optim.data_fidelity.L2()
        sampler = deepinv.sampling.DiffPIR(model, fidelity, sigma=case.problem.sigma / 2, max_iter=calls)
        return in_01(deepinv, case, sampler)

    return run


def diffusers_repaint(diffusers, jump, resamplings):
    """RePaintScheduler at eta 1; of the trajectories with this time travel the finest that the calls allow.

    Its way up starts one level too high: `undo_step` takes the betas above t for a sample at the level below t. With
    the same travel that mixes the modes somewhat better and puts the mean farther off; on few levels it diverges."""

    def timesteps(scheduler, budget):
        for steps in range(budget, 0, -1):
            if resamplings == 1 or jump < steps:
                scheduler.set_timesteps(steps, steps if resamplings == 1 else jump, resamplings)
                times = scheduler.timesteps.tolist()
                if 1 + sum(b < a for a, b in pairwise(times)) <= budget:
                    return times
        return None

    def run(case, calls, seed):
        if not isinstance(case.op, Mask):
            return None
        rng = torch.Generator().manual_seed(seed)
        scheduler = diffusers.RePaintScheduler(eta=1.0)
        times = timesteps(scheduler, calls)
        if times is None:
            return None
        x = torch.randn(case.y.shape, generator=rng)
        for before, t in zip([len(case.schedule), *times], times, strict=False):
            if t < before:
                x = scheduler.step(case.problem.eps(x, t), t, x, case.y, case.op.s, generator=rng).prev_sample
            else:
                x = scheduler.undo_step(x, before, generator=rng)
        return x

    return run


def available(travels):
    """Name -> runner of every peer that is installed, and a line for each that is not."""
    runners, missing = {}, []
    try:
        deepinv = import_deepinv()
        runners["deepinv ddrm"] = deepinv_ddrm(deepinv)
        runners["deepinv ddrm, own sigmas"] = deepinv_ddrm_own(deepinv)
        runners["deepinv diffpir"] = deepinv_diffpir(deepinv)
    except ImportError as error:
        missing.append(f"deepinv is left out ({error}): {INSTALL}")
    try:
        diffusers = importlib.import_module("diffusers")
        runners |= {f"diffusers repaint {j}x{n}": diffusers_repaint(diffusers, j, n) for j, n in travels}
    except ImportError as error:
        missing.append(f"diffusers is left out ({error}): pip install diffusers")
    return runners, missing
