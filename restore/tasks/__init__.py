"""What a user asks for: a picture in, the restored picture out, with defaults that were measured."""

from restore.tasks.common import Options, Preset
from restore.tasks.denoising import Denoise, denoise
from restore.tasks.editing import Edit, Refine, Translate, edit, refine, translate
from restore.tasks.inpainting import INPAINT_METHODS, Inpaint, inpaint
from restore.tasks.inverse import Colorize, Deblur, Upscale, colorize, deblur, upscale
from restore.tasks.sampling import Generate, generate, read_size

__all__ = [
    "INPAINT_METHODS",
    "Colorize",
    "Deblur",
    "Denoise",
    "Edit",
    "Generate",
    "Inpaint",
    "Options",
    "Preset",
    "Refine",
    "Translate",
    "Upscale",
    "colorize",
    "deblur",
    "denoise",
    "edit",
    "generate",
    "inpaint",
    "read_size",
    "refine",
    "translate",
    "upscale",
]
