"""Decoding and preprocessing: what every kind of image file becomes, in pixel values worked out by hand."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from fext.data.images import Preprocessing, checksum, load_image, preprocess
from fext.errors import ImageRejected

Image.init()
Mode = Literal["stretch", "crop", "pad"]
Array = NDArray[np.float32]
MODES: tuple[Mode, ...] = get_args(Mode)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# JPEG stores colour differences rounded: a flat colour comes back within a few of 255 steps.
JPEG_STEPS = 4 / 255


def encoded(picture: Image.Image, file_format: str, **options: object) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    picture.save(stream, file_format, **options)
    return stream.getvalue()


def shown(data: bytes, size: tuple[int, int] = (32, 32), channels: int = 3, mode: Mode = "stretch") -> Array:
    """The preprocessed image of (height, width), after a look at what is true of every one."""
    array = preprocess(data, Preprocessing(*size, channels, mode))
    assert array.shape == (*size, channels)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert array.min() >= 0
    assert array.max() <= 1
    return array


def flat(data: bytes, channels: int = 3) -> list[float]:
    """The one colour of a picture that is all of one colour."""
    array = shown(data, channels=channels)
    assert np.ptp(array, axis=(0, 1)).max() == 0
    return [float(value) for value in array[0, 0]]


def reason(data: bytes, mode: Mode = "stretch") -> str:
    """Why an image is rejected, in one line."""
    with pytest.raises(ImageRejected) as caught:
        preprocess(data, Preprocessing(32, 32, 3, mode))
    text = str(caught.value)
    assert text
    assert len(text.splitlines()) == 1
    return text


def full_colour(*colour: int) -> list[float]:
    """A colour of 0 to 255 as it comes out."""
    return pytest.approx([value / 255 for value in colour], abs=1e-6)  # type: ignore[return-value]


def pixels_of(photograph: str) -> NDArray[np.uint8]:
    """A photograph that scikit-image carries."""
    pixels: NDArray[np.uint8] = getattr(skimage.data, photograph)()
    return pixels


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """One part of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, colour_type: int, pixel: bytes, extra: bytes = b"") -> bytes:
    """A PNG all of one pixel, for the kinds that Pillow does not write."""
    rows = (b"\0" + pixel * width) * height
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def sixteen_bits(value: int) -> Image.Image:
    """A grey picture all of that value."""
    return Image.fromarray(np.full((8, 8), value, dtype=np.uint16))


# ---------------------------------------------------------------- kinds of images


def test_eight_bits_are_divided_by_255() -> None:
    assert flat(encoded(Image.new("RGB", (8, 8), (10, 128, 255)), "PNG")) == full_colour(10, 128, 255)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_and_black_and_white_pictures_become_three_equal_channels(mode: str) -> None:
    assert flat(encoded(Image.new(mode, (8, 8), 255), "PNG")) == [1, 1, 1]
    assert flat(encoded(Image.new(mode, (8, 8), 0), "PNG")) == [0, 0, 0]


@pytest.mark.parametrize("value", [0, 1, 255, 256, 511, 4095, 40000, 65535])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_value_by_65535_in_every_range_of_brightness(file_format: str, value: int) -> None:
    assert flat(encoded(sixteen_bits(value), file_format)) == pytest.approx([value / 65535] * 3, abs=1e-7)
    assert flat(encoded(sixteen_bits(value), file_format), channels=1) == pytest.approx([value / 65535], abs=1e-7)


def test_big_endian_sixteen_bit_tiff_is_read_in_its_own_byte_order() -> None:
    picture = Image.fromarray(np.full((8, 8), 4095, dtype=">u2"))
    assert flat(encoded(picture, "TIFF")) == pytest.approx([4095 / 65535] * 3, abs=1e-7)


@pytest.mark.parametrize("value", [0, 511, 4095, 40000, 65535])
def test_sixteen_bit_colour_keeps_its_brightness_to_one_step_of_eight_bits(value: int) -> None:
    data = png(8, 8, 16, 2, struct.pack(">3H", value, value, value))
    assert flat(data) == pytest.approx([value / 65535] * 3, abs=1 / 255)


def test_sixteen_bit_pictures_are_resized_like_others() -> None:
    halves = np.zeros((64, 64), dtype=np.uint16)
    halves[:, 32:] = 65535
    array = shown(encoded(Image.fromarray(halves), "PNG"))
    assert np.all(array[:, :15] == 0)
    assert np.all(array[:, 17:] == 1)
    assert np.array_equal(array[..., 0], array[..., 2])


def test_the_transparent_entry_of_a_palette_becomes_white() -> None:
    picture = Image.new("P", (64, 32), 0)
    picture.putpalette([*RED, *GREEN])
    picture.paste(1, (32, 0, 64, 32))
    array = shown(encoded(picture, "PNG", transparency=0))
    assert np.all(array[:, :15] == 1)
    assert np.all(array[:, 17:] == (0, 1, 0))


def test_a_palette_without_transparency_becomes_its_colours() -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([*RED, 10, 20, 30])
    assert flat(encoded(picture, "PNG")) == full_colour(10, 20, 30)


def test_alpha_is_laid_over_white() -> None:
    # A fifth of red over white leaves four fifths of the white in green and blue.
    assert flat(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 51)), "PNG")) == full_colour(255, 204, 204)
    assert flat(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG")) == [1, 1, 1]
    assert flat(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 255)), "PNG")) == [1, 0, 0]
    assert flat(encoded(Image.new("LA", (8, 8), (0, 51)), "PNG")) == full_colour(204, 204, 204)


@pytest.mark.parametrize(
    ("bits", "colour_type", "pixel", "transparent"),
    [
        pytest.param(8, 2, bytes(RED), struct.pack(">3H", *RED), id="colour"),
        pytest.param(8, 0, b"\x0a", struct.pack(">H", 10), id="grey"),
        pytest.param(16, 0, struct.pack(">H", 4095), struct.pack(">H", 4095), id="16-bit grey"),
    ],
)
def test_the_one_colour_that_a_png_calls_transparent_becomes_white(
    bits: int, colour_type: int, pixel: bytes, transparent: bytes
) -> None:
    assert flat(png(8, 8, bits, colour_type, pixel, png_chunk(b"tRNS", transparent))) == [1, 1, 1]


@pytest.mark.parametrize(
    ("ink", "colour"),
    [
        ((0, 0, 0, 0), WHITE),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 255, 0), RED),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 0, 0, 155), (100, 100, 100)),
    ],
)
@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_ink_becomes_the_light_that_it_leaves(
    file_format: str, ink: tuple[int, int, int, int], colour: tuple[int, int, int]
) -> None:
    data = encoded(Image.new("CMYK", (16, 16), ink), file_format)
    assert flat(data) == pytest.approx([value / 255 for value in colour], abs=JPEG_STEPS)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_or_page_counts(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, GREEN)]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert flat(data) == pytest.approx([1, 0, 0], abs=JPEG_STEPS)


@pytest.mark.parametrize(
    "file_format",
    ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000",
     pytest.param("AVIF", marks=pytest.mark.skipif("AVIF" not in Image.SAVE, reason="Pillow without AVIF"))],
)  # fmt: skip
def test_every_usual_format_shows_the_same_picture(file_format: str) -> None:
    picture = Image.new("RGB", (64, 64), (40, 90, 200))
    picture.paste((220, 160, 30), (32, 0, 64, 64))
    array = shown(encoded(picture, file_format))
    assert np.abs(array[:, :12] - np.divide((40, 90, 200), 255)).max() <= 2 * JPEG_STEPS
    assert np.abs(array[:, 20:] - np.divide((220, 160, 30), 255)).max() <= 2 * JPEG_STEPS


def test_one_channel_weighs_the_colours_as_the_eye_does() -> None:
    # ITU-R BT.601: 0.299 red, 0.587 green, 0.114 blue.
    for colour, grey in ((RED, 76), (GREEN, 150), (BLUE, 29), (WHITE, 255)):
        assert flat(encoded(Image.new("RGB", (8, 8), colour), "PNG"), channels=1) == full_colour(grey)
    assert flat(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "PNG"), channels=1) == [1]


@pytest.mark.parametrize("name", ["picture.jpg", "picture.txt", "picture"])
def test_what_a_file_is_called_does_not_matter(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(encoded(Image.new("RGB", (8, 8), RED), "PNG"))
    assert np.all(load_image(tmp_path / name, Preprocessing(32, 32, 3, "stretch")) == (1, 0, 0))


def test_the_same_bytes_give_the_same_array_and_checksum() -> None:
    data = encoded(Image.fromarray(pixels_of("chelsea")), "JPEG")
    assert np.array_equal(shown(data), shown(data))
    assert checksum(data) == checksum(bytes(data)) != checksum(data + b"\0")


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (32, 64), (64, 32), (100, 100)])
def test_every_size_and_kind_comes_out_in_the_asked_shape(
    size: tuple[int, int], kind: str, channels: int, mode: Mode
) -> None:
    shown(encoded(Image.new(kind, size), "PNG"), size=(32, 64), channels=channels, mode=mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_a_picture_of_one_pixel_fills_the_shape(file_format: str, mode: Mode) -> None:
    array = shown(encoded(Image.new("RGB", (1, 1), RED), file_format), mode=mode)
    assert np.abs(array - (1, 0, 0)).max() <= JPEG_STEPS


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("upright", [False, True])
def test_a_picture_of_20000_by_10_pixels_is_shown_in_every_mode(upright: bool, file_format: str) -> None:
    picture = Image.new("RGB", (20000, 10), RED)
    picture.paste(BLUE, (10000, 0, 20000, 10))
    turned = picture.transpose(Image.Transpose.TRANSPOSE) if upright else picture
    data = encoded(turned, file_format, subsampling=0)
    arrays: dict[Mode, Array] = {mode: shown(data, mode=mode) for mode in MODES}
    if upright:
        arrays = {mode: array.transpose(1, 0, 2) for mode, array in arrays.items()}
    for mode in ("stretch", "crop"):
        assert np.abs(arrays[mode][:, :14] - (1, 0, 0)).max() <= JPEG_STEPS
        assert np.abs(arrays[mode][:, 18:] - (0, 0, 1)).max() <= JPEG_STEPS
    padded = arrays["pad"]  # one row is all that is left of the height
    rows = np.flatnonzero(padded.any(axis=(1, 2)))
    assert rows.tolist() == [15]
    assert np.abs(padded[15, :14] - (1, 0, 0)).max() <= JPEG_STEPS
    assert np.abs(padded[15, 18:] - (0, 0, 1)).max() <= JPEG_STEPS


def quartered() -> Image.Image:
    """64x32: a quarter red, two quarters green, a quarter blue."""
    picture = Image.new("RGB", (64, 32), GREEN)
    picture.paste(RED, (0, 0, 16, 32))
    picture.paste(BLUE, (48, 0, 64, 32))
    return picture


def test_stretch_keeps_the_whole_picture_and_changes_its_proportions() -> None:
    array = shown(encoded(quartered(), "PNG"), mode="stretch")
    assert np.all(array[:, :7] == (1, 0, 0))
    assert np.all(array[:, 9:23] == (0, 1, 0))
    assert np.all(array[:, 25:] == (0, 0, 1))


def test_crop_keeps_the_middle() -> None:
    assert np.all(shown(encoded(quartered(), "PNG"), mode="crop") == (0, 1, 0))


def test_pad_keeps_the_whole_picture_and_adds_black_borders() -> None:
    array = shown(encoded(quartered(), "PNG"), mode="pad")
    assert np.all(array[:8] == 0)
    assert np.all(array[24:] == 0)
    assert np.all(array[8:24, :7] == (1, 0, 0))
    assert np.all(array[8:24, 9:23] == (0, 1, 0))
    assert np.all(array[8:24, 25:] == (0, 0, 1))


def test_a_picture_that_has_the_shape_already_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), "PNG")
    for mode in MODES:
        assert np.array_equal(shown(data, mode=mode), pixels.astype(np.float32) / np.float32(255))


def test_shrinking_averages_what_is_too_fine_to_show() -> None:
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    inner = shown(encoded(Image.fromarray(stripes), "PNG"))[:, 1:-1]
    assert np.abs(inner - 0.5).max() <= 1 / 255


# ---------------------------------------------------------------- orientation

# How a camera stores the upright picture for each EXIF orientation: where its row 0 and column 0 are in the scene.
STORED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda upright: upright,  # row 0 is the top, column 0 the left side
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.transpose(1, 0, 2),  # left, top
    6: lambda upright: upright[:, ::-1].transpose(1, 0, 2),  # right, top
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
    8: lambda upright: upright[::-1].transpose(1, 0, 2),  # left, bottom
}


def photographed(upright: NDArray[np.uint8], orientation: int, file_format: str = "JPEG") -> bytes:
    """The file that a camera held in that orientation writes of the upright picture."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    return encoded(stored, file_format, exif=exif, **({"quality": 95} if file_format == "JPEG" else {}))


def corners(height: int, width: int) -> NDArray[np.uint8]:
    """Four quarters: red and green above, blue and white below."""
    picture = np.empty((height, width, 3), dtype=np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = RED, GREEN
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = BLUE, WHITE
    return picture


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", list(STORED))
def test_a_picture_is_shown_upright_whatever_way_the_camera_was_held(orientation: int, file_format: str) -> None:
    array = shown(photographed(corners(64, 128), orientation, file_format), size=(32, 64))
    for (row, column), colour in {(8, 16): RED, (8, 48): GREEN, (24, 16): BLUE, (24, 48): WHITE}.items():
        assert array[row, column] == pytest.approx([value / 255 for value in colour], abs=3 * JPEG_STEPS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("orientation", list(STORED))
def test_a_large_photograph_on_its_side_is_shown_as_its_upright_twin(orientation: int, mode: Mode) -> None:
    upright = pixels_of("chelsea")[:297, :449]  # sides that no reduced scale divides
    expected = shown(encoded(Image.fromarray(upright), "PNG"), size=(32, 64), mode=mode)
    array = shown(photographed(upright, orientation), size=(32, 64), mode=mode)
    difference = np.abs(array - expected)
    assert difference.mean() <= 0.01
    assert difference.max() <= 0.08


@pytest.mark.parametrize(
    "exif",
    [
        pytest.param(b"Exif\0\0this is no TIFF header at all", id="garbage"),
        pytest.param(b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", id="cut off"),
        pytest.param(
            b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4s", 1, 0x0112, 7, 1, b"\x06\0\0\0") + bytes(4),
            id="orientation of an undefined type",
        ),
        pytest.param(
            b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4s", 1, 0x0112, 3, 1, b"\x09\0\0\0") + bytes(4),
            id="orientation 9",
        ),
    ],
)
def test_a_good_picture_is_not_rejected_for_damaged_metadata(exif: bytes) -> None:
    data = encoded(Image.new("RGB", (64, 64), RED), "JPEG", exif=exif)
    assert flat(data) == pytest.approx([1, 0, 0], abs=JPEG_STEPS)


def test_threads_that_decode_at_once_let_no_warning_through_and_leave_warnings_as_they_were() -> None:
    warned_of = encoded(Image.new("RGB", (64, 64), RED), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would reject the picture
        before = list(warnings.filters)
        with ThreadPoolExecutor(4) as pool:
            pictures = list(pool.map(flat, [warned_of] * 400))
        assert warnings.filters == before
    assert pictures == [pictures[0]] * 400


# ---------------------------------------------------------------- reduced-scale decoding of JPEG


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(64, 64), (96, 32), (32, 96)])
@pytest.mark.parametrize("photograph", ["astronaut", "chelsea", "rocket"])
def test_a_large_jpeg_shows_the_same_picture_as_when_decoded_in_full(
    photograph: str, size: tuple[int, int], mode: Mode
) -> None:
    data = encoded(Image.fromarray(pixels_of(photograph)), "JPEG", quality=90)
    with Image.open(io.BytesIO(data)) as decoded_in_full:
        in_full = encoded(decoded_in_full, "PNG", compress_level=1)
    difference = np.abs(shown(data, size, mode=mode) - shown(in_full, size, mode=mode))
    assert difference.mean() <= 0.01
    assert difference.max() <= 0.08


# ---------------------------------------------------------------- rejected images


def photograph() -> Image.Image:
    """A picture with detail all over."""
    return Image.fromarray(pixels_of("chelsea")[:200, :300])


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_file_is_rejected(file_format: str, kept: float) -> None:
    data = encoded(photograph(), file_format)
    reason(data[: int(len(data) * kept)])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_truncated_jpeg_is_rejected_at_a_reduced_scale_too(mode: Mode, progressive: bool) -> None:
    data = encoded(Image.fromarray(pixels_of("astronaut")), "JPEG", progressive=progressive)
    reason(data[: len(data) * 2 // 3], mode)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_download_that_broke_off_in_a_file_of_full_length_is_rejected(progressive: bool) -> None:
    data = encoded(photograph(), "JPEG", quality=97, progressive=progressive)
    half = len(data) // 2
    reason(data[:half] + bytes(len(data) - half))


def damaged_in_the_middle(data: bytes) -> bytes:
    third = len(data) // 3
    return data[:third] + bytes(third) + data[2 * third :]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_whose_middle_is_lost_is_rejected(mode: str) -> None:
    reason(damaged_in_the_middle(encoded(photograph().convert(mode), "JPEG", quality=97)))


def test_a_jpeg_with_a_preview_is_the_same_picture_and_rejected_when_damaged() -> None:
    preview = photograph().resize((30, 20))
    data = encoded(photograph(), "MPO", quality=97, save_all=True, append_images=[preview])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.array_equal(shown(data), shown(encoded(photograph(), "JPEG", quality=97)))
    picture = data.index(b"\xff\xd8", 2)  # where the preview begins
    reason(damaged_in_the_middle(data[:picture]) + data[picture:])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 4}])
def test_a_jpeg_has_the_pixels_that_pillow_gives_it(mode: str, options: dict[str, object]) -> None:
    data = encoded(photograph().convert(mode).resize((32, 32)), "JPEG", **options)
    with Image.open(io.BytesIO(data)) as picture:
        expected = np.asarray(picture.convert("RGB"), dtype=np.float32) / np.float32(255)
    assert np.array_equal(shown(data), expected)


@pytest.mark.parametrize("compress_level", [0, 6])
def test_a_png_with_a_changed_byte_is_rejected(compress_level: int) -> None:
    data = bytearray(encoded(photograph(), "PNG", compress_level=compress_level))
    data[len(data) // 2] ^= 0xFF
    reason(bytes(data))


def test_bytes_after_the_end_of_a_picture_do_no_harm() -> None:
    for file_format in ("JPEG", "PNG"):
        data = encoded(photograph(), file_format)
        assert np.array_equal(shown(data), shown(data + b"appended by a camera: \xff\xda\xff\xe0"))


def test_an_empty_file_is_rejected_as_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    assert reason_of_file(tmp_path / "empty.jpg") == "the file is empty"


def test_a_text_named_jpg_is_rejected_as_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("A text, whatever its name says.\n" * 20)
    assert "not an image" in reason_of_file(tmp_path / "text.jpg")


def test_a_file_that_is_not_there_or_cannot_be_read_is_rejected(tmp_path: Path) -> None:
    assert reason_of_file(tmp_path / "missing.jpg") == "the file is not there"
    assert "cannot be read" in reason_of_file(tmp_path)


def test_a_listed_name_that_no_file_can_have_is_rejected(tmp_path: Path) -> None:
    assert reason_of_file(tmp_path / "a\0b.jpg")


def reason_of_file(file: Path) -> str:
    """Why the image of that path is rejected."""
    with pytest.raises(ImageRejected) as caught:
        load_image(file, Preprocessing(32, 32, 3, "stretch"))
    return str(caught.value)


@pytest.mark.parametrize("limit_of_pillow", [Image.MAX_IMAGE_PIXELS, None])
@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (178_957, 1000)])
def test_a_picture_over_the_pixel_limit_is_rejected_by_its_header_whatever_pillow_allows(
    width: int, height: int, limit_of_pillow: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit_of_pillow)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")
    assert "limit of 178,956,970" in reason(data)


@pytest.mark.parametrize(("kind", "dtype"), [("floating point", np.float32), ("whole numbers", np.int32)])
def test_pixels_of_32_bits_are_rejected_for_their_unknown_range(kind: str, dtype: type) -> None:
    text = reason(encoded(Image.fromarray(np.ones((8, 8), dtype=dtype)), "TIFF"))
    assert "32-bit" in text
    assert "8 or 16 bits" in text
