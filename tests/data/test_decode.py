import io
import logging
import os
import subprocess
import sys
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from medvision.data.decode import decode, decode_all, decode_chunks
from medvision.data.limits import MAX_PIXELS
from medvision.data.resize import conform_all
from medvision.errors import BadImage

SIZE = (64, 96)
ENCODINGS = [
    pytest.param("JPEG", {"quality": 95}, id="jpeg"),
    pytest.param("JPEG", {"quality": 90, "progressive": True}, id="jpeg-progressive"),
    pytest.param("PNG", {}, id="png"),
    pytest.param("BMP", {}, id="bmp"),
    pytest.param("TIFF", {}, id="tiff"),
    pytest.param("TIFF", {"compression": "tiff_lzw"}, id="tiff-lzw"),
    pytest.param("TIFF", {"compression": "jpeg"}, id="tiff-jpeg"),
    pytest.param("WEBP", {"lossless": True}, id="webp"),
    pytest.param("WEBP", {"quality": 90}, id="webp-lossy"),
]


def by_pil(data, mode="RGB"):
    """The independent oracle: (C, H, W) of what PIL reads."""
    pixels = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def difference(a, b):
    assert a.shape == b.shape
    return np.abs(a.astype(int) - b.astype(int)).max()


@pytest.mark.parametrize(("kind", "options"), ENCODINGS)
def test_formats_agree_with_pil(picture, encode, kind, options):
    data = encode(picture, kind, **options)
    image = decode(data, SIZE, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert difference(image, by_pil(data)) <= 2
    assert difference(decode(data, SIZE, 1), by_pil(data, "L")) <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(picture, encode, kind, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    data = encode(picture, kind, exif=exif, **options)
    assert difference(decode(data, SIZE if orientation < 5 else SIZE[::-1], 3), by_pil(data)) <= 2


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "JPEG"), ("L", "PNG"), ("1", "PNG"), ("1", "TIFF"), ("1", "BMP"), ("P", "PNG"), ("P", "BMP"), ("P", "TIFF"),
     ("LA", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP"), ("CMYK", "JPEG"), ("CMYK", "TIFF")],
)  # fmt: skip
def test_every_mode_becomes_rgb_and_alpha_is_dropped(picture, encode, mode, kind):
    image = Image.fromarray(picture).convert(mode)
    if mode.endswith("A"):
        # Never 0: WebP is free to change colours that cannot be seen.
        image.putalpha(Image.fromarray(np.random.default_rng(1).integers(1, 256, SIZE, dtype=np.uint8)))
    data = encode(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert difference(decode(data, SIZE, 3), by_pil(data)) <= 1


def test_opaque_tiff_alpha_is_dropped(picture, encode):
    data = encode(Image.fromarray(picture).convert("RGBA"), "TIFF")
    assert difference(decode(data, SIZE, 3), picture.transpose(2, 0, 1)) == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_keep_their_levels(encode, kind):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = decode(encode(ramp, kind), 256, 1)[0]
    np.testing.assert_array_equal(image, np.rint(ramp / 257))
    assert len(np.unique(image)) == 256


def test_sixteen_bit_colour(tmp_path):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / "colour.png"
    cv2.imwrite(str(path), np.dstack([ramp, ramp.T, 65535 - ramp]))  # blue, green, red
    image = decode(path, 256, 3)
    np.testing.assert_array_equal(image[2], np.rint(ramp / 257))
    np.testing.assert_array_equal(image[0], np.rint((65535 - ramp) / 257))


@pytest.mark.parametrize(("kind", "options"), ENCODINGS)
def test_a_file_cut_anywhere_is_refused(picture, encode, kind, options):
    data = encode(picture, kind, **options)
    for cut in {
        1,
        10,
        len(data) // 4,
        len(data) // 2,
        len(data) * 9 // 10,
        len(data) - 3,
        len(data) - 2,
        len(data) - 1,
    }:
        with pytest.raises(BadImage):
            decode(data[:cut], SIZE, 3)


def test_a_large_cut_jpeg_is_refused_and_not_padded_with_grey(encode):
    data = encode(np.random.default_rng(0).integers(0, 256, (1000, 1500, 3), dtype=np.uint8), "JPEG")
    with pytest.raises(BadImage, match="JPEG is truncated or damaged"):
        decode(data[: len(data) * 2 // 3], SIZE, 3)


def test_damaged_png_is_refused(picture, encode):
    data = bytearray(encode(picture, "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(BadImage):
        decode(bytes(data), SIZE, 3)


@pytest.mark.parametrize("kind", ["GIF", "PPM", "JPEG2000"])
def test_formats_off_the_list_never_reach_the_decoder(picture, encode, kind, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was called"))
    with pytest.raises(BadImage, match="not a JPEG, PNG, BMP, TIFF, WebP or DICOM image"):
        decode(encode(picture, kind), SIZE, 3)


@pytest.mark.parametrize("side", [9_001, 10_000, 60_000])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_pixel_bomb_never_reaches_the_decoder(side, action, monkeypatch):
    def chunk(name, body):
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was called"))
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(BadImage, match=f"over {MAX_PIXELS}"):
            decode(bomb, SIZE, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1)])
def test_lines_and_points_are_no_pictures(encode, shape):
    with pytest.raises(BadImage, match="no picture"):
        decode(encode(np.zeros(shape, np.uint8), "PNG"), SIZE, 3)


def test_float_pixels_have_no_known_range(encode):
    with pytest.raises(BadImage, match="float32"):
        decode(encode(np.zeros(SIZE, np.float32), "TIFF"), SIZE, 3)


def test_unreadable_files(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    with pytest.raises(BadImage, match="file is empty"):
        decode(tmp_path / "empty.png", SIZE, 3)
    with pytest.raises(BadImage, match="No such file"):
        decode(tmp_path / "gone.png", SIZE, 3)
    with pytest.raises(BadImage, match="Is a directory"):
        decode(tmp_path, SIZE, 3)
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(10**10)  # sparse: takes no space
    with pytest.raises(BadImage, match="larger than 480 MB"):
        decode(tmp_path / "huge.png", SIZE, 3)


def several(picture, encode, kind):
    """A file of three frames, the second of which is inverted and the third black."""
    options = {"lossless": True} if kind == "WEBP" else {}
    others = [Image.fromarray(other) for other in (255 - picture, 0 * picture)]
    return encode(Image.fromarray(picture), kind, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_several_frames_by_policy(picture, encode, kind):
    data = several(picture, encode, kind)
    with pytest.raises(BadImage, match=r"several frames; data\.frames=first"):
        decode(data, SIZE, 3)
    assert difference(decode(data, SIZE, 3, frames="first"), picture.transpose(2, 0, 1)) == 0
    if kind == "TIFF":
        assert difference(decode(data, SIZE, 3, frames="middle"), 255 - picture.transpose(2, 0, 1)) == 0
    else:
        with pytest.raises(BadImage, match="only the first frame can be taken"):
            decode(data, SIZE, 3, frames="middle")


def test_further_pictures_in_a_phones_jpeg_do_not_count(picture, encode):
    alone = decode(encode(picture, "JPEG"), SIZE, 3)
    for frames in ("reject", "first", "middle"):
        assert difference(decode(several(picture, encode, "MPO"), SIZE, 3, frames=frames), alone) == 0


# The large JPEG is read at a half, quarter or eighth of its size; what is left of a block at its edge may be lost.
LARGE = pytest.param((768, 1024), id="divisible"), pytest.param((1001, 751), id="odd")


def large(shape):
    coarse = np.random.default_rng(0).integers(100, 256, (24, 24, 3), dtype=np.uint8)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("size", [32, 64, 96, 160, 224, 300, (48, 200)])
def test_reduced_jpeg_is_close_to_the_full_decode(encode, shape, resize, size):
    data = encode(large(shape), "JPEG", quality=95, subsampling=0)
    height, width = (size, size) if isinstance(size, int) else size
    full = conform_all(by_pil(data)[None], (height, width), 3, resize)[0]
    reduced = decode(data, size, 3, resize)
    gap = np.abs(reduced.astype(int) - full)
    assert gap.mean() <= 4
    assert gap.max() <= 50
    if resize == "letterbox":  # the bars are where they are without reduction
        np.testing.assert_array_equal(reduced.max(axis=0) > 40, full.max(axis=0) > 40)


@pytest.mark.parametrize(
    ("size", "resize", "flag"),
    [
        (512, "letterbox", cv2.IMREAD_REDUCED_COLOR_2),
        (513, "letterbox", cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH),
        (256, "letterbox", cv2.IMREAD_REDUCED_COLOR_4),
        (128, "letterbox", cv2.IMREAD_REDUCED_COLOR_8),
        (128, "crop", cv2.IMREAD_REDUCED_COLOR_4),  # the shorter side decides: 768 / 128 is 6
        (385, "stretch", cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH),
    ],
)
def test_a_jpeg_is_reduced_when_it_is_twice_the_target(encode, monkeypatch, size, resize, flag):
    flags = []
    imdecode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flag: flags.append(flag) or imdecode(data, flag))
    decode(encode(large((768, 1024)), "JPEG"), size, 3, resize)
    assert flags == [flag]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3])
def test_exif_orientation_is_applied_to_reduced_jpegs(encode, orientation, channels):
    exif = Image.Exif()
    exif[0x112] = orientation
    image = Image.fromarray(large((601, 800)))
    data = encode(image.convert("L") if channels == 1 else image, "JPEG", exif=exif, quality=95)
    full = conform_all(by_pil(data, "L" if channels == 1 else "RGB")[None], (100, 150), channels)[0]
    assert np.abs(decode(data, (100, 150), channels).astype(int) - full).mean() <= 3


def test_a_reduced_jpeg_cut_anywhere_is_refused(encode):
    data = encode(large((768, 1024)), "JPEG")
    for share in range(5, 100, 5):
        with pytest.raises(BadImage):
            decode(data[: len(data) * share // 100], 128, 3)


def test_letterbox_pads_with_zeros(encode):
    wide, tall = encode(np.full((10, 20), 255, np.uint8), "PNG"), encode(np.full((20, 10), 255, np.uint8), "PNG")
    expected = np.zeros((1, 40, 40), np.uint8)
    expected[:, 10:30] = 255
    np.testing.assert_array_equal(decode(wide, 40, 1), expected)
    np.testing.assert_array_equal(decode(tall, 40, 1), expected.transpose(0, 2, 1))
    assert decode(encode(np.full((2, 5000), 255, np.uint8), "PNG"), 40, 1).sum() == 40 * 255  # one row is left


def test_stretch_and_crop(encode):
    halves = np.zeros((10, 30), np.uint8)
    halves[:, 10:20] = 200
    data = encode(halves, "PNG")
    np.testing.assert_array_equal(decode(data, 10, 1, "crop"), np.full((1, 10, 10), 200))
    np.testing.assert_array_equal(decode(data, (10, 3), 1, "stretch"), np.tile([0, 200, 0], (10, 1))[None])
    np.testing.assert_array_equal(decode(data, (20, 20), 1, "crop"), np.full((1, 20, 20), 200))
    assert decode(encode(np.zeros((2, 20_000), np.uint8), "PNG"), 224, 3, "crop").shape == (3, 224, 224)


def test_shrinking_averages(picture, encode):
    blocks = picture.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    shrunk = decode(encode(picture, "PNG"), (16, 24), 3)
    assert np.abs(shrunk - blocks).max() <= 0.51


def test_decode_all_keeps_order_and_reports_bad_files(tmp_path, picture, encode, caplog):
    paths = []
    for number in range(70):
        image = np.full((8, 8), number, np.uint8)
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encode(image, "PNG"))
    paths[3].write_bytes(paths[3].read_bytes()[:40])
    paths[65].unlink()
    seen = []
    with caplog.at_level(logging.WARNING):
        images, bad = decode_all(paths, 8, 3, progress=lambda done, total: seen.append((done, total)))
    assert images.shape == (70, 3, 8, 8)
    expected = np.arange(70)
    expected[[3, 65]] = 0
    np.testing.assert_array_equal(images, np.broadcast_to(expected[:, None, None, None], images.shape))
    assert [(index, stage) for index, _, stage in bad] == [(3, "decode"), (65, "decode")]
    assert "No such file" in bad[1][1]
    assert seen == sorted(seen)
    assert seen[-1] == (70, 70)
    assert not caplog.records


def test_chunks_are_in_order_and_few_are_ahead(tmp_path, encode, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for number in range(200):
        (tmp_path / f"{number:03}.png").write_bytes(encode(np.full((4, 4), number, np.uint8), "PNG"))
    paths = sorted(tmp_path.iterdir())
    for path in paths[190:]:  # not read while the first chunks have not been taken
        path.rename(path.with_suffix(".later"))
    chunks = decode_chunks(paths, 4, 1)
    first = next(chunks)[0]
    for path in paths[190:]:
        path.with_suffix(".later").rename(path)
    rest = list(chunks)
    shades = np.concatenate([first, *(images for images, _ in rest)])[:, 0, 0, 0]
    np.testing.assert_array_equal(shades, np.arange(200))
    assert not any(bad for _, bad in rest)


def test_content_counts_not_the_extension(tmp_path, picture, encode, caplog):
    path = tmp_path / "really a png.jpg"
    path.write_bytes(encode(picture, "PNG"))
    with caplog.at_level(logging.WARNING):
        images, bad = decode_all([path], SIZE, 3)
    assert not bad
    assert difference(images[0], picture.transpose(2, 0, 1)) == 0
    assert "1 file(s) were read by content, not by extension: really a png.jpg is PNG" in caplog.text


@pytest.mark.parametrize("name", ["ünï cödé 图.png", "new\nline.png", "100%.png"])
def test_any_file_name(tmp_path, picture, encode, name):
    (tmp_path / name).write_bytes(encode(picture, "PNG"))
    assert difference(decode(tmp_path / name, SIZE, 3), picture.transpose(2, 0, 1)) == 0


def test_conform_all_follows_the_rules_of_decode(picture, encode):
    images = np.stack([picture, 255 - picture]).transpose(0, 3, 1, 2)
    assert conform_all(images, SIZE, 3) is images
    for channels in (1, 3):
        result = conform_all(images, 32, channels)
        for one, source in zip(result, (picture, 255 - picture), strict=True):
            np.testing.assert_array_equal(one, decode(encode(source, "PNG"), 32, channels))
    grey = images[:, :1]
    np.testing.assert_array_equal(conform_all(grey, SIZE, 3), grey.repeat(3, axis=1))


def test_needs_no_torch():
    code = "import sys, medvision.data.decode, medvision.data.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
