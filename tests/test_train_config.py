"""Configurations of the trainers: every mistake is named."""

import dataclasses
import tomllib
from importlib import resources

import pytest

from restore.errors import InputError
from restore.train import toml
from restore.train.config import FREE, PriorConfig, Source, interval

MINIMAL = '[data]\nsources = ["pictures"]\n[train]\nsteps = 10\n'


def parse(tmp_path, text):
    path = tmp_path / "c.toml"
    path.write_text(text)
    return toml.read(path, PriorConfig)


def test_minimal_configuration_takes_defaults(tmp_path):
    config = parse(tmp_path, MINIMAL)
    assert config.data.sources == [Source("pictures")]
    assert (config.train.steps, config.train.predicts, config.seed) == (10, "eps", 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sed = 1\n" + MINIMAL, ["'sed'", "did you mean 'seed'", "c.toml"]),
        (MINIMAL + "learning_rate = 1e-3", ["'train.learning_rate'"]),
        (MINIMAL + "bach = 4", ["'train.bach'", "'batch'"]),
        (MINIMAL + "[dataa]\ncrop = 3", ["'dataa'", "'data'"]),
        (MINIMAL + 'batch = "8"', ["'train.batch'", "a whole number"]),
        (MINIMAL + "batch = true", ["'train.batch'"]),
        (MINIMAL + "betas = [0.9]", ["'train.betas'", "a list of 2"]),
        (MINIMAL + "phases = [{start = 0.5, crp = 3}]", ["'train.phases[0].crp'", "'crop'"]),
        (MINIMAL + 'save_every = "5 fortnights"', ["[train]", "5 fortnights"]),
        (MINIMAL + "save_every = 1.5", ["'train.save_every'", "a whole number or a text"]),
        (MINIMAL + 'precision = "half"', ["[train]", "'half'"]),
        (MINIMAL.replace("steps", "batch"), ["steps or minutes"]),
        (MINIMAL.replace('["pictures"]', "[]"), ["[data]", "sources is empty"]),
        (MINIMAL.replace('["pictures"]', "[{weight = 1}]"), ["'data.sources[0].path' is missing"]),
        ("[train]\nsteps = 1", ["'data' is missing"]),
        (MINIMAL + "= 3", ["not a TOML file"]),
        ("data = 3\n[train]\nsteps = 1", ["'data'", "a table"]),
    ],
)
def test_mistakes_are_named(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        parse(tmp_path, text)
    assert all(word in str(caught.value) for word in words), caught.value


def test_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml"):
        toml.read(tmp_path / "none.toml", PriorConfig)


def test_intervals():
    assert interval(500) == (500, 0.0)
    assert interval("30 s") == (0, 30.0)
    assert interval("1.5h") == (0, 5400.0)


def test_written_configuration_reads_back(tmp_path):
    text = MINIMAL + 'phases = [{start = 0.5, crop = 32}]\n[export]\ntitle = "Fotos \\"für\\" alle"\n'
    config = parse(tmp_path, text)
    assert parse(tmp_path, toml.write(dataclasses.asdict(config))) == config


def test_bundled_configuration_reads():
    text = resources.files("restore.assets").joinpath("priors/photo/train.toml").read_text()
    config = toml.build(PriorConfig, tomllib.loads(text), "", "train.toml")
    assert config.train.predicts == "eps"
    assert [source.path for source in config.data.sources] == ["photos.tar", "more.tar", "narrow.tar"]


def test_difference_names_what_forbids_a_resumption(tmp_path):
    there = dataclasses.asdict(parse(tmp_path, MINIMAL.replace("pictures", "/elsewhere/pictures")))
    free = "save_every = 7\n[export]\ntitle = 'x'\n[validate]\nsize = 16\n"
    longer = parse(tmp_path, MINIMAL.replace("10", "20") + free)
    assert toml.difference(there, dataclasses.asdict(longer), FREE) is None
    other = parse(tmp_path, MINIMAL + "lr = 0.5\n")
    assert toml.difference(there, dataclasses.asdict(other), FREE) == "train.lr (0.001 there, 0.5 here)"
    phased = parse(tmp_path, MINIMAL + "phases = [{start = 0.5, crop = 32}]\n")
    assert "train.phases.0" in toml.difference(there, dataclasses.asdict(phased), FREE)


def test_keys_that_an_older_run_did_not_know_have_their_defaults(tmp_path):
    text = MINIMAL + "phases = [{start = 0.5, crop = 32}]\n"
    now = dataclasses.asdict(parse(tmp_path, text))
    old = dataclasses.asdict(parse(tmp_path, text))
    del old["data"]["shards"], old["train"]["decay"]["end"], old["train"]["phases"][0]["batch"], old["schedule"]
    del old["data"]["sources"][0]["weight"], old["export"]
    assert toml.difference(old, now) is not None
    assert toml.difference(toml.completed(old, PriorConfig), now) is None
    changed = dataclasses.asdict(parse(tmp_path, text.replace("[train]", "shards = 2\n[train]")))
    assert toml.difference(toml.completed(old, PriorConfig), changed) == "data.shards (1 there, 2 here)"
    old["train"]["forgotten"] = 3  # a key that there is no more
    told = toml.difference(toml.completed(old, PriorConfig), now)
    assert told == "train.forgotten (3 there, None here)"
