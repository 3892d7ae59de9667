"""The command line: parse, call one function of `restore.tasks`, report."""

import os
import sys
import traceback
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from restore import __version__
from restore.cli import (
    colorize,
    common,
    deblur,
    degrade,
    denoise,
    edit,
    generate,
    inpaint,
    priors,
    refine,
    repair,
    score,
    serve,
    train,
    translate,
    upscale,
)
from restore.errors import RestoreError

# typer brings its own click, or, before 0.26, takes click as it is installed; this is the base of either's errors
_UsageError = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if not issubclass(category, FutureWarning | DeprecationWarning | PendingDeprecationWarning):
        common.say("note", message)


class _Commands(TyperGroup):
    """Says what commands raise in one line on standard error, and ends with its exit code."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        with warnings.catch_warnings():
            warnings.showwarning = _note
            code = self._code(*args, **{**options, "standalone_mode": False})
        if code == 130:
            common.say("error", "interrupted; files already finished are kept")
        sys.exit(code)

    def _code(self, *args: Any, **options: Any) -> int:
        try:
            return super().main(*args, **options) or 0
        except RestoreError as error:
            common.say("error", error)
            return error.exit_code
        except (KeyboardInterrupt, typer.Abort):
            return 130
        except _UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()
            else:
                hint = f" ('{error.ctx.command_path} -h' for help)" if getattr(error, "ctx", None) else ""
                text = error.format_message().replace("Value error, ", "").replace("Input should", "it should")
                common.say("error", text.rstrip(".") + hint)
            return error.exit_code
        except OSError as error:
            common.say("error", ": ".join(str(part) for part in (error.filename, error.strerror) if part) or error)
            return 2
        except Exception as error:
            if os.environ.get("RESTORE_DEBUG"):
                traceback.print_exc()
            name = type(error).__name__
            hint = "set RESTORE_DEBUG=1 for the whole story, and please report it"
            common.say("internal error", f"{name}: {error} ({hint})")
            return 1


app = typer.Typer(
    name="restore",
    cls=_Commands,
    help="Restore and edit photographs with pretrained diffusion priors.",
    epilog="Exit codes: 0 done, 1 internal error, 2 usage or bad input, 3 some files of a batch failed, "
    "4 prior not available, 5 out of memory, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"restore {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Restore and edit photographs with pretrained diffusion priors."""


app.command("inpaint", short_help="Repaint the white part of a mask.")(inpaint.inpaint)
app.command("upscale", short_help="More pixels: 2, 3, 4 ... times as large.")(upscale.upscale)
app.command("deblur", short_help="Undo a blur.")(deblur.deblur)
app.command("denoise", short_help="Remove noise.")(denoise.denoise)
app.command("colorize", short_help="Colours for gray pictures.")(colorize.colorize)
app.command("repair", short_help="What a conditional prior was trained to undo.")(repair.repair)
app.command("edit", short_help="Make a sketch or a picture look real (SDEdit).")(edit.edit)
app.command("refine", short_help="A new picture with the same layout (ILVR).")(refine.refine)
app.command("translate", short_help="From one prior or class to another (DDIB).")(translate.translate)
app.command("generate", short_help="Pictures from noise.")(generate.generate)
app.command("score", short_help="Say how close two pictures are: PSNR, SSIM, LPIPS.")(score.score)
app.command("degrade", short_help="Make test inputs: blurred, shrunk, gray, noisy ...")(degrade.degrade)
app.command("serve", short_help="For plugins of photo editors, and a page.")(serve.serve)
app.add_typer(priors.app, name="priors")
app.add_typer(train.app, name="train")
