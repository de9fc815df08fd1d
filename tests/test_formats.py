"""Kinds of image files: each shows the picture that was put into it, upright, or is rejected for a true reason."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from fext.data.analysis import analyze_file
from fext.data.dataset import ImageDataset
from fext.data.images import ImageHeader, Preprocessing, decode_within, load_image, preprocess
from fext.data.looks import look_at_file
from fext.data.source import find_images
from fext.data.thumbnails import make_thumbnail
from fext.errors import ImageRejected

WIDTH, HEIGHT = 24, 16
SHAPE = Preprocessing(HEIGHT, WIDTH, 3, "stretch")
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
# No two corners are alike, and no two turns or mirrors.
COLOURED = Image.fromarray(np.stack([COLUMNS * 10, ROWS * 15, (ROWS + COLUMNS) * 3], axis=-1).astype(np.uint8))
GREY = np.asarray(COLOURED.convert("L"))
# How a camera that was held so stores an upright picture.
TURNS = Image.Transpose
STORED = {
    1: None, 2: TURNS.FLIP_LEFT_RIGHT, 3: TURNS.ROTATE_180, 4: TURNS.FLIP_TOP_BOTTOM, 5: TURNS.TRANSPOSE,
    6: TURNS.ROTATE_90, 7: TURNS.TRANSVERSE, 8: TURNS.ROTATE_270,
}  # fmt: skip
ORIENTATION = 0x0112
LOSSLESS, LOSSY = 1e-6, 0.1
Image.init()
with_avif = pytest.mark.skipif("AVIF" not in Image.SAVE, reason="Pillow without AVIF")

Array = NDArray[np.float32]


def encoded(picture: Image.Image, file_format: str, **options: object) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    picture.save(stream, file_format, **options)
    return stream.getvalue()


def shown(data: bytes, extension: str = "") -> Array:
    """What a model gets of a picture, and every job that measures or shows it."""
    array = preprocess(data, SHAPE, extension)
    header, pixels, _ = decode_within(data, WIDTH)
    assert (header.width, header.height) == (WIDTH, HEIGHT)
    assert np.array_equal(pixels, array)
    return array


def header_of(data: bytes) -> ImageHeader:
    """What a file says of itself."""
    return decode_within(data, WIDTH)[0]


def reason(data: bytes, extension: str = "") -> str:
    """Why a file is rejected, the same wherever it is read."""
    with pytest.raises(ImageRejected) as caught:
        preprocess(data, SHAPE, extension)
    with pytest.raises(ImageRejected) as again:
        decode_within(data, WIDTH, extension)
    assert str(again.value) == str(caught.value)
    return str(caught.value)


def in_mode(mode: str) -> Image.Image:
    """The coloured picture in a colour mode of Pillow."""
    if mode.startswith("I;16"):
        return Image.fromarray((GREY.astype(np.uint16) * 257).astype(">u2" if mode == "I;16B" else "<u2"))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        lab = ImageCms.profileToProfile(COLOURED, *profiles, outputMode="LAB")
        assert lab is not None
        return lab
    picture = COLOURED.convert("P").convert("PA") if mode == "PA" else COLOURED.convert(mode)
    if mode in {"LA", "RGBA"}:
        picture.putalpha(Image.fromarray((COLUMNS * 10).astype(np.uint8)))
    return picture


def plain(picture: Image.Image) -> Array:
    """Its pixels as the contract says."""
    if picture.mode.startswith("I;16"):
        return np.repeat(np.asarray(picture).astype(np.float32)[:, :, None] / np.float32(65535), 3, axis=2)
    if picture.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, *profiles, outputMode="RGB")
        assert converted is not None
        picture = converted
    if picture.mode in {"LA", "PA", "RGBA"}:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / np.float32(255)


def oriented(value: int) -> Image.Exif:
    """EXIF that says how the camera was held."""
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


# ---------------------------------------------------------------- what Pillow writes

WITH_EXIF = [
    *(("PNG", mode, {}, LOSSLESS) for mode in ("1", "L", "LA", "P", "I;16", "I;16B", "RGB", "RGBA")),
    *(("WEBP", mode, {"lossless": True}, LOSSLESS) for mode in ("L", "RGB", "RGBA")),
    *(("JPEG", mode, {"quality": 95, "subsampling": 0}, LOSSY) for mode in ("L", "RGB", "CMYK", "YCbCr")),
    ("MPO", "RGB", {"quality": 95, "subsampling": 0}, LOSSY),
    *(
        pytest.param("AVIF", mode, {"quality": 95, "subsampling": "4:4:4"}, LOSSY, marks=with_avif)
        for mode in ("L", "RGB", "RGBA")
    ),
    *(
        ("TIFF", mode, {"compression": compression}, 0.01 if mode == "YCbCr" else LOSSLESS)
        for mode in ("1", "L", "LA", "P", "PA", "I;16", "I;16B", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")
    ),
    *(("TIFF", "1", {"compression": compression}, LOSSLESS) for compression in ("group3", "group4", "tiff_ccitt")),
    *(("TIFF", mode, {"compression": "jpeg", "quality": 95}, 0.2) for mode in ("L", "RGB", "CMYK", "YCbCr")),
    ("TIFF", "RGB", {"big_tiff": True}, LOSSLESS),
    ("TIFF", "LAB", {"compression": "tiff_lzw"}, LOSSLESS),
]


@pytest.mark.parametrize(("file_format", "mode", "options", "loss"), WITH_EXIF)
def test_a_picture_is_the_same_upright_in_every_format_mode_and_orientation(
    file_format: str, mode: str, options: Mapping[str, object], loss: float
) -> None:
    picture = in_mode(mode)
    for orientation, turn in STORED.items():
        stored = picture if turn is None else picture.transpose(turn)
        data = encoded(stored, file_format, exif=oriented(orientation), **options)
        assert np.abs(shown(data) - plain(picture)).max() <= loss, orientation
        assert not header_of(data).note


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [
        *(("BMP", mode) for mode in ("1", "L", "P", "RGB")),
        *(("DDS", mode) for mode in ("L", "LA", "RGB", "RGBA")),
        *(("DIB", mode) for mode in ("1", "L", "P", "RGB")),
        *(("GIF", mode) for mode in ("1", "L", "P")),
        *(("JPEG2000", mode) for mode in ("L", "LA", "I;16", "RGB", "RGBA")),
        *(("PCX", mode) for mode in ("1", "L", "P", "RGB")),
        *(("PPM", mode) for mode in ("1", "L", "I;16", "RGB")),
        *(("SGI", mode) for mode in ("L", "RGB", "RGBA")),
        *(("TGA", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        ("BLP", "P"), ("MSP", "1"), ("QOI", "RGB"), ("QOI", "RGBA"), ("XBM", "1"),
    ],
)  # fmt: skip
def test_a_picture_is_the_same_in_every_other_format_that_pillow_writes(file_format: str, mode: str) -> None:
    try:
        data = encoded(in_mode(mode), file_format)
    except (KeyError, OSError, ValueError) as error:  # a Pillow that writes less
        pytest.skip(str(error))
    assert np.abs(shown(data) - plain(in_mode(mode))).max() <= LOSSLESS


@pytest.mark.parametrize("file_format", ["ICO", "ICNS"])
def test_the_largest_picture_of_an_icon_is_shown(file_format: str) -> None:
    picture = COLOURED.resize((32, 32))
    data = encoded(picture, file_format, **({"sizes": [(16, 16), (32, 32)]} if file_format == "ICO" else {}))
    array = preprocess(data, Preprocessing(32, 32, 3, "stretch"))
    assert np.abs(array - plain(picture)).mean() <= 0.02


# ---------------------------------------------------------------- TIFF by hand

Entry = tuple[int, int, Sequence[int]]  # tag, type, values
BYTE, ASCII, SHORT, LONG, FLOAT = 1, 2, 3, 4, 11
CODES = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I", FLOAT: "f", 7: "B", 12: "d"}


def directory(entries: Sequence[Entry], at: int, order: str, next_at: int = 0) -> bytes:
    """A directory that lies at a place in the file, with its values behind it."""
    behind = at + 2 + 12 * len(entries) + 4
    lines, values = b"", b""
    for tag, kind, numbers in sorted(entries):
        raw = struct.pack(f"{order}{len(numbers)}{CODES[kind]}", *numbers)
        held = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(order + "I", behind + len(values))
        values += raw if len(raw) > 4 else b""
        lines += struct.pack(order + "HHI", tag, kind, len(numbers)) + held
    return struct.pack(order + "H", len(entries)) + lines + struct.pack(order + "I", next_at) + values


def tiff(
    strips: Sequence[bytes],
    bits: Sequence[int],
    photometric: int,
    *extra: Entry,
    order: str = "<",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pages: Callable[[int], Sequence[bytes]] = lambda _: (),
) -> bytes:
    """A TIFF of one page; `pages` makes what lies behind it, given its place, and what `extra` may lead to."""
    lengths = [len(strip) for strip in strips]

    def entries(first_strip: int) -> list[Entry]:
        places = [first_strip + sum(lengths[:number]) for number in range(len(strips))]
        own: list[Entry] = [
            (256, LONG, [size[0]]), (257, LONG, [size[1]]), (258, SHORT, bits), (259, SHORT, [1]),
            (262, SHORT, [photometric]), (273, LONG, places), (277, SHORT, [len(bits)]), (278, LONG, [size[1]]),
            (279, LONG, lengths),
        ]  # fmt: skip
        replaced = {tag for tag, _, _ in extra}
        return [entry for entry in own if entry[0] not in replaced] + list(extra)

    start = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    first_strip = 8 + len(directory(entries(0), 8, order))
    end = first_strip + sum(lengths)
    return start + directory(entries(first_strip), 8, order) + b"".join([*strips, *pages(end)])


def packed(values: NDArray[np.int64], bits: int, order: str = "<") -> bytes:
    """Rows of samples as a TIFF stores them, each row from a whole byte on."""
    if bits == 16:
        return values.astype(f"{order}u2").tobytes()
    digits = (values[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def levels(bits: int) -> NDArray[np.int64]:
    """The grey picture in as many levels."""
    return np.rint(GREY / 255 * (2**bits - 1)).astype(np.int64)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_grey_of_every_depth_is_scaled_by_its_own_bits_and_is_no_negative(
    bits: int, white_is_zero: bool, order: str, orientation: int
) -> None:
    white = 2**bits - 1
    upright = levels(bits)
    stored = np.rot90(upright) if orientation == 6 else upright
    data = tiff(
        [packed(white - stored if white_is_zero else stored, bits, order)],
        [bits],
        0 if white_is_zero else 1,
        (ORIENTATION, SHORT, [orientation]),
        order=order,
        size=(stored.shape[1], stored.shape[0]),
    )
    if bits == 12 and order == ">":
        assert "12 bits" in reason(data)  # which Pillow does not open
        return
    assert np.abs(shown(data)[..., 0] - upright / white).max() <= LOSSLESS


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("is_planar", [False, True])
def test_colours_that_lie_in_planes_are_those_that_lie_side_by_side(is_planar: bool, bits: int, order: str) -> None:
    pixels = np.asarray(COLOURED).astype(np.int64) * (257 if bits == 16 else 1)
    planes = [packed(pixels[..., channel], bits, order) for channel in range(3)]
    strips = planes if is_planar else [packed(pixels.reshape(HEIGHT, -1), bits, order)]
    data = tiff(strips, [bits] * 3, 2, (284, SHORT, [2 if is_planar else 1]), order=order)
    assert np.abs(shown(data) - plain(COLOURED)).max() <= LOSSLESS


def test_a_colour_map_of_eight_bits_is_not_taken_for_black() -> None:
    palette = in_mode("P")
    colours = palette.getpalette()
    assert colours is not None
    colours = [*colours, *[0] * (768 - len(colours))]
    in_planes = [colours[place] for channel in range(3) for place in range(channel, 768, 3)]
    data = tiff([palette.tobytes()], [8], 3, (320, SHORT, in_planes))
    assert np.abs(shown(data) - plain(palette)).max() <= LOSSLESS


def test_alpha_that_the_colours_were_multiplied_with_is_laid_over_white() -> None:
    pixels = bytes((10, 51)) * (WIDTH * HEIGHT)  # 10 of a light of 51 in 255
    data = tiff([pixels], [8, 8], 1, (338, SHORT, [1]))
    if int(PIL.__version__.split(".")[0]) < 13:
        assert "that Pillow does not open (8/8 bits" in reason(data)
        return
    assert np.abs(shown(data) - (10 + 204) / 255).max() <= 2 / 255


@pytest.mark.parametrize(
    ("bits", "sample_format", "words"),
    [(8, 2, "signed 8-bit"), (16, 2, "signed 16-bit"), (32, 2, "32-bit"), (32, 1, "32-bit"), (32, 3, "floating")],
)
@pytest.mark.parametrize("photometric", [0, 1])
def test_samples_without_a_known_range_are_rejected_by_what_they_are(
    photometric: int, bits: int, sample_format: int, words: str
) -> None:
    pixels = bytes(WIDTH * HEIGHT * bits // 8)
    text = reason(tiff([pixels], [bits], photometric, (339, SHORT, [sample_format])))
    assert words in text or "that Pillow does not open" in text
    if photometric == 1:
        assert words in text
        assert "no known range" in text


def test_colours_of_fewer_places_than_pixels_without_compression_have_a_true_reason() -> None:
    pixels = bytes(WIDTH * HEIGHT * 3 // 2)
    assert "Pillow does not read" in reason(tiff([pixels], [8] * 3, 6, (530, SHORT, [2, 2])))


@pytest.mark.parametrize("bits", [10, 14, 24, 64])
def test_a_tiff_that_pillow_does_not_know_is_rejected_by_its_kind(bits: int) -> None:
    assert f"({bits} bits" in reason(tiff([bytes(WIDTH * HEIGHT * 8)], [bits], 1))


@pytest.mark.parametrize("rows_per_strip", [4, 8])
def test_a_tiff_without_all_its_strips_is_rejected_rather_than_black_below(rows_per_strip: int) -> None:
    strip = packed(levels(8), 8)[: WIDTH * rows_per_strip]
    assert "truncated" in reason(tiff([strip], [8], 1, (278, LONG, [rows_per_strip])))


# ---------------------------------------------------------------- camera raw

PREVIEW = np.asarray(COLOURED).tobytes()
SENSOR = (40, 30)


def raw_like(
    *first: Entry, photometric: int = 32803, subfile: int = 0, compression: int = 1, order: str = "<"
) -> bytes:
    """A file laid out as camera raw is: a preview, and in a sub-directory what the sensor saw."""

    def sensor(at: int) -> list[bytes]:
        return [directory(sensor_entries(at), at, order), bytes(SENSOR[0] * SENSOR[1] * 2)]

    def sensor_entries(at: int) -> list[Entry]:
        return [
            (254, LONG, [subfile]), (256, LONG, [SENSOR[0]]), (257, LONG, [SENSOR[1]]), (258, SHORT, [16]),
            (259, SHORT, [compression]), (262, SHORT, [photometric]), (273, LONG, [at + 200]), (277, SHORT, [1]),
            (278, LONG, [SENSOR[1]]), (279, LONG, [SENSOR[0] * SENSOR[1] * 2]),
        ]  # fmt: skip

    def made(sub_at: int) -> bytes:
        return tiff([PREVIEW], [8] * 3, 2, (330, LONG, [sub_at]), *first, order=order, pages=sensor)

    return made(len(made(0)) - len(b"".join(sensor(0))))


THUMBNAIL: Entry = (254, LONG, [1])
RAW = {
    "sensor data behind a thumbnail": raw_like(THUMBNAIL),
    "sensor data behind a preview of full size": raw_like(),
    "linear raw": raw_like(THUMBNAIL, photometric=34892),
    "big-endian": raw_like(THUMBNAIL, order=">"),
    "compressed by Nikon": raw_like(THUMBNAIL, photometric=1, compression=34713),
    "compressed by Sony": raw_like(photometric=1, compression=32767),
    "compressed by Pentax": tiff([PREVIEW], [8] * 3, 2, (259, SHORT, [65535])),
    "a DNG version": tiff([PREVIEW], [8] * 3, 2, (50706, BYTE, [1, 4, 0, 0])),
    "sensor data on the first page": tiff([bytes(WIDTH * HEIGHT * 2)], [16], 32803),
    "CR2": b"II*\0\x10\0\0\0CR\2\0" + bytes(4) + tiff([PREVIEW], [8] * 3, 2)[8:],
    "RW2": b"IIU\0" + bytes(100),
    "ORF": b"IIRO" + bytes(100),
    "RAF": b"FUJIFILMCCD-RAW 0201" + bytes(100),
    "CR3": b"\0\0\0\x18ftypcrx " + bytes(100),
}


@pytest.mark.parametrize("data", RAW.values(), ids=RAW)
@pytest.mark.parametrize("extension", ["", ".tif", ".nef"])
def test_camera_raw_is_rejected_as_such_whatever_it_is_called(data: bytes, extension: str) -> None:
    assert "camera raw" in reason(data, extension)


@pytest.mark.parametrize("extension", [".nef", ".DNG", ".pef", ".3fr", ".arw", ".Cr2", ".srw", ".mos", ".iiq", ".erf"])
def test_a_tiff_that_is_called_camera_raw_is_rejected_as_such(extension: str, tmp_path: Path) -> None:
    file = tmp_path / f"photo{extension}"
    file.write_bytes(tiff([PREVIEW], [8] * 3, 2))
    with pytest.raises(ImageRejected, match="camera raw"):
        load_image(file, SHAPE)


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda file: look_at_file(file).reason, id="choosing"),
        pytest.param(lambda file: analyze_file(file).reason, id="analysis"),
        pytest.param(lambda file: make_thumbnail(file, 8).reason, id="viewer"),
        pytest.param(lambda file: ImageDataset(file.parent, [file.name], SHAPE)[0, 0].file.reason, id="training"),
    ],
)
def test_every_job_knows_what_a_file_is_called(read: Callable[[Path], str], tmp_path: Path) -> None:
    file = tmp_path / "photo.pef"
    file.write_bytes(tiff([PREVIEW], [8] * 3, 2))
    assert "camera raw" in read(file)


def test_files_of_cameras_are_found_so_that_they_can_be_named(tmp_path: Path) -> None:
    for name in ("a.pef", "b.3fr", "c.RWL", "d.x3f"):
        (tmp_path / name).write_bytes(b"something else")
    source = find_images(tmp_path)
    assert len(source) == 4
    assert source.num_not_images == 0


def test_a_thumbnail_with_its_picture_in_a_sub_directory_is_no_picture() -> None:
    assert "thumbnail" in reason(raw_like(THUMBNAIL, photometric=1))


def test_pages_of_reduced_size_behind_a_whole_picture_do_no_harm() -> None:
    pyramid = raw_like(photometric=1, subfile=1)  # as in microscopy and maps
    assert np.abs(shown(pyramid) - plain(COLOURED)).max() <= LOSSLESS
    several = encoded(COLOURED, "TIFF", save_all=True, append_images=[COLOURED.resize((12, 8)), COLOURED])
    assert np.abs(shown(several) - plain(COLOURED)).max() <= LOSSLESS


def test_a_jpeg_that_is_called_camera_raw_is_a_jpeg() -> None:
    assert shown(encoded(COLOURED, "JPEG"), ".nef").shape == (HEIGHT, WIDTH, 3)


# ---------------------------------------------------------------- words about a picture


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    """One part of a PNG file."""
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_with(chunks: bytes, behind: bool = False) -> bytes:
    """The picture as a PNG with more chunks in front of its pixels or behind them."""
    data = encoded(COLOURED, "PNG")
    place = len(data) - 12 if behind else 33
    return data[:place] + chunks + data[place:]


LARGE = zlib.compress(bytes(2**21))
WORDS = {
    "a large compressed text": chunk(b"zTXt", b"Comment\0\0" + LARGE),
    "a large international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LARGE),
    "a large colour profile": chunk(b"iCCP", b"profile\0\0" + LARGE),
    "a bomb": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**24))),
    "many texts": chunk(b"tEXt", b"Comment\0" + b"x" * 2**20) * 70,
    "a profile of an unknown compression": chunk(b"iCCP", b"profile\0\7abc"),
    "a text of an unknown compression": chunk(b"zTXt", b"Comment\0\7abc"),
    "a text that is cut off": chunk(b"iTXt", b"Comment"),
    "a text with a wrong checksum": chunk(b"tEXt", b"Comment\0text", checksum=1),
    "a colour space with a wrong checksum": chunk(b"gAMA", bytes(4), checksum=1),
    "an unknown chunk": chunk(b"abCd", b"anything"),
    "a resolution without numbers": chunk(b"pHYs", b""),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_no_word_about_a_png_rejects_it(words: bytes, behind: bool) -> None:
    data = png_with(words, behind)
    assert np.array_equal(shown(data), plain(COLOURED))
    assert not header_of(data).note


def test_orientation_is_read_where_other_words_are_broken() -> None:
    turned = COLOURED.transpose(STORED[6])  # type: ignore[arg-type]
    data = encoded(turned, "PNG", exif=oriented(6))
    data = data[:33] + WORDS["a large compressed text"] + WORDS["a text with a wrong checksum"] + data[33:]
    assert np.array_equal(shown(data), plain(COLOURED))


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS", b"pLTE"])
def test_a_wrong_checksum_of_what_makes_the_picture_rejects_it(kind: bytes) -> None:
    data = encoded(in_mode("P"), "PNG", transparency=0)
    name = kind if kind in data else kind.upper()
    place = data.index(name)
    end = place + 4 + int.from_bytes(data[place - 4 : place], "big")
    changed = data[:place] + kind + data[place + 4 : end] + b"\1\2\3\4" + data[end + 4 :]
    text = reason(changed)
    assert "checksum" in text
    assert kind.decode() in text


@pytest.mark.parametrize("place", [0xE1, 0xE2, 0xED, 0xEE, 0xFE])
def test_no_word_about_a_jpeg_rejects_it(place: int) -> None:
    data = encoded(COLOURED, "JPEG")
    expected = shown(data)
    for name in (b"Exif\0\0", b"ICC_PROFILE\0", b"MPF\0", b"Photoshop 3.0\0", b"http://ns.adobe.com/xap/1.0/\0"):
        for content in (b"", b"\1", b"8BIM\xff\xff", b"II*\0\xff\xff\xff\xff"):
            words = struct.pack(">BBH", 0xFF, place, 2 + len(name + content)) + name + content
            assert np.array_equal(shown(data[:20] + words + data[20:]), expected)


@pytest.mark.parametrize("words", [b"no EXIF", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_no_word_about_a_webp_rejects_it(words: bytes) -> None:
    data = encoded(COLOURED, "WEBP", lossless=True, exif=words, icc_profile=words, xmp=words)
    assert np.array_equal(shown(data), plain(COLOURED))


@with_avif
def test_no_word_about_an_avif_rejects_it() -> None:
    exif = oriented(6)
    exif[270] = "described"
    data = encoded(COLOURED.transpose(STORED[6]), "AVIF", exif=exif)  # type: ignore[arg-type]
    start = max(data.find(b"MM\0*"), data.find(b"II*\0"))
    assert start > 0
    assert np.array_equal(shown(data[:start] + b"no E" + data[start + 4 :]), shown(data))


@pytest.mark.parametrize("tag", [270, 282, 305, 306, 700, 33723, 34377, 34665, 34675, 34853, 37724, 40965])
@pytest.mark.parametrize("kind", [ASCII, SHORT, LONG, 7, 12])
def test_no_word_about_a_tiff_rejects_it(tag: int, kind: int) -> None:
    for numbers in ([0], [255] * 3, [7]):
        data = bytearray(tiff([PREVIEW], [8] * 3, 2, (tag, kind, numbers)))
        entry = data.index(struct.pack("<HHI", tag, kind, len(numbers)))
        for broken in (b"", struct.pack("<I", 2**31)):  # one of its values, or a place outside of the file
            data[entry + 8 : entry + 8 + len(broken)] = broken
            assert np.array_equal(shown(bytes(data)), plain(COLOURED))


# ---------------------------------------------------------------- orientation that cannot be read


def exif_of(kind: int, value: bytes, length: int = 1) -> bytes:
    """An EXIF block with an orientation of any type."""
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHI4s", 1, ORIENTATION, kind, length, value) + bytes(4)


UNREADABLE = {
    "garbage": b"this is no TIFF header at all",
    "a cut off header": b"II*\0",
    "cut off": b"II*\0\x08\0\0\0\xff\xff\x0f\x01",
    "not a number": exif_of(FLOAT, struct.pack("<f", float("nan"))),
    "a fraction": exif_of(FLOAT, struct.pack("<f", 6.0)),
    "a text": exif_of(ASCII, b"6\0\0\0"),
    "of an undefined type": exif_of(7, b"\6\0\0\0"),
    "nothing": exif_of(SHORT, b"\0\0\0\0"),
    "nine": exif_of(SHORT, b"\x09\0\0\0"),
    "below zero": exif_of(9, struct.pack("<i", -6)),
    "outside of the file": exif_of(SHORT, b"\xff\xff\xff\xff", length=500),
}


@pytest.mark.parametrize("exif", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_that_cannot_be_read_counts_as_none_and_is_told(file_format: str, exif: bytes) -> None:
    if file_format == "PNG":
        data = png_with(chunk(b"eXIf", exif))
    else:
        data = encoded(COLOURED, file_format, exif=(b"Exif\0\0" if file_format == "JPEG" else b"") + exif, quality=95)
    assert np.abs(shown(data) - plain(COLOURED)).mean() <= LOSSY
    assert "orientation" in header_of(data).note


@pytest.mark.parametrize(
    ("kind", "value"), [(FLOAT, struct.unpack("<I", struct.pack("<f", 6.0))[0]), (SHORT, 9), (SHORT, 0), (7, 6)]
)
def test_an_orientation_of_a_tiff_that_cannot_be_read_counts_as_none_and_is_told(kind: int, value: int) -> None:
    data = bytearray(tiff([PREVIEW], [8] * 3, 2, (ORIENTATION, LONG, [value])))
    entry = data.index(struct.pack("<HH", ORIENTATION, LONG))
    data[entry + 2] = kind
    assert np.array_equal(shown(bytes(data)), plain(COLOURED))
    assert "orientation" in header_of(bytes(data)).note


def test_an_orientation_that_was_lost_with_other_words_is_told() -> None:
    for kind in (b"eXIf", b"iTXt"):
        content = exif_of(SHORT, b"\6\0\0\0") if kind == b"eXIf" else b"XML:com.adobe.xmp\0\0\0\0\0<x/>"
        data = png_with(chunk(kind, content, checksum=1))
        assert np.array_equal(shown(data), plain(COLOURED))
        assert "orientation" in header_of(data).note


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_orientation_that_only_xmp_says_is_applied_once(file_format: str) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    turned = COLOURED.transpose(STORED[6])  # type: ignore[arg-type]
    if file_format == "PNG":
        data = encoded(turned, "PNG")
        data = data[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + data[33:]
    elif file_format == "TIFF":
        data = tiff([turned.tobytes()], [8] * 3, 2, (700, BYTE, list(xmp)), size=turned.size)
    else:
        data = encoded(turned, file_format, xmp=xmp, quality=95)
    assert np.abs(shown(data) - plain(COLOURED)).mean() <= 0.05
    assert not header_of(data).note


# ---------------------------------------------------------------- transparency of a PNG


@pytest.mark.parametrize("bits", [2, 4])
def test_the_transparent_grey_of_few_bits_becomes_white(bits: int) -> None:
    level = 2**bits - 2
    row = packed(np.full((1, WIDTH), level), bits)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * HEIGHT)
    for transparent, expected in ((level, 1.0), (0, level / (2**bits - 1))):
        chunks = chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", transparent)) + chunk(b"IDAT", pixels)
        assert np.abs(shown(b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")) - expected).max() <= 1 / 255


def test_the_transparent_colour_of_sixteen_bits_becomes_white() -> None:
    colour = struct.pack(">3H", 65535, 256, 40000)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + colour * WIDTH) * HEIGHT)
    chunks = chunk(b"IHDR", header) + chunk(b"tRNS", colour) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    assert np.all(shown(b"\x89PNG\r\n\x1a\n" + chunks) == 1)


# ---------------------------------------------------------------- true reasons


def lines_at(data: bytes) -> int:
    """Where a JPEG says its number of lines."""
    return data.index(b"\xff\xc0") + 5


def test_a_jpeg_that_says_its_height_behind_the_scan_is_read() -> None:
    data = encoded(COLOURED, "JPEG")
    place = lines_at(data)
    behind = data[:place] + b"\0\0" + data[place + 2 : -2] + b"\xff\xdc\0\4" + data[place : place + 2] + data[-2:]
    assert np.array_equal(shown(behind), shown(data))


def test_a_jpeg_that_says_no_height_is_rejected_for_that() -> None:
    data = encoded(COLOURED, "JPEG")
    place = lines_at(data)
    assert "how high" in reason(data[:place] + b"\0\0" + data[place + 2 :])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"\0\0\0\x18ftypheic" + bytes(200), "HEIC", id="HEIC"),
        pytest.param(b"\x89HDF\r\n\x1a\n" + bytes(200), "HDF5", id="HDF5"),
        pytest.param(b"GRIB" + bytes(3) + b"\1" + bytes(200), "GRIB", id="GRIB"),
        pytest.param(b"MM\0+\0\x08\0\0" + bytes(7) + b"\x10" + bytes(200), "BigTIFF", id="big-endian"),
        pytest.param(b"\xff\xd8\xff\xe0" + bytes(200), "damaged", id="JPEG"),
        pytest.param(b"RIFF" + bytes(4) + b"WEBPVP8 " + bytes(100), "damaged", id="WebP"),
    ],
)
def test_a_reason_says_what_is_so(data: bytes, words: str) -> None:
    assert words in reason(data)


def test_eps_without_ghostscript_is_rejected_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", False)
    text = reason(encoded(COLOURED, "EPS"))
    assert "Ghostscript" in text
    assert "damaged" not in text


def test_measurements_have_no_white() -> None:
    cards = b"".join(
        line.ljust(80)
        for line in (
            b"SIMPLE  =                    T", b"BITPIX  =                   16", b"NAXIS   =                    2",
            b"NAXIS1  =                   24", b"NAXIS2  =                   16", b"END",
        )
    )  # fmt: skip
    assert "no known range" in reason(cards.ljust(2880) + bytes(2880))
