"""Bad input of every kind, by the number it has in the table of faults: none may end in anything but its reason."""

import io
import logging
import os
import re
import time
import unicodedata
import zlib
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.uid import MPEG4HP41, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medvision.audits.data_audit import audit
from medvision.audits.page import render
from medvision.data import cache
from medvision.data.datamodule import ImageDataModule
from medvision.data.decode import decode, decode_all
from medvision.data.dicom import gdcm_process
from medvision.data.dicom import read as dicom
from medvision.data.layouts.folders import image_folder
from medvision.data.layouts.tables import manifest
from medvision.data.options import DataOptions
from medvision.errors import BadImage, DataError

SIZE = 16
SECONDS = 5
MEGABYTES = 600  # of memory that one bad file may cost
WHEEL = Path(pydicom.__file__).parent / "data" / "test_files"
DICOM = {
    "dicom": "CT_small.dcm",
    "dicom-big-endian": "MR_small_bigendian.dcm",
    "dicom-deflated": "image_dfl.dcm",
    "dicom-jpeg": "SC_rgb_dcmtk_+eb+cr.dcm",
    "dicom-jpeg-lossless": "SC_rgb_jpeg_gdcm.dcm",
    "dicom-jpeg2000": "MR_small_jp2klossless.dcm",
    "dicom-jpeg-ls": "MR_small_jpeg_ls_lossless.dcm",
    "dicom-palette": "examples_palette.dcm",
    "dicom-rle": "SC_rgb_rle.dcm",
}
IMAGES = {
    "jpeg": ("JPEG", {"quality": 90}),
    "jpeg-progressive": ("JPEG", {"quality": 90, "progressive": True}),
    "png": ("PNG", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "webp": ("WEBP", {"lossless": True}),
}
BROKEN = r"not a JPEG|truncated|damaged|ends before|unreadable header|cannot be decoded"
CUTS = range(5, 100, 5)  # per cent
FLIPS = range(10)  # seeds


@pytest.fixture(scope="module")
def whole(picture, encode):
    """Name of a kind of file -> the bytes of a good one."""
    files = {name: encode(picture, kind, **options) for name, (kind, options) in IMAGES.items()}
    return files | {name: (WHEEL / file).read_bytes() for name, file in DICOM.items()}


@pytest.fixture
def folder(tmp_path, picture, encode):
    """folder({"train/cat": 3}) -> root with so many PNG files, all different."""

    def make(counts):
        generator = np.random.default_rng(0)
        for name, count in counts.items():
            (tmp_path / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                (tmp_path / name / f"{number}.png").write_bytes(encode(pixels, "PNG"))
        return tmp_path

    return make


@contextmanager
def bounded():
    """Neither time nor memory without bounds."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present use again
    before, start = peak_megabytes(), time.monotonic()
    yield
    assert time.monotonic() - start < SECONDS
    assert peak_megabytes() - before < MEGABYTES


def peak_megabytes():
    """The most memory since the last reset."""
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def test_the_bound_on_memory_can_fail():
    with pytest.raises(AssertionError), bounded():
        np.ones((MEGABYTES + 50) * 2**20, np.uint8)
    with bounded():  # a peak that is over does not hide the next one
        pass
    with pytest.raises(AssertionError), bounded():
        np.ones((MEGABYTES + 50) * 2**20, np.uint8)


def refused(data, reason):
    with bounded(), pytest.raises(BadImage, match=reason) as found:
        decode(data, SIZE, 3)
    assert found.value.reason.isprintable()


def refused_or_decoded(data):
    with bounded():
        try:
            image = decode(data, SIZE, 3)
        except BadImage:
            return
        assert (image.shape, image.dtype) == ((3, SIZE, SIZE), np.uint8)


def loaded(root, source=image_folder, **options):
    data = ImageDataModule(partial(source, root), DataOptions(image_size=SIZE, **({"batch_size": 2} | options)))
    data.setup()
    return data


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", [*IMAGES, *DICOM])
def test_row_01_truncated(whole, kind, cut):
    refused(whole[kind][: len(whole[kind]) * cut // 100], BROKEN)


@pytest.mark.parametrize("kind", [*IMAGES, *DICOM])
def test_row_01_the_last_byte_is_missing(whole, kind):
    refused_or_decoded(whole[kind][:-1])


@pytest.mark.parametrize("seed", FLIPS)
@pytest.mark.parametrize("kind", [*IMAGES, *DICOM])
def test_row_01_flipped_bytes(whole, kind, seed):
    generator = np.random.default_rng(seed)
    data = np.frombuffer(whole[kind], np.uint8).copy()
    # Half of the seeds damage the first part only, where the structure is.
    reach = len(data) if seed % 2 else min(len(data), 600)
    places = generator.integers(0, reach, 1 + 4 * seed)
    data[places] ^= generator.integers(1, 256, len(places), dtype=np.uint8)
    refused_or_decoded(data.tobytes())


@pytest.mark.parametrize("kind", [*IMAGES, *DICOM])
@pytest.mark.parametrize("damage", ["zeros", "noise", "removed", "doubled", "appended"])
def test_row_01_a_damaged_block(whole, kind, damage):
    data = whole[kind]
    third, block = len(data) // 3, 200
    noise = np.random.default_rng(0).bytes(block)
    middle = {"zeros": bytes(block), "noise": noise, "removed": b"", "doubled": data[third : third + block] * 2}
    if damage == "appended":
        refused_or_decoded(data + noise)
    else:
        refused_or_decoded(data[:third] + middle[damage] + data[third + block :])


@pytest.mark.parametrize("kind", [*IMAGES, *DICOM])
def test_row_01_wrong_magic(whole, kind):
    start = 132 if kind in DICOM else 4  # the preamble of a DICOM file may be another format's beginning
    refused(b"X" * start + whole[kind][start:], "not a JPEG, PNG, BMP, TIFF, WebP or DICOM image")


@pytest.mark.parametrize("kind", ["dicom-jpeg", "dicom-jpeg-lossless", "dicom-jpeg2000", "dicom-jpeg-ls"])
def test_row_01_a_compressed_frame_without_an_end(whole, kind):
    place = whole[kind].rindex(b"\xff\xd9")
    refused(whole[kind][:place] + b"\xff\x76" + whole[kind][place + 2 :], "truncated frame")


def test_row_01_gdcm_ends_no_process_but_its_own(whole):
    data = whole["dicom-jpeg-lossless"]
    before = decode(data, SIZE, 3)
    place = data.index(b"\xff\xc4")  # without its Huffman table, the file makes GDCM abort
    refused(data[:place] + b"\x49" + data[place + 1 :], "GDCM broke off")
    np.testing.assert_array_equal(decode(data, SIZE, 3), before)


def test_row_01_gdcm_that_does_not_end(whole, monkeypatch):
    gdcm_process._end_all()  # a new process takes a while to answer
    monkeypatch.setattr(gdcm_process, "_SECONDS", 0)
    refused(whole["dicom-jpeg-lossless"], "GDCM broke off")


def test_row_15_a_box_without_a_length():
    data = (WHEEL / "GDCMJ2K_TextGBR.dcm").read_bytes()
    place = data.index(b"jp2h") - 4
    refused(data[:place] + bytes(4) + data[place + 4 :], "damaged JPEG 2000 frame")


def test_row_02_empty_or_unreadable(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    names = ["empty.png", "folder.png", "loop.png", "gone.png"]
    images, bad = decode_all([tmp_path / name for name in names], SIZE, 3)
    assert [reason for _, reason, _ in bad] == [
        "file is empty",
        "cannot be read: Is a directory",
        "cannot be read: Too many levels of symbolic links",
        "cannot be read: No such file or directory",
    ]
    assert not images.any()


@pytest.mark.parametrize("kind", [*IMAGES, *DICOM])
def test_row_03_wrong_extension(tmp_path, whole, kind, caplog):
    path = tmp_path / ("scan.png" if kind in DICOM else "scan.dcm")
    path.write_bytes(whole[kind])
    images, bad = decode_all([path], SIZE, 3)
    assert not bad
    np.testing.assert_array_equal(images[0], decode(whole[kind], SIZE, 3))
    assert "1 file(s) were read by content, not by extension" in caplog.text


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_row_04_sixteen_bits_are_scaled(encode, kind):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(decode(encode(ramp, kind), 256, 1)[0], np.rint(ramp / 257))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_row_05_one_conversion_for_every_mode(picture, encode, mode, kind):
    if (mode, kind) in (("CMYK", "PNG"), ("LA", "TIFF")):
        pytest.skip("no such file")
    image = Image.fromarray(picture).convert(mode)
    expected = np.array(image.convert("RGB")).transpose(2, 0, 1)
    assert np.abs(decode(encode(image, kind), picture.shape[:2], 3).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_row_06_exif_orientation_is_the_same_in_train_and_predict(tmp_path, picture, encode, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    pixels = Image.fromarray(picture)
    for index, name in enumerate(("train/a", "train/b", "val/a", "val/b", "test/a", "test/b")):
        (tmp_path / name).mkdir(parents=True)
        pixels = Image.fromarray(np.roll(picture, 9 * index, axis=0))
        (tmp_path / name / "x.jpg").write_bytes(encode(pixels, "JPEG", exif=exif, quality=95))
    trained = loaded(tmp_path, batch_size=1).split("train").images
    for image, name in zip(trained, ("a", "b"), strict=True):
        path = tmp_path / "train" / name / "x.jpg"
        np.testing.assert_array_equal(image, decode(path, SIZE, 3))
        upright = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(image.max(axis=0) == 0, letterbox_bars(upright.shape))


def letterbox_bars(shape):
    """(SIZE, SIZE) bool, true in the bars beside a picture of that shape that has no black pixel."""
    bars = np.ones((SIZE, SIZE), bool)
    height, width = (round(side * SIZE / max(shape[:2])) for side in shape[:2])
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    bars[top : top + height, left : left + width] = False
    return bars


def png_header(width, height):
    def chunk(name, body):
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_000, 65_500, 2**31 - 1])
def test_row_07_pixel_bomb(side, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was called"))
    refused(png_header(side, side), "over 80000000")


@pytest.mark.parametrize("kind", ["jpeg", "bmp", "dicom", "dicom-jpeg2000", "dicom-jpeg-ls", "dicom-jpeg", "dicom-rle"])
def test_row_07_pixel_bomb_in_another_format(whole, kind):
    data = bytearray(whole[kind])
    if kind == "jpeg":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = b"\xff\xdc" * 2
    elif kind == "bmp":
        data[18:26] = (60_000).to_bytes(4, "little") * 2
    else:
        for tag in (b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x11\x00US\x02\x00"):  # rows and columns
            place = data.index(tag) + 8
            data[place : place + 2] = b"\xff\xff"
    refused(bytes(data), "over 80000000")


@pytest.mark.parametrize("kind", ["dicom-jpeg2000", "dicom-jpeg-ls", "dicom-jpeg"])
def test_row_07_a_compressed_frame_that_is_larger_than_its_file_says(whole, kind):
    data = bytearray(whole[kind])
    if kind == "dicom-jpeg2000":
        place = data.index(b"\xff\x4f\xff\x51") + 8
        data[place : place + 8] = (60_000).to_bytes(4, "big") * 2
    else:
        place = data.index(b"\xff\xf7" if kind == "dicom-jpeg-ls" else b"\xff\xc0") + 5
        data[place : place + 4] = b"\xea\x60" * 2
    refused(bytes(data), "its frame 60000 x 60000")


def test_row_07_a_data_set_that_inflates_without_end(make_dicom, monkeypatch):
    monkeypatch.setattr(dicom, "MAX_BYTES", 10_000_000)
    data = make_dicom(np.zeros((8, 8), np.uint8), DeflatedExplicitVRLittleEndian)
    start = data.index(DeflatedExplicitVRLittleEndian.encode()) + len(DeflatedExplicitVRLittleEndian)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    refused(data[:start] + packer.compress(bytes(50_000_000)) + packer.flush(), "inflates to more than 10 MB")


@pytest.mark.parametrize("kind", ["GIF", "PPM", "JPEG2000", "TGA", "ICO", "PDF"])
def test_row_08_formats_off_the_list(picture, encode, kind, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was called"))
    refused(encode(picture, kind), "not a JPEG, PNG, BMP, TIFF, WebP or DICOM image")


@pytest.mark.parametrize("content", [b"<svg/>", b"%!PS", b"PK\x03\x04", b"text", bytes(5000), b"\x80\x04\x95pickle"])
def test_row_08_no_image_at_all(content, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was called"))
    refused(content, "not a JPEG, PNG, BMP, TIFF, WebP or DICOM image")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_row_09_several_pages(picture, encode, kind):
    data = encode(Image.fromarray(picture), kind, save_all=True, append_images=[Image.fromarray(255 - picture)])
    refused(data, r"several frames; data\.frames=first")
    assert decode(data, SIZE, 3, frames="first").shape == (3, SIZE, SIZE)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1)])
def test_row_10_points_and_lines(encode, make_dicom, shape):
    refused(encode(np.zeros(shape, np.uint8), "PNG"), "are no picture")
    refused(make_dicom(np.zeros(shape, np.uint8)), "are no picture")


def test_row_10_constant_images_are_counted(folder, encode):
    root = folder({"cat": 10, "dog": 10})
    for number, shape in enumerate([(20, 20), (10, 30), (30, 10)]):
        (root / "cat" / f"{number}.png").write_bytes(encode(np.full(shape, 60 * number, np.uint8), "PNG"))
    data = loaded(root)
    assert data.table.ids[data.one_coloured].tolist() == ["cat/0.png", "cat/1.png", "cat/2.png"]


def test_row_11_monochrome1_is_inverted_once(make_dicom):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    plain = decode(make_dicom(ramp), SIZE, 3)
    np.testing.assert_array_equal(
        decode(make_dicom(ramp, PhotometricInterpretation="MONOCHROME1"), SIZE, 3), 255 - plain
    )


def test_row_12_rescale_window_and_sign(make_dicom):
    stored = np.array([[-1000, -200], [0, 40], [140, 1000]], np.int16)  # what they mean is 24 more
    data = make_dicom(stored, BitsStored=12, RescaleSlope=1, RescaleIntercept=24, WindowCenter=24.5, WindowWidth=401)
    expected = np.rint(np.clip((stored + 24 - 24) / 400 + 0.5, 0, 1) * 255)
    np.testing.assert_array_equal(decode(data, (3, 2), 1)[0], expected)


def test_row_13_frames_of_a_file_share_its_patient(tmp_path, make_dicom):
    volume = np.stack([np.full((8, 8), shade, np.uint8) for shade in (10, 20, 30)])
    (tmp_path / "a.dcm").write_bytes(make_dicom(volume, PatientID="7"))
    (tmp_path / "b.dcm").write_bytes(make_dicom(volume[0], PatientID="7"))
    refused((tmp_path / "a.dcm").read_bytes(), "several frames")
    assert decode(tmp_path / "a.dcm", SIZE, 1, frames="middle")[0, 8, 8] == 20
    assert dicom.group(tmp_path / "a.dcm") == dicom.group(tmp_path / "b.dcm") is not None


def test_row_14_the_decoder_that_is_missing_is_named(make_dicom, whole, monkeypatch):
    refused(make_dicom(np.zeros((8, 8), np.uint8), MPEG4HP41), "no decoder is known for .*MPEG-4")
    refused((WHEEL / "JPGExtended.dcm").read_bytes(), "pylibjpeg-libjpeg")
    syntax = pydicom.dcmread(io.BytesIO(whole["dicom-jpeg-ls"])).file_meta.TransferSyntaxUID
    monkeypatch.setattr(pydicom.pixels.decoders.base.get_decoder(syntax), "_available", {})
    refused(whole["dicom-jpeg-ls"], r"JPEG-LS.* needs a decoder.*pip install 'medvision\[dicom\]'")


def element(tag, representation, length):
    group, number = tag
    head = group.to_bytes(2, "little") + number.to_bytes(2, "little") + representation
    return head + (b"\0\0" + length.to_bytes(4, "little") if representation in (b"SQ", b"OW", b"UN") else b"\2\0")


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**31, 2**32 - 2, 2**32 - 1])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_row_15_lying_lengths(make_dicom, syntax, length):
    data = make_dicom(np.zeros((64, 64), np.uint16), syntax)
    place = data.index(b"\xe0\x7f\x10\x00OW")
    refused(data[: place + 8] + length.to_bytes(4, "little") + data[place + 12 :], BROKEN)
    start = data.index(syntax.encode()) + 20
    for tag in ((0x0008, 0x1140), (0x0009, 0x1001)):
        refused_or_decoded(data[:start] + element(tag, b"SQ", length) + data[start:])
        refused_or_decoded(data[:start] + element(tag, b"UN", length) + data[start:])


@pytest.mark.parametrize("depth", [10, 500, 5_000, 200_000])
@pytest.mark.parametrize("tag", [(0x0008, 0x1140), (0x0028, 0x3010), (0x5200, 0x9230)])
def test_row_15_deep_sequences(make_dicom, tag, depth):
    data = make_dicom(np.zeros((8, 8), np.uint8), PatientID="1")
    start = data.index(b"\x28\x00\x02\x00US")
    item = b"\xfe\xff\x00\xe0" + (2**32 - 1).to_bytes(4, "little")
    refused_or_decoded(data[:start] + (element(tag, b"SQ", 2**32 - 1) + item) * depth + data[start:])


@pytest.mark.parametrize("tag", [(0x0008, 0x1140), (0x0028, 0x3010), (0x5200, 0x9230)])
@pytest.mark.parametrize("known", [True, False])
def test_row_15_sequences_of_a_million_items(make_dicom, tag, known, tmp_path):
    data = make_dicom(np.zeros((8, 8), np.uint8), PatientID="1")
    start = data.index(b"\xe0\x7f\x10\x00OB") if tag[0] == 0x5200 else data.index(b"\x28\x00\x02\x00US")
    items = (b"\xfe\xff\x00\xe0" + bytes(4)) * 1_000_000
    end = b"" if known else b"\xfe\xff\xdd\xe0" + bytes(4)
    data = data[:start] + element(tag, b"SQ", len(items) if known else 2**32 - 1) + items + end + data[start:]
    refused_or_decoded(data)
    (tmp_path / "a.dcm").write_bytes(data)
    with bounded():
        dicom.group(tmp_path / "a.dcm")


def test_row_15_a_million_elements(make_dicom):
    data = make_dicom(np.zeros((8, 8), np.uint8))
    start = data.index(b"\x28\x00\x02\x00US")
    refused(data[:start] + b"\x09\x00\x10\x00US\x02\x00\x00\x00" * 1_000_000 + data[start:], "too many elements")


def test_row_16_clutter_is_ignored(folder, caplog):
    root = folder({"cat": 10, "dog": 10})
    for name in (".DS_Store", "Thumbs.db", "cat/.DS_Store", "cat/Thumbs.db", "cat/._0.png", "cat/notes.txt"):
        (root / name).write_bytes(b"clutter")
    (root / ".ipynb_checkpoints").mkdir()
    (root / "cat" / ".ipynb_checkpoints").mkdir()
    (root / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png").write_bytes(b"clutter")
    with caplog.at_level(logging.DEBUG):
        table = image_folder(root)
    assert len(table) == 20
    assert table.class_names == ("cat", "dog")
    for name in (".DS_Store", "Thumbs.db", ".ipynb_checkpoints", "notes.txt"):
        assert name in caplog.text


def test_row_17_empty_class_or_single_class(folder):
    root = folder({"cat": 3, "dog": 0})
    with pytest.raises(DataError, match=r"class folder.* without images: dog"):
        image_folder(root)
    (root / "dog").rmdir()
    with pytest.raises(DataError, match="one class only: cat"):
        image_folder(root)


def test_row_18_classes_are_matched_by_name(folder):
    root = folder({"train/cat": 6, "train/dog": 6, "train/eel": 6, "test/dog": 3, "test/eel": 3})
    with pytest.raises(DataError, match=r"lacks class.* that train has: cat"):
        image_folder(root)
    (root / "test" / "cat").mkdir()
    (root / "train" / "cat" / "5.png").rename(root / "test" / "cat" / "5.png")
    table = image_folder(root)
    for name, label in zip(table.ids, table.labels, strict=True):
        assert Path(name).parts[1] == table.class_names[label]


def test_row_18_the_order_of_classes_in_a_manifest(folder):
    root = folder({"x": 6})
    rows = [("dog", "train"), ("cat", "train"), ("cat", "test"), ("dog", "test"), ("cat", "val"), ("dog", "val")]
    lines = [f"x/{number}.png,{label},{split}" for number, (label, split) in enumerate(rows)]
    (root / "cases.csv").write_text("\n".join(["image,label,split", *lines]))
    table = manifest(root / "cases.csv")
    assert [table.class_names[label] for label in table.labels] == [label for label, _ in rows]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("x/2.png,", "no label"),
        ("x/2.png,NaN", "no label"),
        (",cat", "no image"),
        ("x/gone.png,cat", "does not exist"),
        ("x/0.png,dog", "another label"),
        ("x/0.png,cat", "several rows"),
    ],
)
def test_row_19_faults_of_a_manifest_are_listed(folder, row, words):
    root = folder({"x": 3})
    (root / "cases.csv").write_text(f"image,label\nx/0.png,cat\nx/1.png,dog\n{row}\n")
    with pytest.raises(DataError, match=words) as found:
        manifest(root / "cases.csv")
    assert "4" in str(found.value).replace(str(root), "")  # the line


def copied(root, source, *targets):
    for target in targets:
        (root / target).write_bytes((root / source).read_bytes())


def test_row_20_the_same_pixels_with_two_labels(folder, caplog):
    root = folder({"train/cat": 8, "train/dog": 8, "test/cat": 3, "test/dog": 3})
    copied(root, "train/cat/0.png", "train/dog/0.png")
    for policy in ("keep", "error"):
        with pytest.raises(DataError, match="label"):
            loaded(root, leakage=policy)
    caplog.clear()
    data = loaded(root, leakage="drop")
    frame = data.splits_frame().set_index("id")
    assert frame.loc[["train/cat/0.png", "train/dog/0.png"], "split"].tolist() == ["dropped", "dropped"]
    assert (frame["split"] == "dropped").sum() == 2
    assert "label" in caplog.text


def test_row_21_copies_across_splits(folder, caplog):
    root = folder({"train/cat": 8, "train/dog": 8, "test/cat": 3, "test/dog": 3})
    copied(root, "test/cat/0.png", "train/cat/0.png", "train/cat/1.png")
    with pytest.raises(DataError, match="leaks"):
        loaded(root, leakage="error")
    kept = loaded(root, leakage="keep")
    assert kept.never_seen().sum() == 5
    caplog.clear()
    dropped = loaded(root)
    frame = dropped.splits_frame().set_index("id")
    assert (frame["split"] == "test").sum() == 6
    assert sorted(frame.index[frame["split"] == "dropped"]) == ["train/cat/0.png", "train/cat/1.png"]
    assert dropped.never_seen().all()
    assert caplog.text


def test_row_21_patients_across_splits(folder):
    root = folder({"x": 40})
    rows = [
        (f"x/{number}.png", "cat" if number % 2 else "dog", number % 37, "test" if number >= 30 else "train")
        for number in range(40)
    ]
    pd.DataFrame(rows, columns=["image", "label", "group", "split"]).to_csv(root / "cases.csv", index=False)
    with pytest.raises(DataError, match="group"):
        loaded(root / "cases.csv", manifest, leakage="error")
    frame = loaded(root / "cases.csv", manifest).splits_frame()
    assert sorted(frame.loc[frame["split"] == "dropped", "group"]) == ["0", "1", "2"]


NAMES = ["ünï cödé 图.png", "two words.png", "new\nline.png", "100%.png", "a,b;c.png", 'quo"te.png', "<b>bold.png"]


def test_row_22_any_name(folder):
    root = folder({"cat": 30, "dog & <i>": 30})
    for number, name in enumerate(NAMES):
        (root / "cat" / f"{number}.png").rename(root / "cat" / name)
    copied(root, "cat/<b>bold.png", "cat/copy.png")
    data = loaded(root)
    assert data.quarantine.empty
    assert {f"cat/{name}" for name in NAMES} <= set(data.table.ids)
    text = data.splits_frame().to_csv(index=False, lineterminator="\n")
    pd.testing.assert_series_equal(
        pd.read_csv(io.StringIO(text), dtype=str)["id"], pd.Series(data.table.ids, name="id"), check_dtype=False
    )
    page = render(audit(data), "<u>title", "today")
    assert "&lt;b&gt;bold.png" in page
    for raw in ("<b>bold", "<i>", "<u>title"):
        assert raw not in page


def test_row_23_links(folder, tmp_path_factory, caplog):
    root = folder({"cat": 5, "dog": 5})
    (root / "cat" / "again").symlink_to(root / "cat", target_is_directory=True)
    (root / "dog" / "up").symlink_to(root, target_is_directory=True)
    assert len(image_folder(root)) == 10
    assert "a link to a folder that was read already" in caplog.text
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    copied(root, "cat/0.png", outside)
    (root / "cat" / "link.png").symlink_to(outside)
    with pytest.raises(DataError, match="leaves the image folder"):
        image_folder(root)


def test_row_24_a_file_that_changes(folder, encode):
    root = folder({"cat": 5})
    paths = sorted((root / "cat").iterdir())
    other = encode(np.full((9, 9), 77, np.uint8), "PNG")
    first = cache.read(paths, SIZE, 3, progress=lambda *_: paths[2].write_bytes(other))
    assert first.bad == [(2, "changed while it was read", "decode")]
    second = cache.read(paths, SIZE, 3)
    assert second.bad == []
    assert (second.pixels[2] == 77).all()
    paths[1].write_bytes(other)  # between two runs
    assert (cache.read(paths, SIZE, 3).pixels[1] == 77).all()
    os.utime(paths[1], (1, 1))
    paths[3].unlink()  # between the list of files and their decoding
    assert cache.read(paths, SIZE, 3).bad == [(3, "cannot be read: No such file or directory", "decode")]


@pytest.mark.parametrize(
    "names",
    [
        ("Cat", "cat"),
        (unicodedata.normalize("NFC", "Ödem"), unicodedata.normalize("NFD", "Ödem")),
        ("straße", "STRASSE"),
    ],
)
def test_row_25_names_that_differ_in_case_or_form(folder, names):
    root = folder(dict.fromkeys(names, 3))
    with pytest.raises(DataError, match="differ only in case or unicode form"):
        image_folder(root)
    lines = [f"{name}/0.png,{name}" for name in names]
    (root / "cases.csv").write_text("\n".join(["image,label", *lines]), encoding="utf-8")
    with pytest.raises(DataError, match="differ only in case or unicode form"):
        manifest(root / "cases.csv")


def test_at_least_300_cases_are_injected():
    kinds = len(IMAGES) + len(DICOM)
    assert kinds * (len(CUTS) + len(FLIPS)) >= 300
