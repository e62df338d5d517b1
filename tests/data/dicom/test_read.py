import hashlib
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing, pixel_array
from pydicom.uid import MPEG4HP41, HTJ2KLossless, RLELossless

from medvision.data import decode as images
from medvision.data.dicom import read as dicom
from medvision.errors import BadImage, DataError

# Not `get_testdata_files`, which goes on to the network.
WHEEL = Path(pydicom.__file__).parent / "data" / "test_files"
FILES = {path.relative_to(WHEEL).as_posix(): path for path in sorted(WHEEL.rglob("*")) if path.is_file()}
NO_IMAGE = "holds no image"
REASONS = {
    **{name: NO_IMAGE for name in FILES if "DICOMDIR" in name or "TINY_ALPHA/PT" in name},
    **dict.fromkeys(
        ("UN_sequence.dcm", "empty_charset_LEI.dcm", "meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm", "priv_SQ.dcm",
         "no_meta_group_length.dcm", "reportsi.dcm", "reportsi_with_empty_number_tags.dcm", "rtplan.dcm",
         "rtplan_truncated.dcm", "test-SR.dcm", "waveform_ecg.dcm"),
        NO_IMAGE,
    ),
    **dict.fromkeys(("JPEG-lossy.dcm", "JPGExtended.dcm"), "12-bit lossy JPEG needs .* pylibjpeg-libjpeg"),
    "JPEG2000-embedded-sequence-delimiter.dcm": "promises 256 x 1024 pixels, its frame 3722445056 x 1024",
    "MR_truncated.dcm": "ends before its PixelData does",
    "badVR.dcm": "invalid literal for int.*1A",
    **dict.fromkeys(
        ("ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "README.txt", "crayons.icc", "no_meta.dcm",
         "dicomdirtests/README.txt", "dicomdirtests/TINY_ALPHA/README", "rtplan.dump", "rtstruct.dcm", "rtstruct.dump",
         "test1.json", "test_PN.json", "zipMR.gz"),
        "not a JPEG, PNG, BMP, TIFF, WebP or DICOM image",
    ),
}  # fmt: skip


def by_pydicom(path):
    """The independent oracle: (H, W) or (H, W, 3) shades as floats, from pydicom's own functions one by one."""
    data = dcmread(path)
    pixels = pixel_array(data, index=0)
    bits = data.BitsStored
    if data.PhotometricInterpretation == "PALETTE COLOR":
        return apply_color_lut(pixels, data) * (255 / 65535)
    if pixels.ndim == 3:
        return pixels * (255 / (2**bits - 1))
    if "WindowWidth" in data:
        if isinstance(data.WindowWidth, pydicom.multival.MultiValue):
            data.WindowCenter, data.WindowWidth = data.WindowCenter[0], data.WindowWidth[0]
        shown = apply_windowing(apply_modality_lut(pixels, data), data)
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if data.PixelRepresentation else (0, 2**bits - 1)
        slope, intercept = data.get("RescaleSlope", 1), data.get("RescaleIntercept", 0)
        shown = (shown - (low * slope + intercept)) * (255 / ((high - low) * slope))
    elif bits <= 8:
        shown = pixels * (255 / (2**bits - 1))
    else:
        inside = pixels[pixels != data.PixelPaddingValue] if "PixelPaddingValue" in data else pixels
        shown = (pixels - float(inside.min())) * (255 / (float(pixels.max()) - float(inside.min())))
    if data.PhotometricInterpretation == "MONOCHROME1":
        shown = 255 - shown
    return np.where(pixels == data.get("PixelPaddingValue"), 0, shown)


def shown(data, window=None, frames="reject"):
    return dicom.decode(data, window, frames).tolist()


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_pydicom_decodes_or_says_why_not(name):
    if name in REASONS:
        with pytest.raises(BadImage, match=REASONS[name]):
            images.decode(FILES[name], 64, 3, frames="first")
        return
    pixels = dicom.decode(FILES[name].read_bytes(), frames="first")
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - by_pydicom(FILES[name])).max() <= 0.5 + 1e-6
    assert images.decode(FILES[name], 64, 3, frames="first").shape == (3, 64, 64)


def test_pydicom_still_brings_its_files():
    assert len(FILES) == 176
    assert set(REASONS) <= set(FILES)


# Of files that are not compressed, or without loss: nothing that is installed may change them.
@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("CT_small.dcm", "93a18f934884c6cf"),
        ("MR_small.dcm", "38ab8d87e706bf8d"),
        ("dicomdirtests/77654033/CR1/6154", "330ab73ff48faa36"),
        ("dicomdirtests/98892001/CT5N/2062", "f272249605f999bc"),
        ("examples_overlay.dcm", "d8f02f59401c24f2"),
        ("examples_palette.dcm", "db93767ae86874a9"),
        ("SC_ybr_full_422_uncompressed.dcm", "ddb100d8f45a7fbf"),
        ("image_dfl.dcm", "1f5f1b1c1a57606a"),
        ("liver_1frame.dcm", "7d0e38255050eac1"),
        ("rtdose_1frame.dcm", "5b7e140d2f4dce0a"),
    ],
)
def test_golden_arrays(name, sha256):
    pixels = dicom.decode(FILES[name].read_bytes(), frames="first")
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == sha256


@pytest.mark.parametrize(
    "names",
    [
        [name for name in FILES if name.startswith("MR_small")],
        [name for name in FILES if name.startswith("rtdose") and name.endswith("1frame.dcm")],
        ["rtdose.dcm", "rtdose_1frame.dcm", "rtdose_rle.dcm", "rtdose_expb.dcm"],
        ["liver_1frame.dcm", "liver_expb_1frame.dcm"],
        ["SC_rgb_jpeg_gdcm.dcm", *(name for name in FILES if name.startswith("SC_rgb_rle"))],
        ["SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm"],
    ],
    ids=lambda names: names[0],
)  # fmt: skip
def test_one_picture_in_many_encodings(names):
    assert len(names) >= 2
    first, *others = [dicom.decode(FILES[name].read_bytes(), frames="first") for name in names]
    for other in others:
        np.testing.assert_array_equal(first, other)


CT = np.array([[863, 864, 1063], [1064, 1263, 1264]], np.uint16)  # HU -161, -160, 39, 40, 239, 240


def test_rescale_and_window_by_hand(make_dicom):
    data = make_dicom(CT, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=[40, 0], WindowWidth=[400, 9])
    # PS3.3 C.11.2.1.2.1: (x - 39.5) / 399 + 0.5 of 255
    assert shown(data) == [[0, 0, 127], [128, 255, 255]]
    assert shown(data, window=(240, 3)) == [[0, 0, 0], [0, 64, 191]]
    assert shown(data, window=(40, 1)) == [[0, 0, 0], [255, 255, 255]]  # a threshold


@pytest.mark.parametrize(
    ("function", "expected"),
    [("LINEAR_EXACT", [[0, 0, 127], [128, 254, 255]]), ("SIGMOID", [[30, 30, 127], [128, 224, 225]])],
)
def test_other_window_functions_by_hand(make_dicom, function, expected):
    elements = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    assert shown(make_dicom(CT, VOILUTFunction=function, **elements)) == expected


@pytest.mark.parametrize(
    "elements", [{}, {"WindowCenter": 40, "WindowWidth": 0}, {"WindowCenter": "", "WindowWidth": 9}]
)
def test_without_a_window(make_dicom, elements):
    deep = np.array([[1000, 1300], [1510, 2020]], np.uint16)
    assert shown(make_dicom(deep, **elements)) == [[0, 75], [128, 255]]
    assert shown(make_dicom(deep, RescaleSlope=2, RescaleIntercept=-9, **elements)) == [[0, 75], [128, 255]]
    flat = np.array([[0, 7], [40, 200]], np.uint8)
    assert shown(make_dicom(flat, **elements)) == flat.tolist()
    assert shown(make_dicom(flat.astype(np.int8), **elements)) == [[128, 135], [168, 72]]
    assert shown(make_dicom(np.full((2, 2), 999, np.uint16), **elements)) == [[0, 0], [0, 0]]


def test_signed_twelve_bits_whatever_the_others_hold(make_dicom):
    stored = np.array([[-2048, -1], [0, 2047]], np.int16)
    dirty = (stored & 0x0FFF) | 0x5000
    expected = [[0, 127], [128, 255]]
    for pixels in (stored, dirty.astype(np.int16)):
        assert shown(make_dicom(pixels, BitsStored=12)) == expected
        assert shown(make_dicom(pixels, BitsStored=12, WindowCenter=0, WindowWidth=4096)) == expected


def test_monochrome1_is_inverted_once(make_dicom):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert shown(make_dicom(ramp, PhotometricInterpretation="MONOCHROME1")) == (255 - ramp).tolist()
    elements = {"WindowCenter": 100, "WindowWidth": 50, "RescaleSlope": 2, "RescaleIntercept": 1}
    plain = dicom.decode(make_dicom(ramp, **elements))
    inverted = dicom.decode(make_dicom(ramp, PhotometricInterpretation="MONOCHROME1", **elements))
    np.testing.assert_array_equal(inverted, 255 - plain)
    assert shown(make_dicom(ramp, PhotometricInterpretation="MONOCHROME1"), window=(10, 1))[0][9:11] == [255, 0]


def lut(entries, first, bits, representation):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    packed = representation == "OW"
    item.add_new(
        "LUTData", representation, np.uint16(entries).tobytes() if packed else [int(entry) for entry in entries]
    )
    return item


def test_modality_and_voi_luts(make_dicom):
    pixels = np.random.default_rng(0).integers(0, 5000, (40, 30)).astype(np.uint16)
    modality = lut(np.arange(4096)[::-1], 100, 16, "US")
    voi = lut(np.arange(3000) ** 2 // 2200, 500, 12, "OW")
    elements = {"BitsStored": 13, "ModalityLUTSequence": [modality], "VOILUTSequence": [voi]}
    data = make_dicom(pixels, WindowCenter=1, WindowWidth=1, **elements)
    oracle = dcmread(pydicom.filebase.DicomBytesIO(data))
    expected = apply_voi(apply_modality_lut(pixels, oracle), oracle) * (255 / 4095)
    assert np.abs(dicom.decode(data) - expected).max() <= 0.5 + 1e-6
    assert len(np.unique(dicom.decode(data))) > 200
    # A window that the user gives counts more than the file's LUT.
    threshold = np.where(apply_modality_lut(pixels, oracle) > 2000, 255, 0)
    np.testing.assert_array_equal(dicom.decode(data, (2001, 1)), threshold)


def test_eight_bit_voi_lut_of_many_entries(make_dicom):
    pixels = np.array([[0, 256], [1023, 4095]], np.uint16)
    assert shown(make_dicom(pixels, VOILUTSequence=[lut(np.arange(1024) // 4, 0, 8, "US")])) == [[0, 64], [255, 255]]


@pytest.mark.parametrize("padding", [-2000, 63536])
def test_padding_is_black_and_does_not_count(make_dicom, padding):
    pixels = np.array([[-2000, 0], [500, 1000]], np.int16)
    assert shown(make_dicom(pixels)) == [[0, 170], [212, 255]]
    data = bytearray(make_dicom(pixels, PixelPaddingValue=-2000))
    if padding > 0:  # some scanners write the number as unsigned
        data = data.replace(b"\x28\x00\x20\x01SS", b"\x28\x00\x20\x01US")
    assert shown(bytes(data)) == [[0, 0], [128, 255]]
    assert shown(make_dicom(pixels, PixelPaddingValue=-2000, PhotometricInterpretation="MONOCHROME1")) == [
        [0, 255],
        [127, 0],
    ]
    limits = {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": 0}
    assert shown(make_dicom(pixels, **limits)) == [[0, 0], [0, 255]]
    assert shown(make_dicom(np.full((2, 2), -2000, np.int16), **limits)) == [[0, 0], [0, 0]]


def test_colour(make_dicom, picture):
    np.testing.assert_array_equal(dicom.decode(make_dicom(picture)), picture)
    deep = picture.astype(np.uint16) * 257
    np.testing.assert_array_equal(dicom.decode(make_dicom(deep)), picture)
    ybr = np.array(Image.fromarray(picture).convert("YCbCr"))
    back = dicom.decode(make_dicom(ybr, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(back.astype(int) - picture).max() <= 3
    with pytest.raises(BadImage, match="photometric interpretation HSV"):
        dicom.decode(make_dicom(picture, PhotometricInterpretation="HSV"))


def test_window_and_channels_pass_through_decode(make_dicom):
    data = make_dicom(CT, RescaleSlope=1, RescaleIntercept=-1024)
    expected = [[0, 0, 127], [128, 255, 255]]
    assert images.decode(data, (2, 3), 3, window=(40, 400)).tolist() == [expected] * 3
    assert images.decode(data, (2, 3), 1).tolist() == [shown(data)]


def test_frames_by_policy(make_dicom):
    volume = np.stack([np.full((4, 4), shade, np.uint8) for shade in (10, 20, 30, 40)])
    data = make_dicom(volume)
    with pytest.raises(BadImage, match=r"several frames; data\.frames=first or data\.frames=middle"):
        dicom.decode(data)
    assert dicom.decode(data, frames="first")[0, 0] == 10
    assert dicom.decode(data, frames="middle")[0, 0] == 30
    assert dicom.decode(make_dicom(volume[:1]))[0, 0] == 10


def test_enhanced_objects_have_a_window_for_each_frame(make_dicom):
    def item(sequence, **elements):
        inner, outer = Dataset(), Dataset()
        for keyword, value in elements.items():
            setattr(inner, keyword, value)
        setattr(outer, sequence, [inner])
        return outer

    volume = np.stack([CT.T, CT.T])
    shared = item("PixelValueTransformationSequence", RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
    each = [
        item("FrameVOILUTSequence", WindowCenter=centre, WindowWidth=width) for centre, width in ((240, 3), (40, 400))
    ]
    data = make_dicom(volume, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=each)
    assert shown(data, frames="first") == [[0, 0], [0, 64], [0, 191]]
    assert shown(data, frames="middle") == [[0, 128], [0, 255], [127, 255]]


def test_values_that_are_not_finite(make_dicom):
    def float_file(values):
        raw = make_dicom(np.zeros((2, 2), np.uint32), BitsStored=32)
        data = dcmread(pydicom.filebase.DicomBytesIO(raw))
        del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
        data.FloatPixelData = np.array(values, np.float32).tobytes()
        buffer = pydicom.filebase.DicomBytesIO()
        data.save_as(buffer)
        return buffer.getvalue()

    assert shown(float_file([[0, 0.5], [0.25, 1]])) == [[0, 128], [64, 255]]
    with pytest.raises(BadImage, match="not finite"):
        dicom.decode(float_file([[0, np.nan], [0.25, 1]]))


@pytest.mark.parametrize(
    ("syntax", "reason"),
    [(MPEG4HP41, "no decoder is known for .*MPEG-4.*; convert the file"), ("1.2.3.4", "no decoder is known .*1.2.3.4")],
)
def test_transfer_syntaxes_that_no_decoder_knows(make_dicom, syntax, reason):
    with pytest.raises(BadImage, match=reason):
        dicom.decode(make_dicom(CT, syntax))


@pytest.mark.parametrize(("syntax", "package"), [(HTJ2KLossless, "pylibjpeg-openjpeg"), (RLELossless, "pylibjpeg-rle")])
def test_a_missing_decoder_is_named(make_dicom, monkeypatch, syntax, package):
    decoder = pydicom.pixels.decoders.base.get_decoder(syntax)
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {"pylibjpeg": ("pylibjpeg>=2.0", f"{package}>=2.0")})
    with pytest.raises(BadImage, match=rf"needs a decoder \(.*{package}.*\); pip install 'medvision\[dicom\]'"):
        dicom.decode(make_dicom(CT, syntax))


def test_pydicom_itself_is_missing(make_dicom, tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(make_dicom(CT))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    dicom._quiet_pydicom.cache_clear()
    for read in (dicom.group, lambda path: images.decode_all([path], 4, 1)):
        with pytest.raises(DataError, match=r"need the package pydicom. Install it: pip install 'medvision\[dicom\]'"):
            read(tmp_path / "a.dcm")


def test_group_is_the_patient_and_hides_who(make_dicom, tmp_path):
    def name_of(**elements):
        (tmp_path / "a.dcm").write_bytes(make_dicom(CT, **elements))
        return dicom.group(tmp_path / "a.dcm")

    first = name_of(PatientID="4711", PatientName="Doe^Jane")
    assert first == hashlib.sha256(b"4711\0").hexdigest()[:16]
    assert first == name_of(PatientID="4711 ", WindowCenter=1, WindowWidth=2)
    assert len({first, name_of(PatientID="4712"), name_of(PatientID="4711", IssuerOfPatientID="Mercy")}) == 3
    assert name_of() is None
    assert name_of(PatientID="") is None


def test_group_of_what_is_no_readable_dicom(tmp_path, encode, picture):
    (tmp_path / "a.png").write_bytes(encode(picture, "PNG"))
    (tmp_path / "b.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 50)
    (tmp_path / "c.dcm").touch()
    for path in (*tmp_path.iterdir(), tmp_path, tmp_path / "gone.dcm"):
        assert dicom.group(path) is None


def test_group_does_not_need_the_pixels():
    assert dicom.group(FILES["MR_truncated.dcm"]) == dicom.group(FILES["MR_small.dcm"]) is not None
    assert dicom.group(FILES["image_dfl.dcm"]) is None


def test_dicom_files_among_others(tmp_path, make_dicom, encode, picture, caplog):
    (tmp_path / "scan").write_bytes(make_dicom(CT))  # as a scanner's archive names them
    (tmp_path / "scan.png").write_bytes(make_dicom(CT))
    (tmp_path / "photo.dcm").write_bytes(encode(picture, "PNG"))
    decoded, bad = images.decode_all(sorted(tmp_path.iterdir()), (2, 3), 1)
    assert bad == []
    np.testing.assert_array_equal(decoded[1], decoded[2])
    assert "2 file(s) were read by content, not by extension: photo.dcm is PNG ..." in caplog.text
