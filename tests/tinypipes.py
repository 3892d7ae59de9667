"""Tiny pipelines with random weights, in the folders that diffusers itself writes."""

import json

import diffusers
import torch

from restore.load import load_prior

BLOCKS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
WORDS = ("a", "b", "c", "dog", "cat")


def loaded(folder, **options):
    return load_prior(folder, **{"device": "cpu", "dtype": "float32", **options})


def alive(net):
    """Random weights wherever a layer starts at zero, so that each of its inputs counts."""
    with torch.no_grad():
        for weight in net.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.1)
    return net.eval()


def unet(channels=3, size=16, **options):
    """With attention at its lower scale."""
    kinds = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    out = options.pop("out_channels", channels)
    more = {**BLOCKS, **kinds, "attention_head_dim": 4, **options}
    return alive(diffusers.UNet2DModel(sample_size=size, in_channels=channels, out_channels=out, **more))


def local_unet(size=16, **options):
    """Without attention and without norms over pixels but for groups, at one scale: what it sees is near."""
    kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return unet(size=size, **kinds, add_attention=False, **options)


def text_unet(channels=4, size=16, width=12, **options):
    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    kinds["up_block_types"] = ("UpBlock2D", "CrossAttnUpBlock2D")
    more = {**BLOCKS, **kinds, "cross_attention_dim": width, "attention_head_dim": 2, "out_channels": 4, **options}
    return alive(diffusers.UNet2DConditionModel(sample_size=size, in_channels=channels, **more))


def dit(channels=4, size=8, classes=5, **options):
    shape = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "patch_size": 2, "norm_num_groups": 4}
    more = {"out_channels": 2 * channels, "num_embeds_ada_norm": classes, **shape, **options}
    return alive(diffusers.DiTTransformer2DModel(in_channels=channels, sample_size=size, **more))


VAE = {
    "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip


def kl(**options):
    more = {"latent_channels": 4, "sample_size": 32, "scaling_factor": 0.7, **options}
    return diffusers.AutoencoderKL(**VAE, **more).eval()


def vq(**options):
    return diffusers.VQModel(
        **VAE, **{"latent_channels": 3, "num_vq_embeddings": 16, "scaling_factor": 0.5, **options}
    ).eval()


def clip(width=12, projection=None):
    """A text encoder and its tokenizer, of a few words and no merges."""
    import transformers

    vocab = {word: i for i, word in enumerate([*"abcdefghijklmnopqrstuvwxyz,"])}
    vocab |= {f"{word}</w>": len(vocab) + i for i, word in enumerate([*"abcdefghijklmnopqrstuvwxyz,"])}
    vocab |= {name: len(vocab) + i for i, name in enumerate(["<|startoftext|>", "<|endoftext|>"])}
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, projection_dim=projection or width,
        bos_token_id=vocab["<|startoftext|>"], eos_token_id=vocab["<|endoftext|>"],
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config).eval(), tokenizer


DDIM = diffusers.DDIMScheduler
LATENT = {"clip_sample": False, "set_alpha_to_one": True}


def stable(scheduler=None, **options):
    """Stable Diffusion: KL latents and a text."""
    encoder, tokenizer = clip()
    return diffusers.StableDiffusionPipeline(
        kl(), encoder, tokenizer, text_unet(**options),
        scheduler or DDIM(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, **LATENT),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def stable3():
    (one, words), (two, more) = clip(8, 8), clip(8, 8)
    net = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=4,
        num_attention_heads=2, joint_attention_dim=20, caption_projection_dim=8, pooled_projection_dim=16,
        pos_embed_max_size=24,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        alive(net), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), kl(shift_factor=0.1),
        one, words, two, more, None, None,
    )  # fmt: skip


PIPELINES = {
    "pixel": lambda: diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()),
    "learned variance": lambda: diffusers.DDPMPipeline(
        unet(out_channels=6), diffusers.DDPMScheduler(variance_type="learned_range")
    ),
    "v": lambda: diffusers.DDIMPipeline(
        unet(),
        DDIM(prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False),
    ),
    "sample": lambda: diffusers.DDIMPipeline(unet(), DDIM(prediction_type="sample", clip_sample_range=2.0)),
    "vq": lambda: diffusers.LDMPipeline(vq(), unet(), DDIM(beta_schedule="scaled_linear", **LATENT)),
    "text": stable,
    "dit": lambda: diffusers.DiTPipeline(dit(), kl(), DDIM(**LATENT), dict(enumerate(WORDS))),
    "sd3": stable3,
}  # fmt: skip


def saved(kind, folder):
    """The folder of one of PIPELINES, or one of the two that no pipeline of diffusers writes."""
    torch.manual_seed(0)
    if kind == "classes":
        unet(num_class_embeds=4).save_pretrained(folder / "unet")
        diffusers.DDPMScheduler().save_pretrained(folder / "scheduler")
        (folder / "labels.json").write_text(json.dumps(["cat", "dog", "owl"]))  # and one for none
    elif kind == "flow":
        unet().save_pretrained(folder / "unet")
        diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0).save_pretrained(folder / "scheduler")
    else:
        PIPELINES[kind]().save_pretrained(folder)
    return folder


KINDS = (*PIPELINES, "classes", "flow")
LATENTS = ("vq", "text", "dit", "sd3")
