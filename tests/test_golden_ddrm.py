"""The released DDRM's own numbers: its operators, and its chains replayed with their noise."""

import pytest
import torch
from conftest import golden

from restore.algorithms.ddrm import ddrm
from restore.levels import linear
from restore.operators import Kron, Mask, downscale

TOL = 2e-5
SIDE, VALUES = 16, 3 * 16 * 16


def as_image(flat):
    """(B,768) of the original's inpainting, which counts channels fastest, as (B,3,16,16)."""
    return flat.reshape(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2)


def scattered(index, values):
    """(B,768) that holds values (B,k) at the indices (k,), else 0."""
    return torch.zeros(len(values), VALUES).index_copy_(1, index, values)


def problem(name, tensors):
    """Our operator, and how a measurement of the original's (B,m) looks for it."""
    if name == "inp":
        kept = tensors["op.kept_indices"]
        known = as_image(scattered(kept, torch.ones(1, len(kept))))
        return Mask(known), lambda y: as_image(scattered(kept, y))
    if name == "deno":
        return Mask(torch.ones(SIDE, SIDE)), lambda y: y.reshape(-1, 3, SIDE, SIDE)
    if name == "color":  # not the luma: nearly equal weights
        return Kron(torch.tensor([[0.3333, 0.3334, 0.3333]])), lambda y: y.reshape(-1, 1, SIDE, SIDE)
    return downscale(4, (SIDE, SIDE), "average"), lambda y: y.reshape(-1, 3, SIDE // 4, SIDE // 4)


@pytest.mark.parametrize("name", ["inp", "color", "sr4"])
def test_operators(name):
    """Maps and singular values; bases may differ by a rotation."""
    tensors, _ = golden(f"ddrm/op_{name}")
    x, (op, ours) = tensors["x0"], problem(name, tensors)
    assert (op.A(x) - ours(tensors["H_x0"])).abs().max() < 1e-6
    assert (op.adjoint(ours(tensors["u"])).flatten(1) - tensors["Ht_u"]).abs().max() < 1e-6
    assert (op.pinv(op.A(x)).flatten(1) - tensors["Hpinv_H_x0_raw"]).abs().max() < 1e-6
    s = op.s.expand(op.vt(x).shape)[0]
    assert (s[s > 0].sort().values - tensors["singulars"].sort().values).abs().max() < 1e-6
    assert int((s == 0).sum()) == VALUES - len(tensors["singulars"])


def original_v(name, tensors, z):
    """V z of the original, measured coefficients first: (B,768) -> (B,3,16,16)."""
    if name == "inp":
        return as_image(scattered(torch.cat([tensors["op.kept_indices"], tensors["op.missing_indices"]]), z))
    if name == "deno":
        return z.reshape(-1, 3, SIDE, SIDE)
    m = SIDE // 4  # each 4x4 patch: its measured coefficient, then the 15 others
    patches = torch.cat([z[:, : 3 * m * m, None], z[:, 3 * m * m :].reshape(-1, 3 * m * m, 15)], 2)
    patches = (patches @ tensors["op.V_small"].T).reshape(-1, 3, m, m, 4, 4)
    return patches.permute(0, 1, 2, 4, 3, 5).reshape(-1, 3, SIDE, SIDE)


RUNS = ["run_inp_s0.1", "run_deno_s0.1", "run_sr4_s0.0", "run_sr4_s0.1"]


@pytest.fixture(params=RUNS)
def run(request):
    """(op, y, noise_std, levels, from the original's coefficients to ours, tensors) of one run."""
    name = request.param.split("_")[1]
    tensors, facts = golden(f"ddrm/{request.param}")
    op, ours = problem(name, tensors)
    levels = linear(1000).levels(facts["steps"])
    assert [int(level.t) for level in levels[:-1]] == sorted(tensors["seq"].tolist(), reverse=True)
    return op, ours(tensors["y_0"]), facts["sigma_0"], levels, lambda z: op.vt(original_v(name, tensors, z)), tensors


def test_chains_as_released(run, gaussian_prior, replay):
    """Element-wise in the spectral basis, so that noise turns from one basis into another with it."""
    op, y, sigma, levels, turned, tensors = run
    s = tensors["singulars"]
    noise = []
    for i, level in enumerate(levels[1:-1]):
        after = tensors.get(f"noise_A.{i}")
        seen = tensors["noise_B"][i] if level.ratio * s[0] > sigma or after is None else after
        noise.append(turned(torch.cat([seen, tensors["noise_C"][i][:, len(s) :]], 1)))
    left = replay(noise)
    states = ddrm(gaussian_prior, op, y, sigma, levels, x=tensors["xs"][0], as_released=True)
    for state, expected in zip(states, tensors["xs"][1:], strict=True):
        assert (state.x - expected).abs().max() < TOL
    assert not left


def test_start_as_released(run, gaussian_prior, replay):
    """x_T of the released code; the paper's (eq. 7) is sigma_T times as large before the scaling by alpha_T."""
    op, y, sigma, levels, turned, tensors = run
    init = turned(tensors["init_noise"].reshape(len(y), -1))
    seen = []

    def spy(x, level):
        seen.append(x)
        return gaussian_prior(x, level)

    for released in (True, False):
        replay([init, init])
        next(ddrm(spy, op, y, sigma, levels, as_released=released))
    assert (seen[0] - tensors["xs"][0]).abs().max() < TOL
    assert (seen[1] / levels[0].sigma - tensors["xs"][0]).abs().max() < TOL
