"""Files made by PIL, OpenCV and tifffile, read back by the same: formats, alpha, 16 bits."""

import struct
import threading
import warnings

import cv2
import numpy as np
import pytest
import tifffile
import torch
from pictures import H, W, bytes_of, camera, chunk, file_of, noise, opened, png16, smooth, tiff_of
from PIL import Image

from restore.errors import InputError
from restore.images import encode, like, read, write

# ---------------------------------------------------------------- formats, alpha, 16 bits


@pytest.mark.parametrize("format", ["png", "tif", "tiff", "webp"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_lossless_formats_are_exact(format, mode, tmp_path):
    im = Image.fromarray(noise(H, W, 4)).convert(mode)
    write(im, tmp_path / f"a.{format}")
    with Image.open(tmp_path / f"a.{format}") as made:
        if format != "webp":
            assert made.mode == mode
        assert (np.asarray(made.convert(mode)) == np.asarray(im)).all()
    picture = read(tmp_path / f"a.{format}")
    assert torch.equal(picture.rgb, read(im).rgb)
    if format.startswith("tif"):
        assert (tifffile.imread(tmp_path / f"a.{format}") == np.asarray(im)).all()


def test_bmp(tmp_path):
    x = noise(H, W, 3)
    write(x, tmp_path / "a.bmp")
    assert (cv2.imread(str(tmp_path / "a.bmp"))[..., ::-1] == x).all()
    with pytest.raises(InputError, match="transparency"):
        write(noise(H, W, 4), tmp_path / "b.bmp")
    with pytest.warns(UserWarning, match="EXIF"):
        encode(read(file_of(Image.fromarray(x), "PNG", exif=camera())), "bmp")


def test_alpha_of_a_palette():
    im = Image.fromarray(noise(H, W, 3)).quantize(16)
    data = file_of(im, "PNG", transparency=bytes([0, 40, 128] + [255] * 13))
    truth = np.asarray(opened(data).convert("RGBA"))
    assert len(np.unique(truth[..., 3])) == 4
    picture = read(data)
    assert (np.asarray(opened(like(picture, picture.rgb))) == truth).all()


def test_colour_key_of_gray_and_rgb():
    x = noise(H, W)
    data = file_of(Image.fromarray(x), "PNG", transparency=int(x[0, 0]))
    assert ((read(data).alpha[0, 0] == 0).numpy() == (x == x[0, 0])).all()
    assert read(data).gray
    x = noise(H, W, dtype=np.uint16)
    picture = read(png16(x, 0, chunk(b"tRNS", struct.pack(">H", x[0, 0]))))
    assert ((picture.alpha[0, 0] == 0).numpy() == (x == x[0, 0])).all()
    x = noise(H, W, 3, dtype=np.uint16)
    picture = read(png16(x, 2, chunk(b"tRNS", struct.pack(">HHH", *x[0, 0]))))
    assert ((picture.alpha[0, 0] == 0).numpy() == (x == x[0, 0]).all(axis=2)).all()
    assert picture.depth == 16


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("maker", ["cv2.png", "cv2.tiff", "tifffile", "tifffile big-endian", "tifffile zlib tiles"])
def test_16_bits_survive(maker, channels, tmp_path):
    shape = (H, W) if channels == 1 else (H, W, channels)
    x = noise(*shape, dtype=np.uint16)
    bgr = x if channels == 1 else x[..., [2, 1, 0, 3][:channels]]
    if maker.startswith("cv2"):
        data = cv2.imencode(maker[3:], bgr)[1].tobytes()
    else:
        options = {"big-endian": {"byteorder": ">"}, "zlib tiles": {"compression": "zlib", "tile": (16, 16)}}
        kind = "minisblack" if channels == 1 else "rgb"
        data = tiff_of(x, photometric=kind, **options.get(maker.removeprefix("tifffile "), {}))
    picture = read(data)
    assert picture.depth == 16
    assert picture.gray == (channels == 1)
    write(picture, tmp_path / "a.png")
    write(picture, tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        made = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)
        assert made.dtype == np.uint16
        assert (made == bgr).all()
        again = read(tmp_path / name)
        assert torch.equal(again.rgb, picture.rgb)
        assert again.depth == 16
    assert (tifffile.imread(tmp_path / "a.tif") == x).all()
    out = like(picture, picture.rgb)  # bytes in, bytes out
    assert (cv2.imdecode(np.frombuffer(out, np.uint8), cv2.IMREAD_UNCHANGED) == bgr).all()


def test_16_bit_gray_with_alpha():
    x = noise(H, W, 2, dtype=np.uint16)
    picture = read(png16(x, 4))
    assert picture.gray
    assert picture.depth == 16
    assert ((picture.rgb[0, 0] * 65535).round().numpy() == x[..., 0]).all()
    assert ((picture.alpha[0, 0] * 65535).round().numpy() == x[..., 1]).all()
    for format in ("png", "tif"):
        again = read(encode(picture, format))
        assert torch.equal(again.rgb, picture.rgb)
        assert torch.equal(again.alpha, picture.alpha)


@pytest.mark.parametrize("options", [{"planarconfig": "separate"}, {"extrasamples": ["assocalpha"]}])
def test_16_bits_that_cannot_be_read_are_said_to_be_8(options):
    x = noise(H, W, 4, dtype=np.uint16)
    array = np.moveaxis(x, -1, 0) if "planarconfig" in options else x
    data = tiff_of(array, photometric="rgb", **options)
    with pytest.warns(UserWarning, match="8 bits are used"):
        picture = read(data)
    assert picture.depth == 8
    assert (bytes_of(picture.rgb) == np.asarray(opened(data).convert("RGB"))).all()


def test_16_bit_colour_as_pil_and_as_jpeg(tmp_path):
    x = noise(H, W, 3, dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), x[..., ::-1])
    picture = read(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="PIL image holds 8 bits"):
        out = like(picture, picture.rgb)
    assert (np.asarray(out) == np.rint(x / 257)).all()
    kept = like(read(picture), picture.rgb)
    assert kept.depth == 16
    for extension in ("jpg", "webp", "bmp"):
        with pytest.warns(UserWarning, match="8 bits, not 16"):
            write(kept, tmp_path / f"b.{extension}")
    assert (np.asarray(Image.open(tmp_path / "b.webp")) == np.rint(x / 257)).all()


def test_gray_16_bit_path_gives_gray_16_bit_pil(tmp_path):
    x = noise(H, W, dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), x)
    picture = read(str(tmp_path / "a.png"))
    out = like(picture, picture.rgb)
    assert out.mode == "I;16"
    assert (np.asarray(out) == x).all()


def test_jpeg_holds_no_transparency(tmp_path):
    x = noise(H, W, 4)
    with pytest.raises(InputError, match="JPEG cannot hold transparency: write PNG, TIFF or WebP"):
        write(x, tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []
    x[..., 3] = 255
    write(x, tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").mode == "RGB"


def test_jpeg_tables_are_kept_if_they_are_fine():
    im = Image.fromarray(smooth(H, W, 3))
    for quality, sampling, kept in ((97, 2, True), (91, 1, True), (90, 0, True), (85, 2, False), (30, 2, False)):
        data = file_of(im, "JPEG", quality=quality, subsampling=sampling)
        picture = read(data)
        made = opened(like(picture, picture.rgb))
        truth = opened(data if kept else file_of(im, "JPEG", quality=95, subsampling=0))
        assert made.quantization == truth.quantization
        assert made.layer == truth.layer
    gray = read(file_of(im.convert("L"), "JPEG", quality=93))
    assert opened(like(gray, gray.rgb)).mode == "L"


def test_bytes_come_back_in_their_format():
    im = Image.fromarray(smooth(H, W, 3))
    wanted = {"PNG": "PNG", "JPEG": "JPEG", "WEBP": "WEBP", "TIFF": "TIFF", "BMP": "BMP", "GIF": "PNG", "PPM": "PNG"}
    for format, answer in wanted.items():
        data = file_of(im, format)
        picture = read(bytearray(data))
        out = like(picture, picture.rgb)
        assert isinstance(out, bytes)
        made = opened(out)
        assert made.format == answer
        if format != "JPEG":
            assert (np.asarray(made.convert("RGB")) == np.asarray(opened(data).convert("RGB"))).all()
    x = noise(H, W, 4)
    picture = read(cv2.imencode(".bmp", x[..., [2, 1, 0, 3]])[1].tobytes())  # BMP with alpha, which PIL cannot write
    made = opened(like(picture, picture.rgb))
    if picture.alpha is not None:  # older ones of Pillow do not see it
        assert made.format == "PNG"
        assert (np.asarray(made) == x).all()


def test_cmyk_goes_by_its_profile():
    im = Image.new("CMYK", (W, H), (200, 100, 50, 30))
    picture = read(file_of(im, "JPEG", quality=95))
    assert not picture.gray
    assert picture.icc is None
    assert (bytes_of(picture.rgb) == np.asarray(opened(file_of(im, "JPEG", quality=95)).convert("RGB"))).all()


def cmyk_profile():  # the smallest there is: lightness falls with cyan and with black, everything is gray
    grid = np.indices((2, 2, 2, 2)).reshape(4, -1).T
    lab = np.full((16, 3), 128, np.uint8)
    lab[:, 0] = 255 * (1 - grid[:, 0] * 0.5) * (1 - grid[:, 3])
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + lab.tobytes() + ramp * 3
    head = struct.pack(">I4sI4s4s4s12x4s", 144 + len(table), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def test_cmyk_with_a_profile():
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255)]
    im = Image.fromarray(np.array([inks], np.uint8), "CMYK")
    im.info["icc_profile"] = cmyk_profile()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = read(im)
    rgb = bytes_of(picture.rgb)[0].astype(int)
    assert np.abs(rgb - [[255] * 3, [119] * 3, [0] * 3]).max() <= 3  # L* of 50 is 119 in sRGB
    assert picture.icc is None


def test_first_frame_with_a_warning():
    frames = [Image.fromarray(noise(H, W, 3, seed=i)) for i in range(3)]
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = file_of(frames[0], format, save_all=True, append_images=frames[1:], **options)
        with pytest.warns(UserWarning, match="only the first"):
            picture = read(data)
        if format != "GIF":
            assert (bytes_of(picture.rgb) == np.asarray(frames[0])).all()
    data = file_of(Image.fromarray(smooth(H, W, 3)), "MPO", save_all=True, append_images=[frames[1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(data).format == "JPEG"


# ---------------------------------------------------------------- threads


def test_many_threads():
    data = file_of(Image.fromarray(noise(H, W, 3)), "PNG")
    truth, wrong = read(data).rgb, []

    def work():
        for _ in range(20):
            wrong.append(not torch.equal(read(data).rgb, truth))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [False] * 80
