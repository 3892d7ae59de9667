"""Networks of the hub: ids, the cache in its real layout, and a small hub that answers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from classifying import save_classifier
from huggingface_hub import constants
from serving import COMMIT, cache, serving
from test_load import answer, loaded

from restore import hub
from restore.classifier import load_classifier
from restore.errors import InputError, PriorError
from restore.hub import Repo, parse
from restore.load import describe, kind_of, load_prior

OTHER = "fedcba9876543210fedcba9876543210fedcba98"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("RESTORE_HOME", str(tmp_path / "home"))
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A tiny unconditional pipeline as diffusers saves it."""
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("hub") / "ddpm"
    diffusers.DDPMPipeline(net, diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture
def old(pipeline, tmp_path):
    """The same in the layout of google/ddpm-*: one network, its scheduler and model_index.json in one folder."""
    folder = Path(shutil.copytree(pipeline / "unet", tmp_path / "old"))
    shutil.copy(pipeline / "scheduler" / "scheduler_config.json", folder)
    shutil.copy(pipeline / "model_index.json", folder)
    return folder


# ---------------------------------------------------------------- ids


def test_ids():
    assert parse("google/ddpm-cat-256") == Repo("google/ddpm-cat-256", "main", "")
    assert parse("a/b@v1") == Repo("a/b", "v1", "")
    assert parse("a/b@refs/pr/3") == Repo("a/b", "refs/pr/3", "")
    assert parse("a/b/unet") == Repo("a/b", "main", "unet")
    assert parse("a/b/unet@v1") == Repo("a/b", "v1", "unet")
    for text in ("a/b", "a/b@v1", "a/b/unet@v1"):
        assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "photo", "", "/a/b", "./a", "../a", "a/..", "a/../b", "a/b@", "a/b@../x", "a//b", "a/b/", "~/a", "a b/c",
        "a/b@x@y", "-a/b", "a/b..c", "a/b.git", "C:/x", "a/b@v1/..", "a/b/../../c",
    ],
)  # fmt: skip
def test_what_is_no_id(text):
    assert parse(text) is None


# ---------------------------------------------------------------- the cache


def test_by_id_and_by_revision(root, pipeline, tmp_path):
    wanted = answer(loaded(pipeline))
    cache(root, "some/cats", pipeline)
    prior = loaded("some/cats")
    assert torch.equal(answer(prior), wanted)
    assert (prior.name, prior.size) == ("some/cats", 16)
    assert describe("some/cats")["folder"] == str(root / "models--some--cats" / "snapshots" / COMMIT)
    other = Path(shutil.copytree(pipeline, tmp_path / "other"))
    diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(other / "scheduler")
    cache(root, "some/cats", other, OTHER, ref="v2")
    assert torch.equal(answer(loaded("some/cats")), wanted)
    for revision in ("v2", OTHER):
        assert not torch.equal(answer(loaded(f"some/cats@{revision}")), wanted)
    assert torch.equal(answer(loaded(f"some/cats/unet@{COMMIT}")), wanted)
    with pytest.raises(PriorError, match=r"run `restore priors download some/cats@v3`"):
        loaded("some/cats@v3")


def test_names_of_the_table(root, old):
    cache(root, "google/ddpm-cat-256", old)
    wanted = answer(loaded(old))
    for name in ("google/ddpm-cat-256", "ddpm-cat-256"):
        assert torch.equal(answer(loaded(name)), wanted)
    assert loaded("ddpm-cat-256").name == "ddpm-cat-256"


def test_a_folder_named_like_an_id_wins(root, pipeline, tiny_folder, tmp_path, monkeypatch):
    cache(root, "some/cats", pipeline)
    shutil.copytree(tiny_folder, tmp_path / "some" / "cats")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(answer(loaded("some/cats")), answer(loaded(tiny_folder)))
    assert describe("some/cats")["folder"] == "some/cats"


def test_what_is_not_there_says_what_to_run(root):
    for name in ("google/ddpm-cat-256", "ddpm-cat-256", "some/cats"):
        with pytest.raises(PriorError, match=f"{name} is not on this machine: run `restore priors download {name}`$"):
            loaded(name)
    with pytest.raises(PriorError, match="there is no file or folder some/cats, and the hub's"):
        loaded("some/cats")
    assert not root.exists()


@pytest.mark.parametrize(
    "lost", ["unet/diffusion_pytorch_model.safetensors", "unet/config.json", "scheduler/scheduler_config.json"]
)
@pytest.mark.parametrize("how", ["blob", "link"])
def test_a_part_of_a_download(lost, how, root, pipeline):
    file = cache(root, "some/cats", pipeline) / lost
    (file.resolve() if how == "blob" else file).unlink()
    with pytest.raises(
        PriorError, match=r"some/cats is .* in part only \((\S+) is not there\).*download some/cats`"
    ) as e:
        loaded("some/cats")
    assert lost in str(e.value)
    assert "\n" not in str(e.value)


def test_a_part_of_an_old_layout(root, old):
    snapshot = cache(root, "google/ddpm-cat-256", old)
    assert hub.missing(snapshot) is None
    for name in ("scheduler_config.json", "diffusion_pytorch_model.safetensors"):
        (snapshot / name).unlink()
        with pytest.raises(PriorError, match=f"in part only .{name}"):
            load_prior("ddpm-cat-256")
    assert describe("ddpm-cat-256")["here"] is False  # the table answers


def test_weights_in_pieces(root, pipeline, tmp_path):
    folder = Path(shutil.copytree(pipeline, tmp_path / "pieces"))
    diffusers.UNet2DModel.from_pretrained(pipeline / "unet").save_pretrained(folder / "unet", max_shard_size="20KB")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
    pieces = sorted((folder / "unet").glob("*-of-*.safetensors"))
    assert len(pieces) > 1
    snapshot = cache(root, "some/cats", folder)
    assert torch.equal(answer(loaded("some/cats")), answer(loaded(pipeline)))
    (snapshot / "unet" / pieces[-1].name).unlink()
    with pytest.raises(PriorError, match=pieces[-1].name):
        loaded("some/cats")


def test_parts_that_no_prior_needs_may_be_missing(tmp_path, pipeline):
    folder = Path(shutil.copytree(pipeline, tmp_path / "text"))
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"safety_checker": ["x", "Y"], "feature_extractor": [None, None], "requires_safety_checker": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert hub.missing(folder) is None
    for part in ("vae", "text_encoder", "tokenizer"):
        (folder / "model_index.json").write_text(json.dumps({**index, part: ["x", "Y"]}))
        assert hub.missing(folder).startswith(f"{part}/")


def test_classifiers(root, tmp_path):
    saved = save_classifier(tmp_path / "saved")
    cache(root, "some/judge", saved)
    assert kind_of("some/judge") == "classifier"
    assert load_classifier("some/judge", device="cpu").labels == ["cat", "dog", "owl"]
    with pytest.raises(PriorError, match="this is a classifier"):
        loaded("some/judge")


def test_variables_of_the_environment(tmp_path, pipeline):
    """HF_HUB_CACHE before HF_HOME, as the hub's own library has it."""
    cache(tmp_path / "a" / "hub", "in/home", pipeline)
    cache(tmp_path / "b", "in/cache", pipeline)
    code = "from restore import hub; print([hub.is_here(hub.parse(x)) for x in ('in/home', 'in/cache')])"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    for more, wanted in (
        ({"HF_HOME": str(tmp_path / "a")}, [True, False]),
        ({"HF_HOME": str(tmp_path / "a"), "HF_HUB_CACHE": str(tmp_path / "b")}, [False, True]),
    ):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**clean, **more})
        assert done.stdout.strip() == str(wanted), done.stderr


# ---------------------------------------------------------------- what is fetched


STABLE = """
README.md model_index.json v1-5-pruned.ckpt v1-5-pruned.safetensors v1-inference.yaml LICENSE.txt .gitattributes
feature_extractor/preprocessor_config.json safety_checker/config.json safety_checker/model.safetensors
scheduler/scheduler_config.json text_encoder/config.json text_encoder/model.fp16.safetensors
text_encoder/model.safetensors text_encoder/pytorch_model.bin text_encoder/flax_model.msgpack tokenizer/merges.txt
tokenizer/vocab.json unet/config.json unet/diffusion_pytorch_model.bin unet/diffusion_pytorch_model.fp16.safetensors
unet/diffusion_pytorch_model.non_ema.safetensors unet/diffusion_pytorch_model.safetensors unet/model.onnx
vae/config.json vae/diffusion_pytorch_model.bin images/a.png unet/old/config.json
transformer/config.json transformer/diffusion_pytorch_model-00001-of-00002.bin
transformer/diffusion_pytorch_model-00002-of-00002.bin transformer/diffusion_pytorch_model.bin.index.json
transformer/diffusion_pytorch_model.fp16.bin.index.json
"""


def test_which_files_are_needed():
    kept = set(hub.needed(STABLE.split()))
    assert kept == {
        "README.md", "model_index.json", "LICENSE.txt", "scheduler/scheduler_config.json", "text_encoder/config.json",
        "text_encoder/model.safetensors", "tokenizer/merges.txt", "tokenizer/vocab.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.bin",
        "transformer/config.json", "transformer/diffusion_pytorch_model-00001-of-00002.bin",
        "transformer/diffusion_pytorch_model-00002-of-00002.bin", "transformer/diffusion_pytorch_model.bin.index.json",
    }  # fmt: skip
    inner = {file for file in hub.needed(STABLE.split(), "unet") if "/" in file}
    assert inner == {
        "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json",
    }  # fmt: skip


@pytest.fixture
def site(monkeypatch, pipeline):
    """A small hub with some/cats: the pipeline, and what nobody needs."""
    with serving() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        files = {p.relative_to(pipeline).as_posix(): p.read_bytes() for p in pipeline.rglob("*") if p.is_file()}
        more = {"unet/diffusion_pytorch_model.bin": b"not needed", "README.md": b"---\nlicense: mit\n---\n# cats\n"}
        found.repos["some/cats"] = {**files, **more}
        yield found


def test_download(site, pipeline):
    found = hub.download(parse("some/cats"), quiet=True)
    assert found.new
    assert found.sha256 is None
    assert torch.equal(answer(loaded("some/cats")), answer(loaded(pipeline)))
    assert describe("some/cats")["title"] == "cats"
    assert not any(asked.endswith(".bin") for asked in site.asked)
    site.asked.clear()
    assert hub.download(parse("some/cats")) == (found.path, None, False)
    assert site.asked == []
    assert hub.download(parse("some/cats@v1")).path == found.path  # the same commit by another name
    assert loaded("some/cats@v1").size == 16


def test_a_part_is_completed(site, root, pipeline):
    file = cache(root, "some/cats", pipeline) / "unet" / "diffusion_pytorch_model.safetensors"
    file.resolve().unlink()
    assert hub.download(parse("some/cats")).new
    assert loaded("some/cats")
    got = {asked.rpartition("/")[2] for asked in site.asked if asked.startswith("GET /some/cats/resolve")}
    assert got == {"README.md", file.name}


def refused(words, text="some/cats", **options):
    with pytest.raises(PriorError, match=words) as error:
        hub.download(parse(text), **options)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_what_the_hub_has(site, root, monkeypatch):
    monkeypatch.setattr("serving.etag", lambda body: "0" * 63 + str(len(body) % 10))
    refused("its sha256 differs")
    refused("its sha256 differs")  # what was wrong is not kept
    assert not hub.is_here(parse("some/cats"))


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_index(text, root, pipeline):
    (cache(root, "some/cats", pipeline) / "model_index.json").resolve().write_text(text)
    with pytest.raises(PriorError, match=r"model_index\.json is not there"):
        loaded("some/cats")


def test_what_keeps_it_away(site, root):
    refused("some/dogs is not on the hub, or private: .*hf auth login", "some/dogs")
    refused("has no revision 'v9'", "some/cats@v9")
    site.repos["some/files"] = {"README.md": b"", "net.ckpt": b"x"}
    refused("no weights in the layout of diffusers", "some/files")
    del site.repos["some/cats"]["scheduler/scheduler_config.json"]
    refused("some/cats is not whole on the hub itself: scheduler/scheduler_config.json is not there")
    shutil.rmtree(root)
    site.gated = ["some/cats"]
    refused(f"some/cats is gated: accept its licence at {site.url}/some/cats, then log in")
    site.gated = []
    for code, words in ((403, "may not be fetched \\(403\\): accept"), (503, "answers 503")):
        site.codes["/api/models/some/cats/revision/main"] = code
        refused(words)
    with pytest.raises(PriorError, match="download some/cats"):
        loaded("some/cats")


def test_nobody_answers(site, monkeypatch):
    with serving() as gone:
        monkeypatch.setattr(constants, "ENDPOINT", gone.url)
    refused("cannot be fetched from http://127.0.0.1")


def test_no_space(site, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    refused("no space left in")


def test_offline(site, root, pipeline, monkeypatch):
    refused("nothing is fetched, as --offline asks", offline=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("nothing is fetched, as HF_HUB_OFFLINE is set")
    assert site.asked == []
    cache(root, "some/cats", pipeline)
    assert not hub.download(parse("some/cats"), offline=True).new
    assert loaded("some/cats")


def test_flags_are_for_files(root, pipeline):
    cache(root, "some/cats", pipeline)
    with pytest.raises(InputError, match="flags are for checkpoint files"):
        loaded("some/cats", flags={"num_heads": 4})
