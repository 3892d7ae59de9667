"""Labels and classifier-free guidance through every task, on white Gaussians that differ by class in their mean."""

import numpy as np
import pytest
import torch
from conftest import save_tiny
from tasking import METHODS, RANDOM, REQUESTS, classes, colours, made, request, result, white

import restore
from restore import images
from restore.errors import InputError
from restore.load import load_prior

MEANS, NULL = (-0.4, 0.1, 0.5), -0.1
LABELS = ("cat", "dog", "owl")


def same(a, b, atol=0.0):
    """In [0, 1]; of PIL images too."""
    a, b = (x if isinstance(x, torch.Tensor) else torch.from_numpy(np.asarray(x) / 255) for x in (a, b))
    return torch.allclose(a, b, atol=atol, rtol=0)


def animals(**options):
    """The classes are chequered, so that `refine`, which keeps the brightness, shows them too."""
    return classes(MEANS, null=NULL, chequer=0.5, **options)


def plain(mean):
    """The prior of one class, without any."""
    return white(mean, 0.3, chequer=0.5)


def origin(task):
    """`translate` is told what the picture is of."""
    return {"from_label": "cat"} if task == "translate" else {}


def of_class(task, method, mean):
    """The answer of the prior of one class alone; `translate` comes from the first."""
    if task == "translate":
        asked = request(task, method=method)
        return asked.run(images.read(colours()), plain(MEANS[0]), plain(mean)).images[0]
    return made(task, colours(), plain(mean), method=method)


@pytest.mark.parametrize(("task", "method"), METHODS)
def test_a_label_is_the_prior_of_its_class(task, method):
    """By name, by number, and by the number in words, as on the command line."""
    answers = []
    for index, name in enumerate(LABELS):
        for label in (name, index, str(index), np.int64(index)):
            answers.append(made(task, colours(), animals(), method=method, label=label, **origin(task)))
            assert same(answers[-1], of_class(task, method, MEANS[index]))
    assert not same(answers[0], answers[-1], 0.005)


@pytest.mark.parametrize(("task", "method"), METHODS)
def test_no_label_is_no_class(task, method):
    """And a prior that has its class already keeps it."""
    for prior, mean in ((animals(), NULL), (animals().labelled("dog"), MEANS[1])):
        wanted = made(task, colours(), plain(mean), method=method)  # `translate`: there and back
        assert same(made(task, colours(), prior, method=method), wanted)


@pytest.mark.parametrize(("task", "method"), METHODS)
@pytest.mark.parametrize("guidance", [0, 0.5, 1, 2.5])
def test_guidance_goes_past_the_class(task, method, guidance):
    """Of two Gaussians of one spread, it is the Gaussian whose mean is as far beyond: Ho and Salimans 2022."""
    options = {"method": method, "label": "owl", **origin(task)}
    found = made(task, colours(), animals(), guidance=guidance, **options)
    beyond = of_class(task, method, NULL + guidance * (MEANS[2] - NULL))
    assert same(found, beyond, 1e-4 if task != "generate" else 1.01 / 255)
    assert same(found, made(task, colours(), animals(), **options)) == (guidance == 1)


@pytest.mark.parametrize(("task", "method"), METHODS)
@pytest.mark.parametrize("guidance", [None, 1, 3])
def test_guidance_costs_two_calls(task, method, guidance):
    """For each answer; of `translate` on the way down, where the label is; 1 is none, and costs none."""
    samples = 2 if (task, method) in RANDOM else 1
    prior, told, options = classes(null=NULL), [], {"method": method, "samples": samples, **origin(task)}
    once = result(task, colours(), classes(null=NULL), label=1, **options).info.calls
    found = result(task, colours(), prior, told.append, label=1, guidance=guidance, **options)
    times = 2 if guidance == 3 else 1
    assert found.info.calls == (once * (1 + times) // 2 if task == "translate" else once * times)
    assert {p.total for p in told} == {told[-1].done} == {found.info.calls} == {len(prior.net.told)}
    assert [p.done for p in told] == sorted(p.done for p in told)


BAD = {
    "an unknown name": (classes(null=NULL), {"label": "bird"}, "no class 'bird': choose one of cat, dog, owl"),
    "a number too high": (classes(null=NULL), {"label": 4}, "no class '4'"),
    "the number of no class": (classes(null=NULL), {"label": "3"}, "no class '3'"),
    "a negative number": (classes(), {"label": -1}, "no class '-1'"),
    "a number that is not whole": (classes(), {"label": 1.5}, "no class '1.5'"),
    "a truth value": (classes(labels=3), {"label": True}, "no class 'True': choose one of 0 to 2"),
    "nothing": (classes(), {"label": ""}, "no class ''"),
    "classes by number": (classes(labels=3), {"label": "cat"}, "no class 'cat': choose one of 0 to 2"),
    "a prior without classes": (white(), {"label": "cat"}, "'white' has no classes: leave the label out"),
    "a prior without classes, by number": (white(), {"label": 0}, "'white' has no classes: leave the label out"),
    "no label, and none stands for none": (classes(), {}, "has classes: choose one with label: cat, dog, owl"),
    "guidance without no class": (classes(), {"label": 0, "guidance": 2}, "'classes' was trained with a label always"),
    "guidance without a label": (classes(null=NULL), {"guidance": 2}, "guidance pulls towards a label: give one"),
    "guidance of a prior without classes": (white(), {"guidance": 2}, "guidance pulls towards a label"),
    "negative guidance": (classes(null=NULL), {"label": 0, "guidance": -1}, "guidance is -1"),
    "endless guidance": (classes(null=NULL), {"label": 0, "guidance": float("inf")}, "guidance is inf"),
    "no guidance at all": (classes(null=NULL), {"label": 0, "guidance": float("nan")}, "guidance is nan"),
    "guidance in words": (classes(null=NULL), {"label": 0, "guidance": "2"}, "guidance is '2'"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("task", REQUESTS)
def test_what_does_not_fit_is_refused_before_any_work(task, name, no_network):
    prior, options, words = BAD[name]
    more = {"from_label": 0} if task == "translate" and prior.labels else {}
    with pytest.raises(InputError) as error:
        made(task, colours(), prior, **options, **more)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", REQUESTS)
def test_guidance_of_1_needs_no_prior_that_can_do_without(task):
    guided, free = (made(task, colours(), classes(), label=1, guidance=w, **origin(task)) for w in (1, None))
    assert same(guided, free)


def test_a_batch_of_one_label():
    batch = colours(batch=2)
    out = made("denoise", batch, classes(null=NULL), label="owl", guidance=2)
    for one, together in zip(batch, out, strict=True):
        torch.testing.assert_close(made("denoise", one, classes(null=NULL), label="owl", guidance=2), together)


# ---------------------------------------------------------------- translate between classes


def test_translate_between_classes():
    """x -> mean of the one + x - mean of the other, as their spreads are the same; and back."""
    image, prior = colours(), classes(null=NULL)
    there = made("translate", image, prior, from_label="dog", label="owl", steps=80)
    assert (there - image - 0.2).abs().max() < 2e-3
    back = made("translate", there, prior, from_label="owl", label="dog", steps=80)
    assert (back - image).abs().max() < 2e-3
    from_none = made("translate", image, prior, label="owl", steps=80)
    assert (from_none - image - 0.3).abs().max() < 2e-3
    to_none = made("translate", image, prior, from_label="owl", steps=80)
    assert (to_none - image + 0.3).abs().max() < 2e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label": "owl"}, "choose one with label"),
        ({"from_label": "owl"}, "choose one with label"),
        ({"from_label": "bird", "label": "owl"}, "no class 'bird'"),
        ({"from_label": "owl", "label": "bird"}, "no class 'bird'"),
        ({"from_label": 7, "label": 0}, "no class '7'"),
    ],
    ids=str,
)
def test_both_classes_have_to_be_there(options, words, no_network):
    with pytest.raises(InputError, match=words):
        made("translate", colours(), classes(), **options)


def test_labels_of_two_priors():
    """from_label is of the one, label of the other."""
    birds = classes(means=(0.3, 0.1), labels=("tit", "jay"), name="birds")
    out = request("translate", from_label="owl", label="jay", steps=80).run(images.read(colours()), classes(), birds)
    assert (out.images[0] - colours() + 0.2).abs().max() < 2e-3
    for options in ({"from_label": "jay", "label": "jay"}, {"from_label": "owl", "label": "owl"}):
        with pytest.raises(InputError, match="no class"):
            request("translate", **options).run(images.read(colours()), classes(), birds)
    mixed = request("translate", label="jay", steps=80).run(images.read(colours()), white(0.5, 0.3), birds)
    assert (mixed.images[0] - colours() + 0.2).abs().max() < 2e-3


# ---------------------------------------------------------------- a network


def test_a_network_with_classes(tmp_path):
    """Names and the class that stands for none, from a folder."""
    folder = save_tiny(tmp_path / "animals", num_class_embeds=4)
    (folder / "labels.json").write_text('["cat", "dog", "owl"]')
    prior = load_prior(folder, device="cpu", dtype="float32")
    for task in REQUESTS:
        options = {} if task == "denoise" else {"steps": 1}
        a, b = (made(task, colours(), prior, label=label, **options, **origin(task)) for label in ("cat", "dog"))
        assert not same(a, b), task
        assert not same(made(task, colours(), prior, label="cat", guidance=4, **options, **origin(task)), a), task
    image = restore.generate(prior=folder, size=16, steps=2, label="owl", guidance=2, device="cpu", dtype="float32")
    assert same(image, restore.generate(prior=prior, size=16, steps=2, label=2, guidance=2))
