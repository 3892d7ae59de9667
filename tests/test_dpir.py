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


def held(prior, noise_std, calls, sigma=0.2, **options):
    """(the answer after so many calls at one sigma with weight 1, its limit, the known pixels, their values).

    The iteration solves |Ax - y|^2 / (2 noise^2) = log p_sigma(x) + const. p_sigma is N(mean, C + sigma^2 I), so its
    limit is the conditional mean of that."""
    g = torch.Generator().manual_seed(0)
    known = torch.rand(16, generator=g) < 0.5
    y = torch.randn(16, generator=g, dtype=torch.float64) * known
    op, levels = Mask(known.double().reshape(1, 4, 4)), [Level(0, 1.0, sigma)] * calls
    got = last(dpir(prior, op, y.reshape(1, 1, 4, 4), noise_std, levels, weight=1.0, **options))[0].flatten()
    smooth = Gaussian(prior.mean, prior.cov + sigma**2 * torch.eye(16).double(), prior.shape)
    return got, conditional_mean(smooth, known, y[known], noise_std**2), known, y


@pytest.mark.parametrize("noise_std", [0.0, 0.1])
def test_fixed_point_is_the_conditional_mean(correlated, noise_std):
    got, limit, known, y = held(correlated, noise_std, 4000)
    assert (got - limit).abs().max() < 1e-8
    assert noise_std or torch.equal(got[known], y[known])


def test_over_relaxation_has_the_same_limit_and_is_there_in_fewer_calls(correlated):
    """A mode whose distance shrinks by 1 - g a call shrinks by 1 - 1.75 g: about 1.75 times as fast for a small g."""
    errors = {}
    for relaxation, calls in ((1.0, 8), (1.0, 14), (1.75, 8), (1.75, 4000)):
        got, limit, known, y = held(correlated, 0.0, calls, relaxation=relaxation)
        errors[relaxation, calls] = (got - limit).abs().max().item()
        assert torch.equal(got[known], y[known])
    assert errors[1.75, 4000] < 1e-8
    assert errors[1.75, 8] < 0.2 * errors[1.0, 8]
    assert errors[1.75, 8] == pytest.approx(errors[1.0, 14], rel=0.5)


def test_the_last_word_is_the_denoisers():
    """Over-relaxation amplifies what the denoiser takes away; at the clean end nothing is left to smooth it."""
    z, y = torch.randn(1, 1, 4, 4, dtype=torch.float64), torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    known = torch.zeros(1, 4, 4).double()
    for level, expected in ((Level(0, 1.0, 0.0), z), (Level(0, 1.0, 0.1), 1.75 * z)):
        levels = [Level(0, 1.0, 0.5), level]
        found = last(dpir(lambda x, level: Pred(z, z), Mask(known), y, 0.0, levels, start=y, relaxation=1.75))
        assert (found - expected).abs().max() < 1e-12


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
