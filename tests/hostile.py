"""Strange and hostile pictures, the places of the protocols that take one, and what a refusal has to look like."""

import base64
import json
import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image
from serve_app import b64, hole, png, scene

SCENE, MASK = scene(), hole()
CLEAR = png(np.dstack([SCENE, 255 - MASK]))  # transparent in the hole, as OpenAI has it
HUGE = 60_000  # a side that no picture has


def e64(data):
    return base64.b64encode(data).decode()


# ---------------------------------------------------------------- files


def chunk(kind, body):
    """Of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bare_png(width, height, depth=8, between=b""):
    """A PNG whose header says so, with a few pixels of data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(48 * (64 * 6 + 1))))
    return b"\x89PNG\r\n\x1a\n" + header + between + data + chunk(b"IEND", b"")


def bare_tiff(width, height, *extra):
    """An uncompressed TIFF of one channel; extra: (tag, kind, count, value) more of its tags."""
    body = bytes(width * height if width * height < 10**6 else 0)
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(body)}
    rows = sorted([*((tag, 4, 1, value) for tag, value in tags.items()), *extra])
    directory = struct.pack("<H", len(rows)) + b"".join(struct.pack("<HHII", *row) for row in rows) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory


def bare_gif(width, height):
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"," + bytes(9) + b"\x02\x02L\x01\0;"


def bare_bmp(width, height):
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def bare_webp(width, height):
    """Lossless WebP's header: at most 16384 x 16384."""
    size = (width - 1) | (height - 1) << 14
    data = b"VP8L" + struct.pack("<IBI", 13, 0x2F, size) + bytes(9)
    return b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WEBP" + data


def with_chunk(kind, body):
    """The scene, with one more chunk after its header."""
    data = png(SCENE)
    return data[:33] + chunk(kind, body) + data[33:]


def saved(image, format="PNG", **options):
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def turned(data=None):
    """The scene as a JPEG that EXIF turns by a quarter."""
    exif = Image.Exif()
    exif[274] = 6
    return saved(Image.fromarray(SCENE), "JPEG", exif=exif.tobytes(), quality=95)


PIL = Image.fromarray(SCENE)
BOMBS = {  # headers that declare far more than there is
    "PNG": bare_png(HUGE, HUGE), "PNG with 16 bits": bare_png(30_000, 30_000, 16), "TIFF": bare_tiff(HUGE, HUGE),
    "GIF": bare_gif(HUGE, HUGE), "BMP": bare_bmp(HUGE, HUGE), "BMP upside down": bare_bmp(HUGE, -HUGE),
    "WebP": bare_webp(16383, 16383), "PPM": f"P6 {HUGE} {HUGE} 255\n".encode(),
    "a second header": bare_png(64, 48, 16, chunk(b"IHDR", struct.pack(">IIBBBBB", HUGE, HUGE, 16, 2, 0, 0, 0))),
    "a line": bare_png(65_536, 1), "a column": bare_png(1, 70_000),
}  # fmt: skip
BROKEN = {  # what is no picture, or no longer
    "text": b"hello" * 99, "one byte": b"\x89", "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "an EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "an icon": saved(PIL, "ICO"),
    "half a PNG": png(SCENE)[:900], "a PNG without its end": png(SCENE)[:-12], "half a JPEG": png(SCENE, "JPEG")[:700],
    "half a WebP": png(SCENE, "WEBP")[:300], "only a header": png(SCENE)[:33], "no GIF": bare_gif(0, 0),
    "no pixels": bare_png(0, 0), "no rows": bare_tiff(5, 0), "no columns": b"P6 0 5 255\n", "no BMP": bare_bmp(0, 0),
    "a bomb of text": with_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8))),
    "a bomb of a profile": with_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(10**8))),
    "floats": saved(Image.fromarray(SCENE[..., 0].astype(np.float32)), "TIFF"),
}  # fmt: skip
ODD = {  # strange, but pictures
    "1 x 1": png(np.zeros((1, 1, 3), np.uint8)), "1 x 10000": png(np.zeros((10_000, 1, 3), np.uint8)),
    "10000 x 1": png(np.zeros((1, 10_000, 3), np.uint8)), "16 bits": png((SCENE[..., 0] * 200.0).astype(np.uint16)),
    "CMYK": saved(PIL.convert("CMYK"), "JPEG"), "a broken profile": saved(PIL, icc_profile=b"junk" * 99),
    "CMYK with a broken profile": saved(PIL.convert("CMYK"), "JPEG", icc_profile=b"junk" * 99),
    "a palette": saved(PIL.quantize(9)), "a palette with a hole": saved(PIL.quantize(9), transparency=3),
    "bilevel": saved(PIL.convert("1")), "gray with alpha": saved(PIL.convert("LA")), "RGBA": CLEAR,
    "32 bits": saved(Image.fromarray(SCENE[..., 0].astype(np.int32)), "TIFF"), "Lab": saved(PIL.convert("LAB"), "TIFF"),
    "an animation": saved(PIL, "GIF", save_all=True, append_images=[Image.fromarray(255 - SCENE)] * 3),
    "black": png(np.zeros_like(MASK)), "white": png(np.full_like(MASK, 255)), "turned": turned(),
    "another aspect": png(scene(40, 48)), "the double": png(scene(128, 96)),
    "two headers": bare_png(32_000, 32_000, 16, chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0))),
    "a number as profile": bare_tiff(64, 48, (34675, 3, 1, 7)),
    "numbers as profile": bare_tiff(64, 48, (34675, 3, 2, 7)),
    "a number as XMP": bare_tiff(64, 48, (700, 3, 1, 7)), "numbers as XMP": bare_tiff(64, 48, (700, 3, 2, 7)),
    "broken EXIF": with_chunk(b"eXIf", b"II*\0junkjunkjunk"), "no resolution": with_chunk(b"pHYs", bytes(9)),
}  # fmt: skip


# ---------------------------------------------------------------- where they are sent


def multipart(**files):
    return {"files": {name: ("../../x", data) for name, data in files.items()}}


PLACES = {  # name: data -> (path, what a client's post() takes)
    "init_images": lambda x: ("/sdapi/v1/img2img", {"json": {"init_images": [e64(x)], "steps": 1}}),
    "init_images with a mask": lambda x: (
        "/sdapi/v1/img2img",
        {"json": {"init_images": [e64(x)], "mask": b64(MASK), "steps": 1, "inpaint_full_res_padding": 32}},
    ),
    "mask": lambda x: ("/sdapi/v1/img2img", {"json": {"init_images": [b64(SCENE)], "mask": e64(x), "steps": 1}}),
    "extra": lambda x: ("/sdapi/v1/extra-single-image", {"json": {"image": e64(x), "upscaler_1": "Lanczos"}}),
    "extra to a size": lambda x: (
        "/sdapi/v1/extra-single-image",
        {"json": {"image": e64(x), "upscaler_1": "None", "resize_mode": 1, "upscaling_resize_w": 70}},
    ),
    "batch": lambda x: (
        "/sdapi/v1/extra-batch-images",
        {"json": {"imageList": [{"data": e64(x), "name": "../../x"}], "upscaler_1": "Nearest"}},
    ),
    "png-info": lambda x: ("/sdapi/v1/png-info", {"json": {"image": e64(x)}}),
    "IOPaint's image": lambda x: ("/api/v1/inpaint", {"json": {"image": e64(x), "mask": b64(MASK)}}),
    "IOPaint's mask": lambda x: ("/api/v1/inpaint", {"json": {"image": b64(SCENE), "mask": e64(x)}}),
    "OpenAI's image": lambda x: ("/v1/images/edits", multipart(image=x, mask=CLEAR)),
    "OpenAI's mask": lambda x: ("/v1/images/edits", multipart(image=png(SCENE), mask=x)),
    "OpenAI's image alone": lambda x: ("/v1/images/edits", multipart(image=x)),
}
TEXTS = [name for name in PLACES if "OpenAI" not in name]  # where a picture is base64
JSON = sorted({PLACES[name](b"x")[0] for name in TEXTS} | {"/sdapi/v1/txt2img"})
LEAKS = ("Traceback", "/work", "/home", "/tmp", "site-packages", ".py", "BytesIO", "0x7f")


def send(app, place, data):
    path, given = PLACES[place](data)
    return app.post(path, **given)


def strict(text):
    """JSON as the standard has it: without NaN."""

    def no(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=no)


def message(answer):
    """The one line of a refusal, in the shape of its protocol. Fails where it has another."""
    assert answer.headers["content-type"] == "application/json", answer.text
    found = strict(answer.text)
    openai = answer.request.url.path.startswith("/v1/")
    line = found["error"]["message"] if openai else found["detail"]
    assert isinstance(line, str)
    assert line
    assert "\n" not in line
    assert len(line) < 1000
    assert not [leak for leak in LEAKS if leak in answer.text], answer.text
    return line


def refused(answer, *statuses):
    """The one line of an answer that is 4xx."""
    assert answer.status_code in (statuses or range(400, 500)), (answer.status_code, answer.text[:500])
    return message(answer)
