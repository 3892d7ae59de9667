"""Exact moments of a chain that is affine in its noise: on Gaussian priors no sampling error is left."""

import math
from unittest import mock

import torch
from conftest import Gaussian


def pushed(chain, shape=(1, 4, 4)):
    """Mean (d,) and covariance (d,d) of chain(n) -> (n,*shape), where n images are made at once.

    Image 0 gets no noise at all; every other one gets a single unit in one value of one draw: a column of the root."""
    size, drawn = math.prod(shape), []

    def count(like, **kwargs):
        drawn.append(like)
        return torch.zeros(like, dtype=kwargs["dtype"])

    with mock.patch.object(torch, "randn", count):
        chain(1)
    units = torch.eye(len(drawn) * size, dtype=torch.float64).reshape(len(drawn) * size, len(drawn), *shape)
    draws = torch.cat([torch.zeros_like(units[:1]), units]).unbind(1)
    with mock.patch.object(torch, "randn", side_effect=draws):
        out = chain(1 + len(units)).reshape(-1, size)
    columns = out[1:] - out[0]
    return out[0], columns.T @ columns


def spectral(prior, values):
    """f(C) of a prior's covariance, (d,d): `values` (d,) in the place of its eigenvalues."""
    return prior.vectors @ torch.diag(values) @ prior.vectors.T


def recoloured(prior, mean, values):
    """A Gaussian with the eigenvectors of another, in the same order, so that the two covariances commute."""
    other = Gaussian(mean, spectral(prior, values), prior.shape)
    other.values, other.vectors = values, prior.vectors
    return other
