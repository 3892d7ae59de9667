"""The page at `/`: a gradio that keeps the original on the server, and takes nothing but a mask from the canvas."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported

import gradio as gr

from restore.serve.engine import Engine
from restore.serve.models import Models
from restore.serve.page_events import Page
from restore.serve.page_guard import PageGuard
from restore.serve.page_jobs import AS_GIVEN, CANVAS, PNG, Answer, Answers
from restore.serve.settings import Settings
from restore.tasks.common import QUALITIES

HEIGHT = 480  # pixels of what is painted on, and of what is shown
MOST = 4  # answers at once, by the slider
ROOM = 32  # times the largest request: the bytes that uploads and answers may take
TITLES = {
    "inpaint": "Inpaint", "upscale": "Upscale", "denoise": "Denoise", "deblur": "Deblur", "colorize": "Colorize",
    "edit": "Edit", "generate": "Generate",
}  # fmt: skip
CSS = """
footer { display: none !important; }
.gradio-container { max-width: 1800px !important; padding: 8px 12px !important; }
#title h1 { margin: 0; font-size: 1.35rem; } #title p { margin: 0; opacity: .75; }
#controls { gap: 10px; } #controls fieldset label { padding: 5px 9px; }
.job { display: flex; gap: 14px; align-items: center; } .job > div { flex: 1; min-width: 110px; }
.job img { max-height: 110px; max-width: 65%; border-radius: 6px; }
.job .bar { height: 8px; margin-top: 8px; border-radius: 4px; overflow: hidden; }
.job .bar { background: var(--border-color-primary); }
.job .bar div { height: 100%; background: var(--color-accent); transition: width .3s; }
#download { font-size: .85rem; }
.problem { color: var(--error-text-color, #b91c1c); font-weight: 600; }
"""


def layout(page: Page) -> gr.Blocks:
    """The page."""
    facts = page.controls(None, None, None)
    plain: dict[str, Any] = {"preprocess": False, "api_visibility": "private", "show_progress": "hidden"}
    most = min(MOST, page.settings.max_samples)
    with gr.Blocks(title="restore", analytics_enabled=False, fill_width=True) as blocks:
        gr.Markdown("# restore\nDrop a picture, choose what to do, run. The answer keeps its size.", elem_id="title")
        kept, drawn = gr.State(None, time_to_live=3600), gr.JSON(visible=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=290, elem_id="controls"):
                titles = [(TITLES[task], task) for task in page.tasks]
                task = gr.Dropdown(titles, value=page.tasks[0], label="Task", elem_id="task")
                picture = gr.File(label="Picture", file_count="single", height=110, elem_id="picture")
                holes = gr.Radio(label="What to repaint", elem_id="holes", **facts["holes"])
                mask = gr.File(label="Mask: white is repainted", height=110, elem_id="mask", **facts["mask"])
                scale = gr.Radio([2, 3, 4], value=2, label="Times", **facts["scale"])
                kernel = gr.Textbox("motion:15,30", label="Blur", **facts["kernel"])
                kernel.info = "gaussian:SIGMA, motion:LENGTH,DEGREES, disk:RADIUS"
                sigma = gr.Textbox("", label="Noise, of 255", placeholder="estimated", **facts["sigma"])
                strength = gr.Slider(0, 1, 0.5, step=0.05, label="Strength", **facts["strength"])
                side = gr.Number(128, precision=0, label="Side in pixels", **facts["side"])
                prior = gr.Dropdown(label="Prior", **facts["prior"])
                label = gr.Dropdown(label="Class", **facts["label"])
                prompt = gr.Textbox(label="Prompt", **facts["prompt"])
                quality = gr.Radio(list(QUALITIES), value="normal", label="Quality")
                samples = gr.Slider(1, most, 1, step=1, label="Answers", visible=most > 1, elem_id="samples")
                with gr.Accordion("More", open=False):
                    method = gr.Dropdown(label="Method", **facts["method"])
                    seed = gr.Number(0, precision=0, label="Seed")
                    file = gr.Radio([AS_GIVEN, PNG], value=AS_GIVEN, label="File")
                with gr.Row():
                    start = gr.Button("Run", variant="primary", elem_id="run", min_width=120)
                    stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=80, interactive=False)
            with gr.Column(scale=5, min_width=420):
                canvas = gr.ImageEditor(
                    label="Paint over what is to be repainted", sources=(), transforms=(), layers=False, format="png",
                    brush=gr.Brush(12, colors=["rgba(255, 64, 64, 0.6)"], color_mode="fixed"),
                    elem_id="canvas", placeholder="Drop a picture first",
                    buttons=["fullscreen"], canvas_size=(CANVAS, 3 * CANVAS // 4), height=HEIGHT, **facts["canvas"],
                )  # fmt: skip
                shown = gr.Image(
                    label="Picture", interactive=False, buttons=["fullscreen"], height=HEIGHT, **facts["shown"]
                )
                what = gr.HTML(elem_id="what")
            with gr.Column(scale=5, min_width=420):
                slider = gr.ImageSlider(
                    label="Before and after", interactive=False, buttons=["fullscreen"], elem_id="slider",
                    max_height=HEIGHT, height=HEIGHT,
                )  # fmt: skip
                alone = gr.Image(
                    label="Answer", interactive=False, visible=False, buttons=["fullscreen"], height=HEIGHT
                )
                status = gr.HTML(elem_id="status")
                gallery = gr.Gallery(
                    show_label=False, visible=False, columns=4, height=150, allow_preview=False, object_fit="contain",
                    interactive=False, buttons=[], elem_id="gallery",
                )  # fmt: skip
                download = gr.DownloadButton("Download", interactive=False, elem_id="download")

        ruled = {
            "prior": prior, "method": method, "holes": holes, "mask": mask, "label": label, "prompt": prompt,
            "scale": scale, "kernel": kernel, "sigma": sigma, "strength": strength, "side": side, "picture": picture,
            "canvas": canvas, "shown": shown, "what": what,
        }  # fmt: skip
        inputs = {**ruled, "task": task, "quality": quality, "samples": samples, "seed": seed, "file": file}
        inputs["canvas"] = drawn
        del inputs["shown"], inputs["what"]

        def rule(*values: Any) -> list[Any]:
            return [gr.update(**facts) for facts in page.controls(*values).values()]

        def one(answer: Answer) -> list[Any]:
            pair = answer.before is not None
            name = f"Download {answer.file.name}, {answer.size[0]} x {answer.size[1]}"
            return [
                gr.update(value=(str(answer.before), str(answer.after)) if pair else None, visible=pair),
                gr.update(value=None if pair else str(answer.after), visible=not pair),
                gr.update(value=str(answer.file), label=name, interactive=True),
            ]

        async def run(request: gr.Request, *values: Any) -> AsyncIterator[list[Any]]:
            told = dict(zip(inputs, values, strict=True))
            results = [gr.skip()] * 5
            async for text, answers in page.run(told, request.session_hash):
                if answers is not None:
                    several = [str(answer.after) for answer in answers.answers]
                    many = gr.update(value=several if len(several) > 1 else [], visible=len(several) > 1)
                    results = [*one(answers.answers[0]), many, answers]
                yield [text, gr.update(interactive=False), gr.update(interactive=True), *results]
            yield [gr.skip(), gr.update(interactive=True), gr.update(interactive=False), *[gr.skip()] * 5]

        def choose(answers: Answers | None, event: gr.SelectData) -> list[Any]:
            if answers is None or type(event.index) is not int or not 0 <= event.index < len(answers.answers):
                return [gr.skip()] * 3
            return one(answers.answers[event.index])

        def halt(request: gr.Request) -> None:
            page.left(request.session_hash)

        for trigger in (task.change, prior.input, holes.input):
            trigger(rule, [task, prior, holes], list(ruled.values()), show_progress_on=prior, **plain)
        picture.change(page.drop, picture, [canvas, shown, what], show_progress_on=what, concurrency_limit=1, **plain)
        results = [slider, alone, download, gallery, kept]
        # gradio uploads the canvas again at each message of an event that knows it: this one has no messages
        painted = start.click(None, canvas, drawn, js="(canvas) => canvas", api_visibility="private")
        painted.then(run, list(inputs.values()), [status, start, stop, *results], concurrency_limit=None, **plain)
        stop.click(halt, None, None, concurrency_limit=None, **plain)
        gallery.select(choose, kept, [slider, alone, download], **plain)
        blocks.unload(halt)
    return blocks


def mount(app: FastAPI, engine: Engine, models: Models, settings: Settings) -> FastAPI:
    """Put the page at `/`, behind all routes that the app has already, with files in a folder that goes with it."""
    place = tempfile.TemporaryDirectory(prefix="restore-page-", ignore_cleanup_errors=True)
    folder = Path(place.name).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder)
    page = Page(engine, models, settings, folder)
    blocks = layout(page)
    blocks.queue(api_open=False, max_size=8 * settings.max_queue, default_concurrency_limit=8)
    blocks._queue.ANALYTICS_MAX_EVENTS, blocks._queue.ANAYLTICS_CACHE_FREQUENCY = 100, 10**9  # sic: counts nothing
    blocks.state_session_capacity = 500
    system = ["system-ui", "sans-serif"]
    gr.mount_gradio_app(
        app, blocks, "/", server_name=settings.host, server_port=settings.port, footer_links=[], run_history=False,
        show_error=False, max_file_size=settings.max_body, ssr_mode=False, enable_monitoring=False, pwa=False,
        mcp_server=False, css=CSS, theme=gr.themes.Default(font=system, font_mono=["ui-monospace", "monospace"]),
    )  # fmt: skip
    blocks.has_launched = True  # gradio checks the paths of files in no other case
    mounted = app.routes[-1]
    mounted.app = PageGuard(mounted.app, blocks, folder, engine, ROOM * settings.max_body, page.left)
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def cleaning(app: FastAPI) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            yield state
        place.cleanup()

    app.router.lifespan_context = cleaning
    app.state.page_folder = place
    return app
