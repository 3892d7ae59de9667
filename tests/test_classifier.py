"""The noisy classifier: its network, levels of any schedule, gradients, and the folders that it is loaded from."""

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from classifying import LABELS, save_classifier
from conftest import normal, save_tiny

import restore
from restore import load
from restore.classifier import Classifier, load_classifier
from restore.errors import InputError, PriorError
from restore.levels import CLEAN, Flow, Karras, Level, cosine, linear
from restore.load import bundled, describe, kind_of
from restore.precision import DTYPES, settle
from restore.wrappers import gradient


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Read it, never write to it."""
    return save_classifier(tmp_path_factory.mktemp("classifiers") / "animals")


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to be spoiled."""
    return Path(shutil.copytree(saved, tmp_path / "animals"))


def loaded(source, **options):
    return load_classifier(source, **{"device": "cpu", "dtype": "float32", **options})


def noise(*shape, seed=0):
    return normal(*shape, seed=seed).float()


# ---------------------------------------------------------------- levels of other schedules


def heard(schedule=None, **options):
    """A classifier that notes what its network is shown: (x, t)."""
    shown = []

    def net(x, t):
        shown.append((x, t))
        return torch.stack([x.sum((1, 2, 3)), -x.square().sum((1, 2, 3))], 1)

    return Classifier(net, schedule=schedule or cosine(1000), labels=2, **options), shown


PRIORS = {"linear": linear(), "short": linear(50), "ve": Karras(0.02, 80.0), "flow": Flow()}


@pytest.mark.parametrize("name", PRIORS)
def test_levels_are_matched_by_their_noise_to_signal_ratio(name):
    """The same picture with the same noise, on the classifier's own scale and at its own time."""
    table = cosine(1000)
    classifier, shown = heard(table)
    clean, z = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    for ratio in (0.03, 0.2, 1.0, 7.0, 60.0):
        level, own = PRIORS[name].at_ratio(ratio), table.at_ratio(ratio)
        classifier(level.alpha * clean + level.sigma * z, level)
        x, t = shown[-1]
        torch.testing.assert_close(x, own.alpha * clean + own.sigma * z)
        torch.testing.assert_close(t, torch.full((2,), own.t))


def test_its_own_times_come_back():
    table = linear()
    classifier, shown = heard(table)
    for t in (0, 1, 500, 999):
        x = normal(1, 3, 4, 4)
        classifier(x, table.at(t))
        torch.testing.assert_close(shown[-1][0], x)
        assert float(shown[-1][1]) == pytest.approx(t, abs=1e-3)


@pytest.mark.parametrize(("level", "time"), [(CLEAN, 0), (Level(0, 1.0, 1e-4), 0), (Level(0, 1.0, 500.0), 999)])
def test_ratios_beyond_the_table_are_told_as_its_ends(level, time):
    """The picture keeps its true ratio, of the power that the network knows."""
    classifier, shown = heard(linear())
    x = normal(1, 3, 64, 64) * np.hypot(level.alpha, level.sigma)
    classifier(x, level)
    assert float(shown[-1][1]) == time
    assert shown[-1][0].std() == pytest.approx(1, abs=0.02)
    classifier(x, Level(999, 0.0, 1.0))  # pure noise is no division by zero
    torch.testing.assert_close(shown[-1][0], x)


def test_a_flow_is_no_table():
    with pytest.raises(InputError, match="noise table as its schedule, not Flow"):
        heard(Flow())


def test_sides_that_do_not_divide_are_mirrored_at_the_border():
    classifier, shown = heard(multiple=8)
    x = noise(1, 3, 13, 16)
    classifier(x, CLEAN)
    padded = shown[-1][0]
    assert padded.shape == (1, 3, 16, 16)
    assert torch.equal(padded[:, :, :13], x)
    assert torch.equal(padded[:, :, 13:], x[:, :, 9:12].flip(2))
    assert gradient(classifier.log_prob(0))(x, CLEAN).shape == x.shape


# ---------------------------------------------------------------- classes


def test_log_prob_is_that_of_the_class(saved):
    classifier, level = loaded(saved), linear().at(300)
    x = noise(3, 3, 16, 16)
    total = 0
    for k, name in enumerate(LABELS):
        found = classifier.log_prob(name)(x, level)
        assert found.shape == (3,)
        torch.testing.assert_close(found, classifier(x, level).softmax(1)[:, k].log())
        assert torch.equal(found, classifier.log_prob(k)(x, level))
        assert torch.equal(found, classifier.log_prob(str(k))(x, level))
        total = total + found.exp()
    torch.testing.assert_close(total, torch.ones(3))


@pytest.mark.parametrize("label", ["bird", 3, "3", -1, 1.5, True, ""])
def test_unknown_classes_are_refused(label, saved):
    with pytest.raises(InputError, match=r"the classifier .*animals' has no class '.*': choose one of cat, dog, owl"):
        loaded(saved).log_prob(label)
    with pytest.raises(InputError, match="has no class"):
        heard()[0].log_prob("cat")


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_gradients_flow_through_reduced_precision(name, saved):
    dtype, level, x = DTYPES[name], linear().at(300), noise(2, 3, 24, 24)
    full, less = loaded(saved), settle(loaded(saved), torch.device("cpu"), dtype)
    assert less.net.downsamplers[0].weight.dtype == dtype
    wanted, found = (gradient(one.log_prob("dog"))(x, level) for one in (full, less))
    assert found.dtype == torch.float32
    assert wanted.std() > 0
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    assert not torch.equal(found, wanted)
    with torch.no_grad():  # as the samplers are
        assert torch.equal(gradient(less.log_prob("dog"))(x, level), found)


# ---------------------------------------------------------------- folders


def test_a_folder(saved):
    classifier = loaded(saved)
    assert (classifier.labels, classifier.multiple, classifier.name) == (list(LABELS), 2, str(saved))
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    assert np.allclose(classifier.schedule.abar, scheduler.alphas_cumprod.numpy())
    assert not classifier.net.training
    assert not any(weight.requires_grad for weight in classifier.net.parameters())
    assert load_classifier(classifier) is classifier
    assert isinstance(restore.load_classifier(str(saved)), restore.Classifier)


def test_without_names_classes_have_numbers(folder):
    (folder / "labels.json").unlink()
    assert loaded(folder).labels == 3


def test_bundled_names(saved, monkeypatch):
    monkeypatch.setattr(load, "bundled", lambda kind="prior": {"animals": saved} if kind == "classifier" else {})
    assert loaded("animals").name == "animals"
    assert kind_of("animals") == "classifier"
    with pytest.raises(PriorError, match=r"no classifier 'photo': give a bundled name \(animals\) or a diffusers fol"):
        loaded("photo")
    monkeypatch.setattr(load, "bundled", lambda kind="prior": {"animals": saved})
    assert kind_of("animals") == "prior"


def test_every_bundled_classifier_is_whole():
    for name in bundled("classifier"):
        facts = describe(name, "classifier")
        assert facts["licence"] != "unknown"
        assert facts["megabytes"] < 20
        logits = loaded(name)(noise(1, 3, 64, 64), linear().at(500))
        assert logits.shape == (1, facts["classes"])
        assert logits.isfinite().all()


def test_nothing_there(tmp_path, tiny_folder):
    for source in ("nowhere", tmp_path / "nowhere"):
        with pytest.raises(PriorError, match=r"no classifier .*bundled name \(.*\) or a diffusers folder"):
            loaded(source)
    with pytest.raises(PriorError, match=r"no diffusers folder of a classifier \(neither config.json nor net/config"):
        loaded(tmp_path)
    with pytest.raises(PriorError, match=r"no diffusers folder of a classifier \(this is a prior\)"):
        loaded(tiny_folder)
    with pytest.raises(InputError, match="no network class 'UNet' of a classifier"):
        loaded(tiny_folder / "unet")


@pytest.mark.filterwarnings("ignore:.*scheduler_config")
def test_a_classifier_is_no_prior(saved):
    with pytest.raises(PriorError, match=r"no diffusers folder of a prior \(this is a classifier\)"):
        restore.load_prior(saved)
    with pytest.raises(InputError, match="no network class 'Encoder' of a prior"):
        restore.load_prior(saved / "net")


@pytest.mark.parametrize("name", ["net/config.json", "scheduler/scheduler_config.json", "labels.json"])
@pytest.mark.parametrize("text", ["", "{", "3", "\x00"])
def test_damaged_configurations_are_named(name, text, folder):
    (folder / name).write_text(text)
    for call in (loaded, lambda source: describe(source, "classifier")):
        with pytest.raises(InputError, match=Path(name).name):
            call(folder)


def test_damaged_and_foreign_weights(folder):
    weights = folder / "net" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(InputError, match="is a file: give the diffusers folder"):
        loaded(weights)
    config = folder / "net" / "config.json"
    text = config.read_text()
    config.write_text(json.dumps({**json.loads(text), "layers": 2}))
    with pytest.raises(InputError, match="do not belong together"):
        loaded(folder)
    config.write_text(text)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="the weights cannot be read") as error:
        loaded(folder)
    assert "\n" not in str(error.value)


def test_what_does_not_belong_together(folder, tmp_path):
    (folder / "labels.json").write_text('["cat", "dog"]')
    with pytest.raises(InputError, match=r"2 names in labels.json for 3 classes"):
        loaded(folder)
    shutil.rmtree(folder / "scheduler")
    with pytest.raises(InputError, match=r"no scheduler/scheduler_config.json"):
        loaded(folder)
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(InputError, match="noise table"):
        loaded(save_classifier(tmp_path / "flow", scheduler=flow))


@pytest.mark.parametrize(
    ("options", "words"), [({"dtype": "half"}, "'half'"), ({"device": "toaster"}, "'toaster'")], ids=str
)
def test_unknown_options(options, words, saved):
    with pytest.raises(InputError, match=words):
        loaded(saved, **options)
    with pytest.raises(InputError, match="a Classifier is ready as it is"):
        load_classifier(heard()[0], **options)
    with pytest.raises(InputError, match="cannot load a classifier from int"):
        load_classifier(7)


# ---------------------------------------------------------------- what `restore priors` shows


def test_describe(saved, tmp_path):
    facts = describe(saved, "classifier")
    assert (facts["kind"], facts["network"], facts["classes"]) == ("classifier", "Encoder", 3)
    assert (facts["labels"], facts["levels"], facts["predicts"]) == ("cat, dog, owl", 1000, None)
    assert kind_of(saved) == "classifier"
    assert kind_of(save_tiny(tmp_path / "tiny")) == kind_of("nowhere") == "prior"
    json.dumps(facts)
