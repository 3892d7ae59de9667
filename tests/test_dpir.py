"""DPIR: half-quadratic splitting against its closed form on Gaussian priors."""

import pytest
import torch
from conftest import Gaussian

from restore.algorithms import dpir
from restore.levels import Karras, Level, linear
from restore.operators import Mask
from restore.prior import Pred
from restore.steps import last


def conditional_mean(prior, known, values, variance):
    """E[x0 | known pixels] for a Gaussian prior (flattened), their noise of this variance."""
    k = known.nonzero()[:, 0]
    cov = prior.cov[k][:, k] + variance * torch.eye(len(k), dtype=prior.cov.dtype)
    return prior.mean + prior.cov[:, k] @ torch.linalg.solve(cov, values - prior.mean[k])


@pytest.mark.parametrize("noise_std", [0.0, 0.1])
def test_fixed_point_is_the_conditional_mean(correlated, noise_std):
    """Held at one sigma with weight 1, the iteration solves |Ax - y|^2 / (2 noise^2) = log p_sigma(x) + const.

    p_sigma is N(mean, C + sigma^2 I), so the answer is its conditional mean."""
    g, sigma = torch.Generator().manual_seed(0), 0.2
    known = torch.rand(16, generator=g) < 0.5
    y = torch.randn(16, generator=g, dtype=torch.float64) * known
    op = Mask(known.double().reshape(1, 4, 4))
    levels = [Level(0, 1.0, sigma)] * 4000
    got = last(dpir(correlated, op, y.reshape(1, 1, 4, 4), noise_std, levels, weight=1.0))[0].flatten()
    smooth = Gaussian(correlated.mean, correlated.cov + sigma**2 * torch.eye(16).double(), correlated.shape)
    assert (got - conditional_mean(smooth, known, y[known], noise_std**2)).abs().max() < 1e-8
    assert noise_std or torch.equal(got[known], y[known])


def test_data_step_is_the_minimiser():
    """Equation 6a on a diagonal operator: its gradient vanishes."""
    z, y = torch.randn(1, 1, 4, 4, dtype=torch.float64), torch.randn(1, 1, 4, 4, dtype=torch.float64)
    op = Mask((torch.rand(1, 4, 4) < 0.6).double())
    sigma, noise, weight = 0.3, 0.2, 0.23
    levels = [Level(0, 1.0, 0.5), Level(0, 1.0, sigma)]
    x = last(dpir(lambda x, level: Pred(z, z), op, y, noise, levels, weight=weight, start=z))
    slope = op.adjoint(op.A(x) - op.A(y)) / noise**2 + weight / sigma**2 * (x - z)
    assert slope.abs().max() < 1e-10


def test_noise_free_data_are_met_exactly_on_any_schedule(correlated):
    y = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    known = torch.rand(3, 1, 4, 4) < 0.5
    for schedule in (linear(), Karras()):
        x = last(dpir(correlated, Mask(known.double()), y, 0.0, schedule.levels(8)))
        assert torch.equal(x[known], y[known])


def test_denoising_ends_near_the_optimum():
    """A = 1, one call at the noise's own level: the answer is the posterior mean of a Gaussian prior."""
    prior = Gaussian(torch.zeros(16).double(), torch.diag(torch.linspace(0.1, 1, 16)).double(), (1, 4, 4))
    y = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    clean = Level(0, 1.0, 0.0)
    x = last(dpir(prior, Mask(torch.ones(4, 4).double()), y, 0.3, [Level(0, 1.0, 0.3), clean], start=y))
    shrunk = (y.flatten() * prior.cov.diagonal() / (prior.cov.diagonal() + 0.09)).reshape(y.shape)
    assert (x - shrunk).abs().max() < 1e-10
