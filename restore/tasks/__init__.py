"""What a user asks for: a picture in, the restored picture out, with defaults that were measured."""

from restore.tasks.common import Options, Preset
from restore.tasks.denoising import Denoise, denoise
from restore.tasks.editing import Edit, Refine, Translate, edit, refine, translate
from restore.tasks.inpainting import INPAINT_METHODS, Inpaint, inpaint
from restore.tasks.inverse import Colorize, Deblur, colorize, deblur
from restore.tasks.repair import Repair, repair
from restore.tasks.sampling import Generate, generate, read_size
from restore.tasks.upscaling import Upscale, upscale

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
    "Repair",
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
    "repair",
    "translate",
    "upscale",
]
