"""Guidance in sampling: a mixture of two classes, whose noisy classifier and conditionals are known exactly."""

from itertools import pairwise

import pytest
import torch
from conftest import Mixture, normal, seeded

from restore.algorithms import ddib, ddrm, dpir, ilvr, low_pass, repaint, sdedit
from restore.classifier import Classifier
from restore.levels import CLEAN, Flow, Karras, cosine, linear, travel
from restore.operators import Mask
from restore.steps import ancestral, ddim, heun, large, last, once, posterior_mean, sample, small
from restore.wrappers import classifier_free, classifier_guided, gradient

TABLE = linear()
SCHEDULES = {"vp": TABLE, "ve": Karras(), "flow": Flow()}
MEANS = torch.tensor([[0.8, -0.3, 0.2, 0.5], [-0.6, 0.4, 0.1, -0.5]]).double().reshape(2, 1, 2, 2)
WEIGHTS, STD = torch.tensor([0.3, 0.7]).double(), 0.25
BOTH = Mixture(WEIGHTS, MEANS, torch.tensor([STD**2, STD**2]).double())


def only(which):
    """The prior of one class, N(mean, STD^2)."""
    return Mixture(torch.ones(1).double(), MEANS[which : which + 1], torch.tensor([STD**2]).double())


def log_prob(which):
    """log p(class | x_t), exact: both classes are Gaussians of one variance about alpha * mean."""

    def log_p(x, level):
        gap = (x[:, None] - level.alpha * MEANS).pow(2).sum((2, 3, 4))
        total = level.alpha**2 * STD**2 + level.sigma**2
        return (WEIGHTS.log() - gap / (2 * total)).log_softmax(1)[:, which]

    return log_p


def guided(which, scale=1.0):
    return classifier_guided(BOTH, log_prob(which), scale)


def of_table(table):
    """The same as a Classifier: a network of x and t, on a table of its own."""

    def net(x, t):
        return torch.stack([log_prob(which)(x, table.at(float(t[0]))) for which in (0, 1)], 1)

    return Classifier(net, schedule=table, labels=["first", "second"])


def fine(name="vp", steps=60):
    """Ratios from 80 to 0.01, then CLEAN."""
    return [*(SCHEDULES[name].at_ratio(level.sigma) for level in Karras(0.01, 80.0).levels(steps)[:-1]), CLEAN]


def assert_samples(x, which, std):
    """x (B,1,2,2) are draws of one class: their moments, and none in the other class."""
    x = x.flatten(1)
    own, other = ((x - MEANS[i].flatten()).pow(2).sum(1) for i in (which, 1 - which))
    assert (own < other).double().mean() > 0.998
    assert (x.mean(0) - MEANS[which].flatten()).abs().max() < 0.02
    assert (x.std(0) / STD - 1).abs().max() < std
    assert x.T.cov().fill_diagonal_(0).abs().max() < std * STD**2 * 2


# --- what the guided network says ---


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_guided_prior_is_the_conditional_at_every_level(name, which):
    """eps - sigma grad log p(c | x) = -sigma grad log p(x | c): Bayes."""
    levels = SCHEDULES[name].levels(100)[:-1]
    for level in levels[1:] if not levels[0].alpha else levels:
        x = level.alpha * MEANS[which] + (level.alpha * STD + level.sigma) * normal(16, 1, 2, 2)
        x = x + level.alpha * (MEANS[1 - which] - MEANS[which]) * torch.linspace(0, 1, 16).reshape(-1, 1, 1, 1)
        found, expected = guided(which)(x, level), only(which)(x, level)
        assert (found.eps - expected.eps).abs().max() < 1e-10
        assert (found.x0 - expected.x0).abs().max() < 1e-10 * max(1, level.ratio)


@pytest.mark.parametrize("table", [cosine(), cosine(300), linear(), linear(60)], ids=["cosine", "300", "linear", "60"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_classifier_of_another_table_makes_the_conditional_too(name, table):
    """Between the ends of its table; times reach a network as float32."""
    classifier, levels = of_table(table), SCHEDULES[name].levels(50)[:-1]
    for which, label in enumerate(classifier.labels):
        denoise = classifier_guided(BOTH, classifier.log_prob(label))
        for level in (level for level in levels if table.at(0).ratio < level.ratio < table.top().ratio):
            x = level.alpha * MEANS.mean(0) + (level.alpha * STD + level.sigma) * normal(16, 1, 2, 2)
            found, expected = denoise(x, level), only(which)(x, level)
            assert (found.eps - expected.eps).abs().max() < 1e-5
            assert (found.x0 - expected.x0).abs().max() < 1e-5 * max(1, level.ratio)


def test_a_larger_scale_sharpens_the_class():
    """p(x) p(c|x)^s: the gradient of the classifier counts s times."""
    x, level = normal(8, 1, 2, 2), TABLE.at(400)
    plain, once_, thrice = BOTH(x, level).eps, guided(0)(x, level).eps, guided(0, 3.0)(x, level).eps
    assert (thrice - plain - 3 * (once_ - plain)).abs().max() < 1e-12


def test_classifier_free_guidance_is_classifier_guidance_by_the_implied_classifier():
    """Ho and Salimans 2022, section 3.2: grad log p(c | x) is the difference of the two scores."""
    for level in TABLE.levels(10)[:-1]:
        x = normal(8, 1, 2, 2)
        for scale in (0.0, 1.0, 2.5, 7.0):
            free, by = classifier_free(only(0), BOTH, scale)(x, level), guided(0, scale)(x, level)
            assert (free.eps - by.eps).abs().max() < 1e-10
            assert (free.x0 - by.x0).abs().max() < 1e-10 * max(1, level.ratio)


NET = [normal(4, 8, seed=5).requires_grad_(), normal(8, 3, seed=6).requires_grad_()]
LOG_PROBS = {
    "exact": log_prob(1),
    "linear": lambda x, level: (x * MEANS[0]).sum((1, 2, 3)),
    "similarity": lambda x, level: 5 * torch.cosine_similarity(x.flatten(1), MEANS[1].flatten()[None]),
    "network": lambda x, level: ((x.flatten(1) @ NET[0] + level.sigma).tanh() @ NET[1]).log_softmax(1)[:, 2],
}


@pytest.mark.parametrize("name", LOG_PROBS)
def test_any_differentiable_log_probability(name):
    """Its gradient by central differences, each image of the batch by itself."""
    x, level, step = normal(3, 1, 2, 2), TABLE.at(300), 1e-5
    units = step * torch.eye(4).double().reshape(4, 1, 1, 2, 2)
    with torch.no_grad():
        slopes = [(LOG_PROBS[name](x + u, level) - LOG_PROBS[name](x - u, level)) / (2 * step) for u in units]
    pred = classifier_guided(BOTH, LOG_PROBS[name], 2.0)(x, level)
    expected = BOTH(x, level).eps - 2 * level.sigma * torch.stack(slopes, 1).reshape(x.shape)
    assert (pred.eps - expected).abs().max() < 1e-7
    assert not any(part.requires_grad for part in pred[:2])
    assert all(weight.grad is None for weight in NET)


# --- samples ---


def begun(count=3000):
    return fine()[0].sigma * normal(count, 1, 2, 2)


def test_without_guidance_both_classes_come():
    x = last(sample(BOTH, begun(), fine()))
    first = ((x - MEANS[0]).flatten(1).norm(dim=1) < (x - MEANS[1]).flatten(1).norm(dim=1)).double().mean()
    assert abs(float(first) - 0.3) < 0.03


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("move", [heun, once(ddim), "sde"], ids=["heun", "ddim", "sde"])
def test_classifier_guidance_samples_the_class(which, move):
    levels, std = fine(steps=40 if move is heun else 150), 0.1 if move == "sde" else 0.05
    move = once(ddim, eta=1.0, rng=seeded(1)) if move == "sde" else move
    assert_samples(last(sample(guided(which), begun(), levels, move=move)), which, std)


@pytest.mark.parametrize("which", [0, 1])
def test_a_classifier_of_another_table_samples_the_class(which):
    """The prior on linear betas, the classifier on the cosine table."""
    denoise = classifier_guided(BOTH, of_table(cosine()).log_prob(which))
    assert_samples(last(sample(denoise, begun(), fine(steps=40), move=heun)), which, 0.05)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("variance", [small, large])
def test_the_mean_shift_samples_the_class(which, variance):
    move = once(ancestral, variance=variance, shift=gradient(log_prob(which)), rng=seeded(1))
    assert_samples(last(sample(BOTH, begun(), fine(steps=150), move=move)), which, std=0.1)


@pytest.mark.parametrize("variance", [small, large])
def test_the_two_forms_differ_by_a_factor(variance):
    """The mean moves by variance * gradient; with eps guided by (alpha_s / alpha_t) large * gradient."""
    for now, then in pairwise(TABLE.levels(20)):
        x = now.alpha * MEANS.mean(0) + normal(8, 1, 2, 2)
        pred, grad = BOTH(x, now), gradient(log_prob(0))
        moved, unmoved = (
            ancestral(x, pred, now, then, variance=variance, shift=shift, rng=seeded()) for shift in (grad, None)
        )
        assert (moved - unmoved - variance(now, then) * grad(x, now)).abs().max() < 1e-12
        other = posterior_mean(x, guided(0)(x, now), now, then) - posterior_mean(x, pred, now, then)
        assert (other - then.alpha / now.alpha * large(now, then) * grad(x, now)).abs().max() < 1e-10


def test_classifier_free_guidance_samples():
    """At scale 1 it is the conditional, at 0 the unconditional prior, bit by bit."""
    x, levels = begun(100), fine(steps=20)
    for scale, expected in ((1.0, only(0)), (0.0, BOTH)):
        found = sample(classifier_free(only(0), BOTH, scale), x, levels)
        for a, b in zip(found, sample(expected, x, levels), strict=True):
            assert torch.equal(a.x, b.x)


def test_more_guidance_goes_further_from_the_other_class():
    """Along the line between the means."""
    line = (MEANS[0] - MEANS[1]).flatten()
    line, levels = line / line.norm(), fine(steps=60)
    found = [last(sample(guided(0, scale), begun(1000), levels)).flatten(1) @ line for scale in (1.0, 3.0, 10.0)]
    assert found[0].mean() < found[1].mean() < found[2].mean()
    assert found[1].min() > found[0].min()


# --- with every algorithm ---

Y = normal(4, 1, 2, 2, seed=7) / 2
SEEN = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()
LEVELS = TABLE.levels(12)
CHAINS = {
    "ddrm": lambda d, rng: ddrm(d, Mask(SEEN), SEEN * Y, 0.1, LEVELS, rng=rng),
    "dpir": lambda d, rng: dpir(d, Mask(SEEN), SEEN * Y, 0.1, LEVELS),
    "repaint": lambda d, rng: repaint(d, Y, SEEN, travel(LEVELS, 3, 2), rng=rng),
    "ilvr": lambda d, rng: ilvr(d, Y, low_pass(2), LEVELS, rng=rng),
    "sdedit": lambda d, rng: sdedit(d, Y, TABLE.levels(12, 0.5), mask=SEEN, repeats=2, rng=rng),
    "ddib": lambda d, rng: ddib(only(1), d, Y, LEVELS[-2::-1], LEVELS),
    "ddib source": lambda d, rng: ddib(d, only(1), Y, LEVELS[-2::-1], LEVELS),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("free", [False, True], ids=["classifier", "free"])
def test_a_guided_run_is_the_run_of_the_conditional(name, free):
    """State by state, with the same noise; without guidance it is another run."""
    guide = classifier_free(only(0), BOTH, 1.0) if free else guided(0)
    found, expected, plain = (list(CHAINS[name](denoise, seeded())) for denoise in (guide, only(0), BOTH))
    for a, b in zip(found, expected, strict=True):
        assert (a.x - b.x).abs().max() < 1e-9
        assert (a.x0 - b.x0).abs().max() < 1e-9 * max(1, LEVELS[0].ratio)
        assert a.level == b.level
        assert not a.x.requires_grad
    assert (found[-1].x - plain[-1].x).abs().max() > 1e-2


def test_guidance_in_ddrm_looks_at_the_state_of_the_step():
    """The released code evaluates it at the initial noise for ever."""
    shown = []

    def spy(x, level):
        shown.append((x.detach().clone(), level))
        return log_prob(0)(x, level)

    x = LEVELS[0].sigma * normal(4, 1, 2, 2, seed=9)
    chain = ddrm(classifier_guided(BOTH, spy), Mask(SEEN), SEEN * Y, 0.1, LEVELS, x=x, rng=seeded())
    states = [x, *(state.x for state in chain)]
    assert [level for _, level in shown] == LEVELS[:-1]
    assert all(torch.equal(seen, state) for (seen, _), state in zip(shown, states, strict=False))
    assert all(not torch.equal(a, b) for (a, _), (b, _) in pairwise(shown))


@pytest.mark.parametrize("which", [0, 1])
def test_guided_inpainting_is_that_of_the_class(which):
    """Noise-free DDRM: of one class the pixels are independent, and what is unknown is that class's."""
    y = (SEEN * MEANS.mean(0)).expand(2000, -1, -1, -1)
    x = last(ddrm(guided(which), Mask(SEEN), y, 0.0, fine(steps=60), rng=seeded()))
    hidden = SEEN == 0
    assert torch.equal(x[..., ~hidden], y[..., ~hidden])
    assert (x[..., hidden].mean(0) - MEANS[which][..., hidden]).abs().max() < 0.03
    assert (x[..., hidden].std(0) / STD - 1).abs().max() < 0.2
