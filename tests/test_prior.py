"""Every parameterisation says the same of a Gaussian; outputs, labels, clipping, precision."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import closed_form, normal
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn

from restore.errors import InputError
from restore.levels import CLEAN, Flow, Karras, Level, linear
from restore.prior import PREDICTS, Prior, coefficients

MEAN, VAR = 0.2, 0.25
SCHEDULES = {"vp": linear(), "ve": Karras(), "flow": Flow()}


def exact(x, level):
    """E[x0 | x] and E[z | x] for x0 ~ N(0.2, 0.25): the two regressions of a Gaussian, written out apart."""
    total = level.alpha**2 * VAR + level.sigma**2
    gap = (x - level.alpha * MEAN) / total
    return MEAN + level.alpha * VAR * gap, level.sigma * gap


# what each kind of network is trained to say, from its paper
SAYS = {
    "eps": lambda x, level: exact(x, level)[1],
    "x0": lambda x, level: exact(x, level)[0],
    "v": lambda x, level: level.alpha * exact(x, level)[1] - level.sigma * exact(x, level)[0],
    "flow": lambda x, level: exact(x, level)[1] - exact(x, level)[0],
    "score": lambda x, level: -(x - level.alpha * MEAN) / (level.alpha**2 * VAR + level.sigma**2),
}


def gaussian_of(predicts, level, schedule):
    return Prior(lambda x, t: SAYS[predicts](x, level), predicts=predicts, schedule=schedule)


def test_every_prediction_is_tested():
    assert set(SAYS) == set(PREDICTS)


@pytest.mark.parametrize("predicts", SAYS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_parameterisations_agree(predicts, name):
    x = normal(2, 3, 4, 4)
    for level in SCHEDULES[name].levels(7)[:-1]:
        if name == "flow" and level.alpha == 0 and predicts in ("eps", "score"):
            continue  # they say nothing there
        pred = gaussian_of(predicts, level, SCHEDULES[name])(x, level)
        x0, eps = exact(x, level)
        loss = 1e-10 * max(1.0, level.ratio if predicts in ("eps", "score") else 1 / level.ratio)  # of a tiny divisor
        assert (pred.x0 - x0).abs().max() < loss
        assert (pred.eps - eps).abs().max() < loss
        assert (level.alpha * pred.x0 + level.sigma * pred.eps - x).abs().max() < 1e-10 * (1 + level.sigma)
        assert pred.frac is None


@pytest.mark.parametrize("predicts", SAYS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_parameterisations_agree_in_training(predicts, name):
    """A level of its own for each image of the batch."""
    schedule = SCHEDULES[name]
    times = torch.tensor([1.0, 20.0, 60.0] if name == "ve" else [20.0, 300.0, 900.0])
    alpha, sigma = (part.double() for part in schedule.at(times)[1:])
    x, level = normal(3, 2, 4, 4), Level(times, alpha, sigma)
    pred = gaussian_of(predicts, level, schedule)(x, level)
    for i in range(3):
        x0, eps = exact(x[i], Level(float(times[i]), float(alpha[i]), float(sigma[i])))
        assert (pred.x0[i] - x0).abs().max() < 1e-10
        assert (pred.eps[i] - eps).abs().max() < 1e-10


@pytest.mark.parametrize("predicts", ["eps", "score"])
def test_nothing_can_be_said_without_signal(predicts):
    level = Flow().levels(4)[0]
    with pytest.raises(InputError, match="alpha=0"):
        gaussian_of(predicts, level, Flow())(normal(1, 1, 2, 2), level)
    with pytest.raises(InputError, match="sigma=0"):
        gaussian_of("x0", CLEAN, Flow())(normal(1, 1, 2, 2), CLEAN)


def test_training_target_of_v_is_that_of_diffusers():
    x0, eps, t = normal(3, 1, 4, 4).float(), normal(3, 1, 4, 4, seed=1).float(), torch.tensor([3, 500, 999])
    p, q = coefficients("v", linear().at(t))
    assert (p * x0 + q * eps - DDPMScheduler().get_velocity(x0, eps, t)).abs().max() < 1e-5


def test_training_target_of_flow_is_the_velocity():
    """d/ds of (1-s) x0 + s z."""
    x0, z, flow = normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1), Flow()
    here, there = ((at.alpha * x0 + at.sigma * z) for at in (flow.at(400.0), flow.at(401.0)))
    p, q = coefficients("flow", flow.at(400.0))
    assert (p * x0 + q * z - (there - here) * 1000).abs().max() < 1e-9


def test_learned_variance_is_split_off(gaussian_prior, learned_prior):
    x, level = normal(2, 3, 4, 4), linear().at(400)
    plain, pred = gaussian_prior(x, level), learned_prior(x, level)
    assert torch.equal(pred.frac, x.sin())
    assert torch.equal(pred.x0, plain.x0)
    assert torch.equal(pred.eps, plain.eps)


@pytest.mark.parametrize("wrap", [lambda out: SimpleNamespace(sample=out), lambda out: (out,), lambda out: (out, None)])
def test_outputs_of_diffusers(wrap, gaussian_prior):
    x, level = normal(2, 3, 4, 4), linear().at(400)
    wrapped = Prior(lambda x, t: wrap(closed_form(x, t)), schedule=linear())
    assert torch.equal(wrapped(x, level).x0, gaussian_prior(x, level).x0)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=3,
    ).eval()


@torch.no_grad()
def test_a_unet_with_classes(unet):
    prior = Prior(unet, schedule=linear(), labels=3)
    x, level = normal(2, 3, 8, 8).float(), linear().at(400)
    for label in (0, 2, torch.tensor([1, 2])):
        given = torch.as_tensor(label).expand(2)
        eps = unet(x, 400, class_labels=given).sample
        assert (prior.labelled(label)(x, level).eps - eps).abs().max() < 1e-5
        clean = DDPMScheduler(clip_sample=False).step(eps, 400, x).pred_original_sample
        assert (prior.labelled(label)(x, level).x0 - clean).abs().max() < 1e-4
    assert not torch.equal(prior.labelled(0)(x, level).eps, prior.labelled(1)(x, level).eps)
    assert prior.given == {}  # labelled() left the prior itself alone


def test_labels_of_a_prior_without_classes(gaussian_prior):
    with pytest.raises(InputError, match="no classes"):
        gaussian_prior.labelled(1)


def test_the_network_is_told_the_time():
    told = []
    prior = Prior(lambda x, t: told.append(t) or x, schedule=linear())
    prior(normal(3, 1, 2, 2), linear().at(17.5))
    prior(normal(2, 1, 2, 2), linear().at(torch.tensor([5, 900])))
    assert [t.tolist() for t in told] == [[17.5] * 3, [5.0, 900.0]]


@pytest.mark.parametrize("net", [lambda x, t: x[..., 1:], lambda x, t: x[:, :1], lambda x, t: torch.cat([x] * 3, 1)])
def test_a_wrong_shape_is_refused(net):
    with pytest.raises(InputError, match="must keep the shape"):
        Prior(net, schedule=linear())(normal(2, 3, 4, 4), linear().at(400))


def test_an_unknown_prediction_is_refused():
    with pytest.raises(InputError, match="eps, x0, v, flow, score"):
        Prior(closed_form, predicts="noise", schedule=linear())


@pytest.mark.parametrize("predicts", SAYS)
def test_clipping_keeps_x0_and_eps_together(predicts):
    level = linear().at(300)
    prior = gaussian_of(predicts, level, linear())
    x = 3 * normal(2, 3, 4, 4)
    free = prior(x, level)
    prior.clip = True
    pred = prior(x, level)
    assert free.x0.abs().max() > 1  # or nothing is tested
    assert torch.equal(pred.x0, free.x0.clamp(-1, 1))
    assert (level.alpha * pred.x0 + level.sigma * pred.eps - x).abs().max() < 1e-12


def test_clipping_at_clean_is_finite(gaussian_prior):
    """Where a chain that goes up begins: eps cannot follow x0 there."""
    x = normal(2, 3, 4, 4)
    eps = gaussian_prior(x, CLEAN).eps
    gaussian_prior.clip = True
    pred = gaussian_prior(x, CLEAN)
    assert torch.equal(pred.x0, x.clamp(-1, 1))
    assert torch.equal(pred.eps, eps)


def test_reduced_precision_stays_in_the_network():
    net, seen = nn.Conv2d(3, 6, 3, padding=1), []
    net.register_forward_hook(lambda module, args, out: seen.append(out.dtype))

    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, t):
            return self.net(x)

    x, level = normal(2, 3, 8, 8).float(), linear().at(400)
    with torch.no_grad():
        full = Prior(Timed(), schedule=linear())(x, level)
        half = Prior(Timed(), schedule=linear(), dtype=torch.bfloat16)(x, level)
    assert seen == [torch.float32, torch.bfloat16]
    assert half.x0.dtype == half.eps.dtype == half.frac.dtype == torch.float32
    assert (level.alpha * half.x0 + level.sigma * half.eps - x).abs().max() < 1e-6
    assert 0 < (half.eps - full.eps).abs().max() < 0.05


def test_levels_are_those_of_the_schedule(gaussian_prior):
    assert gaussian_prior.levels(7, 0.5, "trailing") == linear().levels(7, 0.5, "trailing")
    assert gaussian_prior.device == torch.device("cpu")


# --- classes ---


def says_its_class(x, t, class_labels=None):
    """eps is the index that the network was told, and -1 without one."""
    told = torch.full((len(x),), -1) if class_labels is None else class_labels
    return told.to(x).reshape(-1, 1, 1, 1).expand_as(x)


def classed(**options):
    return Prior(says_its_class, schedule=linear(), name="pets", **options)


def told(prior, count=3):
    """The index that each image of a batch is told."""
    return prior(torch.zeros(count, 3, 2, 2), linear().at(400)).eps[:, 0, 0, 0].tolist()


NAMES = ["cat", "dog", "red panda"]


@pytest.mark.parametrize(
    ("label", "index"),
    [("cat", 0), ("red panda", 2), (0, 0), (2, 2), ("1", 1), ("2", 2), (np.int64(1), 1)],
)
def test_classes_by_name_and_number(label, index):
    prior = classed(labels=NAMES)
    assert prior.index(label) == index
    assert told(prior.labelled(label)) == [index] * 3
    assert told(prior) == [-1] * 3  # the prior itself was left alone


@pytest.mark.parametrize("label", [0, 9, "0", "9"])
def test_classes_by_number_alone(label):
    prior = classed(labels=10)
    assert prior.index(label) == int(label)
    assert told(prior.labelled(label)) == [int(label)] * 3


def test_a_name_goes_before_a_number():
    """Folders of digits: "7" is the class of that name."""
    assert classed(labels=["7", "1", "0"]).index("7") == 0
    assert classed(labels=["7", "1", "0"]).index("0") == 2
    assert classed(labels=["7", "1", "0"]).index(0) == 0


@pytest.mark.parametrize("labels", [NAMES, 3])
@pytest.mark.parametrize("label", [3, -1, "3", "-1", "Cat", "", "bird", 1.0, "1.0", True, False, None])
def test_classes_that_there_are_not(labels, label):
    prior, words = classed(labels=labels), "cat, dog, red panda" if labels == NAMES else "0 to 2"
    for ask in (prior.index, prior.labelled):
        with pytest.raises(InputError, match=f"'pets' has no class '{label}': choose one of {words}") as caught:
            ask(label)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [0, "cat", torch.tensor(0)])
def test_labels_where_there_are_none(label):
    prior = classed()
    with pytest.raises(InputError, match="'pets' has no classes: leave the label out"):
        prior.labelled(label)
    assert prior.unlabelled is None


def test_classes_in_words():
    assert classed().classes == "none"
    assert classed(labels=10).classes == "0 to 9"
    assert classed(labels=NAMES).classes == "cat, dog, red panda"


def test_a_label_for_each_image():
    assert told(classed(labels=NAMES).labelled(torch.tensor([2, 0, 1]))) == [2, 0, 1]


@pytest.mark.parametrize(("labels", "null"), [(NAMES, 3), (10, 0), (10, 10)])
def test_no_label_has_an_index(labels, null):
    """A prior trained with a label left out now and then: it starts there, and can be sent back."""
    prior = classed(labels=labels, null_label=null)
    assert told(prior) == [null] * 3
    assert told(prior.labelled(1)) == [1] * 3
    assert told(prior.labelled(1).unlabelled) == [null] * 3
    assert told(prior.unlabelled.labelled(2)) == [2] * 3
    assert told(prior.labelled(null)) == [null] * 3


def test_a_prior_that_needs_a_label_has_no_unlabelled():
    assert classed(labels=NAMES).unlabelled is None
    assert classed(labels=NAMES).labelled(1).unlabelled is None


def test_labelled_priors_share_the_rest():
    prior = classed(labels=NAMES, clip=True, multiple=8)
    cat = prior.labelled("cat")
    assert (cat.net, cat.schedule, cat.clip, cat.multiple) == (prior.net, prior.schedule, True, 8)


def test_labels_go_where_the_picture_is():
    seen = []
    prior = Prior(lambda x, t, class_labels: seen.append(class_labels) or x, schedule=linear(), labels=2, null_label=2)
    for asked in (prior, prior.labelled(1), prior.labelled(torch.tensor([0, 1, 1]))):
        asked(torch.zeros(3, 3, 2, 2, device="meta"), linear().at(400))
    assert [label.device.type for label in seen] == ["meta"] * 3
    assert [label.shape for label in seen] == [(3,)] * 3


@pytest.mark.parametrize("label", [True, 1.0, None])
def test_what_only_equals_the_null_label_is_refused(label):
    with pytest.raises(InputError, match="no class"):
        classed(labels=NAMES, null_label=1).labelled(label)
