"""Folders that diffusers itself writes -> Prior: its predictions and its sampling runs are those of diffusers."""

import json
import shutil
import socket
from pathlib import Path

import diffusers
import pytest
import tinypipes
import torch
from safetensors.torch import load_file
from tinypipes import KINDS, LATENTS, loaded, saved

from restore.errors import InputError, PriorError
from restore.levels import CLEAN, Flow, Level, Table
from restore.steps import ddim, last, once, sample
from restore.tasks.common import walk
from restore.tasks.conditions import conditioned

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of every kind: read them, never write to them."""
    here = tmp_path_factory.mktemp("pipelines")
    return {kind: saved(kind, here / kind.replace(" ", "-")) for kind in KINDS}


@pytest.fixture(scope="module")
def priors(folders):
    return {kind: loaded(folder) for kind, folder in folders.items()}


@pytest.fixture
def copied(folders, tmp_path):
    """copied(kind): a folder of its own, to be spoiled."""
    return lambda kind: Path(shutil.copytree(folders[kind], tmp_path / "copy"))


def change(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latent(prior, seed=0):
    return noise(1, prior.channels, prior.size, prior.size, seed=seed)


# ---------------------------------------------------------------- what is read from a folder

FACTS = {  # predicts, channels, size and multiple in pixels of the picture, clip, labels
    "pixel": ("eps", 3, 16, 2, 1.0, None),
    "learned variance": ("eps", 3, 16, 2, 1.0, None),
    "v": ("v", 3, 16, 2, False, None),
    "sample": ("x0", 3, 16, 2, 2.0, None),
    "vq": ("eps", 3, 32, 4, False, None),
    "text": ("eps", 4, 32, 4, False, None),
    "dit": ("eps", 4, 16, 4, False, 5),
    "sd3": ("flow", 4, 32, 4, False, None),
    "classes": ("eps", 3, 16, 2, 1.0, ["cat", "dog", "owl"]),
    "flow": ("flow", 3, 16, 2, False, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_folder_says(kind, priors):
    prior = priors[kind]
    found = (prior.predicts, prior.channels, prior.picture_size, prior.picture_multiple, prior.clip, prior.labels)
    assert found == FACTS[kind]
    assert prior.latent == (kind in LATENTS)
    assert prior.attends
    assert prior.codec.channels == prior.channels
    assert (prior.text is not None) == (kind in ("text", "sd3"))
    assert not any(weight.requires_grad for weight in prior.net.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_keeps_the_shape_and_agrees_with_itself(kind, priors):
    prior = priors[kind]
    prior = prior.labelled(1) if prior.labels else prior
    level, x = prior.schedule.at_ratio(1.3), latent(prior)
    pred = prior(x, level)
    assert pred.x0.shape == x.shape
    assert (pred.frac is None) == (kind not in ("learned variance", "dit"))
    torch.testing.assert_close(level.alpha * pred.x0 + level.sigma * pred.eps, x, atol=1e-4, rtol=1e-4)


def test_names_of_the_classes_of_a_dit(copied):
    folder = copied("dit")
    names = ["tench, Tinca tinca", "crane", "drake", "crane", "hen"]
    change(folder / "model_index.json", id2label={str(i): name for i, name in enumerate(names)})
    prior = loaded(folder)
    assert prior.labels == names
    assert [prior.index(name) for name in ("Tinca tinca", "tench, Tinca tinca", "crane", "hen", 3)] == [0, 0, 1, 4, 3]
    assert int(prior.given["class_labels"]) == prior.null_label == 5


def test_latents_of_an_older_vq_have_no_scale(copied):
    """The file of CompVis/ldm-celebahq-256 says nothing, and its network was trained without; that of a KL means
    Stable Diffusion's."""
    for kind, part, scale in (("vq", "vqvae", 1.0), ("text", "vae", 0.18215)):
        folder = copied(kind)
        assert loaded(folder).codec.scale == pytest.approx({"vq": 0.5, "text": 0.7}[kind])
        path = folder / part / "config.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "scaling_factor"}))
        assert loaded(folder).codec.scale == pytest.approx(scale)
        shutil.rmtree(folder)


def test_an_older_dit_is_called_transformer2d(copied):
    """`facebook/DiT-XL-2-256` says Transformer2DModel; it is the same network."""
    folder = copied("dit")
    wanted = loaded(folder)
    change(folder / "transformer" / "config.json", _class_name="Transformer2DModel")
    found, level, x = loaded(folder), wanted.schedule.at(300), latent(wanted)
    assert torch.equal(found(x, level).x0, wanted(x, level).x0)


def test_defaults_of_the_scheduler_are_those_of_its_class(copied):
    """What an older file leaves out: DDIM clips, and Euler's spacing is linspace."""
    folder = copied("pixel")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "DDIMScheduler", "timesteps": 1000, "timestep_values": None}))
    prior = loaded(folder)
    assert (prior.clip, prior.predicts, len(prior.schedule)) == (1.0, "eps", 1000)
    path.write_text(json.dumps({"_class_name": "EulerDiscreteScheduler", "steps_offset": 1}))
    assert (loaded(folder).schedule.spacing, loaded(folder).schedule.offset) == ("linspace", 1)


def test_a_network_inside_a_pipeline_finds_the_parts_beside_it(folders, priors):
    for kind, part in (("vq", "unet"), ("text", "unet"), ("dit", "transformer")):
        found, wanted = loaded(folders[kind] / part), priors[kind]
        x, level = latent(wanted), wanted.schedule.at(500)
        assert found.codec.agrees(wanted.codec)
        assert torch.equal(found(x, level).x0, wanted(x, level).x0)


def test_loading_asks_no_network_connection(folders, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for kind in ("vq", "text", "sd3"):
        loaded(folders[kind])


def test_loading_says_nothing(folders, capfd):
    loaded(folders["text"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_reduced_precision(kind, folders, priors):
    """Near to float32 in all kinds, with what is told beside the time, and the autoencoder in float32."""
    reduced, full = loaded(folders[kind], dtype="bfloat16"), priors[kind]
    level, x = full.schedule.at_ratio(1.0), latent(full)
    pair = [prior.labelled(1) if prior.labels else prior for prior in (reduced, full)]
    found, wanted = (prior(x, level).x0 for prior in pair)
    assert found.dtype == torch.float32
    assert 0 < (found - wanted).abs().max() < 0.3
    if reduced.latent:
        assert torch.equal(reduced.codec.decode(x), full.codec.decode(x))


# ---------------------------------------------------------------- the numbers of diffusers


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("says", ["epsilon", "sample", "v_prediction"])
def test_predictions_are_those_of_a_diffusers_step(says, spacing, copied):
    """Of the same output, over a whole run: x0, and the state that DDIM steps to."""
    folder = copied("pixel")
    clip = says != "v_prediction"
    scheduler = diffusers.DDIMScheduler(
        prediction_type=says, timestep_spacing=spacing, clip_sample=clip, steps_offset=int(spacing == "leading"),
        beta_schedule="scaled_linear", clip_sample_range=1.5,
    )  # fmt: skip
    scheduler.save_pretrained(folder / "scheduler")
    prior, x = loaded(folder), latent(loaded(folder))
    scheduler.set_timesteps(5)
    levels = prior.levels(5)
    assert [level.t for level in levels[:-1]] == scheduler.timesteps.tolist()
    for t, level in zip(scheduler.timesteps, levels, strict=False):
        out = prior.net(x, t).sample
        step = scheduler.step(out, t, x)
        torch.testing.assert_close(prior(x, level).x0, step.pred_original_sample, atol=2e-5, rtol=2e-5)
        x = step.prev_sample


def test_flow_predictions_are_those_of_a_diffusers_run(priors):
    prior, scheduler = priors["flow"], diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    levels = prior.levels(4)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    assert prior.schedule == Flow(1000, 2.0)
    assert [level.t for level in levels[:-1]] == pytest.approx(scheduler.timesteps.tolist(), abs=1e-3)
    x = wanted = latent(prior)
    for t in scheduler.timesteps:
        wanted = scheduler.step(prior.net(wanted, t[None]).sample, t, wanted).prev_sample
    found = last(sample(prior, x, levels, move=once(ddim)))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


RUNS = {
    "leading": {},
    "offset": {"steps_offset": 1},
    "trailing": {"timestep_spacing": "trailing"},
    "zero terminal": {
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "prediction_type": "v_prediction",
    },
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


@pytest.mark.parametrize("run", RUNS)
def test_a_ddim_run_is_that_of_the_pipeline(run, copied):
    folder = copied("pixel")
    scheduler = diffusers.DDIMScheduler(clip_sample=False, **RUNS[run])
    scheduler.save_pretrained(folder / "scheduler")
    prior = loaded(folder)
    assert isinstance(prior.schedule, Table)
    levels = prior.levels(10)
    assert (levels[0].alpha == 0) == (run == "zero terminal")
    pipe = diffusers.DDIMPipeline(prior.net, scheduler)
    pipe.set_progress_bar_config(disable=True)
    wanted = pipe(num_inference_steps=10, generator=torch.Generator().manual_seed(3), output_type="np").images
    x = noise(1, 3, 16, 16, seed=3)
    found = prior.codec.decode(last(sample(prior, x, levels, move=once(ddim)))).clamp(0, 1)
    torch.testing.assert_close(found.permute(0, 2, 3, 1), torch.from_numpy(wanted), atol=1e-4, rtol=0)


def test_a_latent_run_is_that_of_the_pipeline(folders, priors):
    """LDMPipeline, with the decoding of its VQ latents."""
    prior, pipe = priors["vq"], diffusers.LDMPipeline.from_pretrained(folders["vq"])
    pipe.set_progress_bar_config(disable=True)
    wanted = pipe(num_inference_steps=5, generator=torch.Generator().manual_seed(3), output_type="np").images
    x = last(sample(prior, noise(1, 3, 16, 16, seed=3), prior.levels(5), move=once(ddim)))
    found = prior.codec.decode(x).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(found, torch.from_numpy(wanted), atol=1e-4, rtol=0)


@pytest.mark.parametrize("negative", [None, "cat"])
def test_a_guided_run_is_that_of_the_pipeline(negative, folders, priors):
    """Stable Diffusion: prompt, negative prompt and classifier-free guidance, without the decoding."""
    prior, pipe = (
        priors["text"],
        diffusers.StableDiffusionPipeline.from_pretrained(folders["text"], safety_checker=None),
    )
    pipe.set_progress_bar_config(disable=True)
    x = noise(1, 4, 16, 16, seed=5)
    options = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "latent", "latents": x.clone()}
    wanted = pipe("a dog", negative_prompt=negative, height=32, width=32, **options).images
    denoise, cost = conditioned(prior, None, 3.0, prompt="a dog", negative_prompt=negative)
    assert cost == 2
    found = last(sample(denoise, x, prior.levels(5), move=once(ddim)))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    plain = last(sample(prior.prompted("a dog"), x, prior.levels(5), move=once(ddim)))
    assert (plain - found).abs().max() > 0.01


def test_a_guided_run_of_stable_diffusion_3_is_that_of_the_pipeline(folders, priors):
    parts = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))
    prior, pipe = priors["sd3"], diffusers.StableDiffusion3Pipeline.from_pretrained(folders["sd3"], **parts)
    pipe.set_progress_bar_config(disable=True)
    x, sigmas = noise(1, 4, 16, 16, seed=5), [1.0, 0.75, 0.5, 0.25]
    options = {"sigmas": sigmas, "guidance_scale": 2.0, "output_type": "latent", "latents": x.clone()}
    wanted = pipe("a dog", height=32, width=32, **options).images
    denoise, _ = conditioned(prior, None, 2.0, prompt="a dog")
    found = last(sample(denoise, x, prior.levels(4), move=once(ddim)))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_guided_run_of_a_dit_is_that_of_the_pipeline(folders, priors):
    prior, pipe = priors["dit"], diffusers.DiTPipeline.from_pretrained(folders["dit"])
    level, x = prior.schedule.at(400), latent(prior)
    denoise, cost = conditioned(prior, 2, 4.0)
    both, labels = torch.cat([x, x]), torch.tensor([2, 5])
    out = pipe.transformer(both, timestep=torch.tensor([400, 400]), class_labels=labels).sample[:, :4]
    eps = out[1:] + 4 * (out[:1] - out[1:])
    torch.testing.assert_close(denoise(x, level).eps, eps, atol=1e-4, rtol=1e-4)
    assert cost == 2


def test_guidance_comes_before_clipping(priors):
    """The x0 that a scheduler clips is that of the guided noise, and not guided itself."""
    prior, level = priors["classes"], priors["classes"].schedule.at(600)
    x = latent(prior)
    yes, no = (prior.net(x, torch.tensor([600]), class_labels=torch.tensor([i])).sample for i in (1, 3))
    eps = no + 3 * (yes - no)
    wanted = ((x - level.sigma * eps) / level.alpha).clamp(-1, 1)
    found = conditioned(prior, "dog", 3.0)[0](x, level)
    torch.testing.assert_close(found.x0, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(level.alpha * found.x0 + level.sigma * found.eps, x, atol=1e-4, rtol=1e-4)


def test_walks_stay_within_what_the_network_was_trained_on(priors):
    """The table of Stable Diffusion ends at a ratio of 14.6, although tasks would begin at 80."""
    levels = walk(priors["text"], 5, 80.0)
    assert levels[0].ratio == pytest.approx(priors["text"].schedule.at(999).ratio)
    assert levels[-1] == CLEAN
    assert walk(priors["v"], 5, 80.0)[0].ratio == pytest.approx(80.0)


# ---------------------------------------------------------------- prompts


def test_prompts(priors):
    prior = priors["text"]
    level, x = prior.schedule.at(500), latent(prior)
    dog, cat = prior.prompted("a dog"), prior.prompted("a cat")
    assert not torch.equal(dog(x, level).x0, cat(x, level).x0)
    assert torch.equal(prior(x, level).x0, prior.prompted("")(x, level).x0)
    assert torch.equal(dog.prompted("a cat")(x, level).x0, cat(x, level).x0)
    batch = dog(torch.cat([x, x]), level).x0
    torch.testing.assert_close(batch[:1], dog(x, level).x0, atol=1e-4, rtol=1e-4)
    with pytest.warns(UserWarning, match="longer than 16 tokens"):
        prior.prompted("a, b, c, d, e, f, g, h, i, j, k, l, m")
    with pytest.raises(InputError, match="takes no text: leave the prompt out"):
        priors["pixel"].prompted("a dog")


def test_prompts_without_transformers(folders, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'restore-diffusion\[text\]'") as error:
        loaded(folders["text"])
    assert "\n" not in str(error.value)
    loaded(folders["vq"])


# ---------------------------------------------------------------- what is refused


def spoil_config(part, **changes):
    return lambda folder: change(folder / part / "config.json", **changes)


def without(*parts):
    return lambda folder: [shutil.rmtree(folder / part) for part in parts]


def forgotten(*parts):
    """Neither there nor in the index."""

    def spoil(folder):
        without(*parts)(folder)
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if k not in parts}))

    return spoil


def rewritten(part, net):
    def spoil(folder):
        shutil.rmtree(folder / part)
        net().save_pretrained(folder / part)

    return spoil


BAD = {
    "a VAE without its UNet": ("text", forgotten("unet"), PriorError, "vae/ is an autoencoder alone; its denoiser"),
    "a VQ without its UNet": ("vq", forgotten("unet"), PriorError, "vqvae/ is an autoencoder alone; its denoiser"),
    "a part of the index": ("text", without("tokenizer"), InputError, "lists tokenizer/, which is not there"),
    "no VAE": ("text", forgotten("vae"), InputError, "takes 4 channels, latents, and there is no autoencoder"),
    "no VAE of a DiT": ("dit", forgotten("vae"), InputError, "takes 4 channels, latents, and there is no autoencoder"),
    "no text encoder": ("text", forgotten("text_encoder"), InputError, "is told a text, and there is no text_encoder/"),
    "no second encoder": ("sd3", forgotten("text_encoder_2"), InputError, "there is no text_encoder_2/ beside it"),
    "an inpainting UNet": (
        "text", rewritten("unet", lambda: tinypipes.text_unet(9)), InputError,
        "takes 9 channels, and the latents have 4: it is shown a picture or a mask too",
    ),
    "latents of another width": (
        "text", rewritten("vae", lambda: tinypipes.kl(latent_channels=8)), InputError,
        "takes 4 channels, and the latents have 8: the two do not belong together",
    ),
    "SDXL": ("text", spoil_config("unet", addition_embed_type="text_time"), InputError, "as Stable Diffusion XL does"),
    "unCLIP": ("text", spoil_config("unet", class_embed_type="projection"), InputError, "in the place of a class"),
    "images for prompts": ("text", spoil_config("unet", encoder_hid_dim_type="image_proj"), InputError, "of an image"),
    "consistency": ("text", spoil_config("unet", time_cond_proj_dim=256), InputError, "latent consistency"),
    "Flux": ("dit", spoil_config("transformer", _class_name="FluxTransformer2DModel"), InputError, "no support for"),
    "another transformer": (
        "dit", spoil_config("transformer", _class_name="Transformer2DModel", norm_type="layer_norm"), InputError,
        "only DiT's kind",
    ),
    "Sana": ("text", spoil_config("vae", _class_name="AutoencoderDC"), InputError, "no support for the autoencoder"),
    "a gray autoencoder": (
        "text", rewritten("vae", lambda: tinypipes.kl(in_channels=1, out_channels=1)), InputError, "pictures have 3",
    ),
    "another encoder": ("text", spoil_config("text_encoder", architectures=["Bert"]), InputError, "text encoder Bert"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_pipelines_that_are_refused(name, copied):
    kind, spoil, error, words = BAD[name]
    folder = copied(kind)
    spoil(folder)
    with pytest.raises(error) as caught:
        loaded(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parts_that_are_no_prior_by_themselves(folders):
    with pytest.raises(InputError, match=r"an autoencoder \(AutoencoderKL\) alone"):
        loaded(folders["text"] / "vae")
    with pytest.raises(InputError, match="CLIPTextModel of transformers"):
        loaded(folders["text"] / "text_encoder")


@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet"])
def test_damaged_weights_of_any_part(part, copied):
    folder = copied("text")
    (weights,) = (folder / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="weights cannot be read") as caught:
        loaded(folder)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


class Burglar:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet"])
def test_a_pickle_of_any_part_never_runs_code(part, copied, tmp_path):
    """And one of tensors alone is read."""
    folder, name = copied("text"), "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    wanted = loaded(folder)
    (weights,) = (folder / part).glob("*.safetensors")
    state = load_file(weights)
    weights.unlink()
    torch.save(state, folder / part / name)
    x, level = latent(wanted), wanted.schedule.at(500)
    assert torch.equal(loaded(folder)(x, level).x0, wanted(x, level).x0)
    torch.save({**state, "extra": Burglar(tmp_path / "stolen")}, folder / part / name)
    with pytest.raises(InputError, match=f"{part}: the weights cannot be read") as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "stolen").exists()


def test_dynamic_thresholding_is_refused(copied):
    folder = copied("pixel")
    change(folder / "scheduler" / "scheduler_config.json", thresholding=True)
    with pytest.raises(InputError, match="dynamic thresholding"):
        loaded(folder)


def test_levels_of_a_zero_terminal_schedule_need_another_prediction(copied):
    """Noise alone, at alpha 0, says nothing of x0 to a network that predicts the noise."""
    folder = copied("v")
    settings = folder / "scheduler" / "scheduler_config.json"
    change(settings, prediction_type="epsilon", timestep_spacing="trailing")
    prior = loaded(folder)
    assert prior.levels(5)[0] == Level(999.0, 0.0, 1.0)
    with pytest.raises(InputError, match="says nothing at alpha=0"):
        prior(latent(prior), prior.levels(5)[0])
