"""The measures of one picture, against the libraries they come from and against values worked out by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage import color, data, feature, filters, measure, restoration

from fext.data.images import to_bytes
from fext.data.statistics import MEASURES, NUM_LEVELS, PictureStatistics, picture_statistics

Picture = NDArray[np.float32]


def statistics_of(picture: Picture) -> PictureStatistics:
    return picture_statistics(picture, to_bytes(picture))


def measured(picture: Picture) -> dict[str, float]:
    return dict(zip((measure.name for measure in MEASURES), statistics_of(picture).values, strict=True))


def grey_picture(grey: NDArray[np.float64]) -> Picture:
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.float32)


@pytest.fixture(scope="module")
def photograph() -> Picture:
    """The astronaut of scikit-image, 512x512."""
    return (data.astronaut() / 255).astype(np.float32)


def test_uniform_grey_has_a_brightness_and_nothing_else() -> None:
    found = measured(np.full((40, 50, 3), 0.5, np.float32))
    assert [found[name] for name in ("mean", "median", "min", "max")] == pytest.approx([0.5] * 4)
    nothing = (
        "std", "range", "noise_std", "noise_ratio", "underexposed", "overexposed", "entropy", "laplacian_variance",
        "tenengrad", "gradient", "high_frequency", "colourfulness", "saturation", "edge_density", "lbp_entropy",
    )  # fmt: skip
    assert [found[name] for name in nothing] == pytest.approx([0] * len(nothing), abs=1e-6)
    assert found["midtones"] == 1
    assert found["lbp_energy"] == 1


def test_a_checkerboard_is_half_black_and_half_white_and_all_at_the_highest_frequency() -> None:
    found = measured(grey_picture(np.indices((32, 32)).sum(axis=0) % 2.0))
    expected = {
        "mean": 0.5, "std": 0.5, "min": 0, "max": 1, "range": 1, "underexposed": 0.5, "overexposed": 0.5,
        "midtones": 0, "entropy": 1, "high_frequency": 1, "colourfulness": 0, "saturation": 0,
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    # Inside, every pixel differs by 1 from four neighbours: the Laplacian is 4 and -4.
    assert found["laplacian_variance"] == pytest.approx(16, rel=0.1)


def test_the_deviation_of_added_noise_is_found() -> None:
    random = np.random.default_rng(3)
    found = measured(grey_picture(np.clip(0.5 + 0.05 * random.standard_normal((200, 200)), 0, 1)))
    assert found["noise_std"] == pytest.approx(0.05, rel=0.05)
    assert found["noise_ratio"] == pytest.approx(1, rel=0.05)
    # White noise has the same energy at all frequencies; a quarter of a circle's area of the square lies below half.
    assert found["high_frequency"] == pytest.approx(1 - np.pi / 16, rel=0.02)


def test_a_photograph_is_measured_as_the_libraries_measure_it(photograph: Picture) -> None:
    found = measured(photograph)
    grey = color.rgb2gray(photograph)
    levels = np.rint(grey * 255).astype(np.uint8)
    expected = {
        "mean": grey.mean(),
        "median": np.median(grey),
        "std": grey.std(),
        "min": grey.min(),
        "max": grey.max(),
        "range": np.ptp(grey),
        "noise_std": restoration.estimate_sigma(grey),
        "underexposed": (grey < 0.05).mean(),
        "overexposed": (grey > 0.95).mean(),
        "midtones": ((grey >= 0.25) & (grey <= 0.75)).mean(),
        "entropy": measure.shannon_entropy(levels),
        "laplacian_variance": ndimage.laplace(grey).var(),
        "tenengrad": (filters.sobel_h(grey) ** 2 + filters.sobel_v(grey) ** 2).mean(),
        "gradient": filters.sobel(grey).mean(),
        "saturation": color.rgb2hsv(photograph)[:, :, 1].mean(),
        "edge_density": feature.canny(grey).mean(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
    assert found["noise_ratio"] == pytest.approx(expected["noise_std"] / expected["std"], rel=1e-3)


def uniform_patterns(levels: NDArray[np.uint8]) -> dict[str, int]:
    """Pixels of each kind of pattern, one pixel after another: how many of the eight neighbours are at least as bright
    as it, where these follow one another around the circle; 'other' where they do not."""
    padded = np.pad(levels.astype(int), 1, mode="edge")
    circle = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
    counts: dict[str, int] = {}
    for row, column in np.ndindex(*levels.shape):
        bits = [padded[row + 1 + y, column + 1 + x] >= levels[row, column] for y, x in circle]
        changes = sum(bit != bits[place - 1] for place, bit in enumerate(bits))
        kind = str(sum(bits)) if changes <= 2 else "other"
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def energy_and_entropy(counts: dict[str, int]) -> tuple[float, float]:
    shares = np.array(list(counts.values())) / sum(counts.values())
    return float((shares**2).sum()), float(-(shares * np.log2(shares)).sum())


def test_local_binary_patterns_are_those_worked_out_pixel_by_pixel(photograph: Picture) -> None:
    part = photograph[100:180, 200:320]
    counts = uniform_patterns(to_bytes(color.rgb2gray(part)))
    assert len(counts) == 10
    found = measured(part)
    assert (found["lbp_energy"], found["lbp_entropy"]) == pytest.approx(energy_and_entropy(counts))


LBP_BY_HAND = {
    # Every neighbour is as bright as the pixel.
    "plain": (np.full((7, 9), 0.5), {"8": 63}),
    # Black pixels have all neighbours. White ones have the four at their corners, which do not follow one another.
    "checkerboard": (np.tile([[0.0, 1.0], [1.0, 0.0]], (3, 3)), {"8": 18, "other": 18}),
    # The bright pixel has none that is as bright; the others have all.
    "one bright pixel": (np.pad([[1.0]], 3), {"0": 1, "8": 48}),
    # The dark pixel has all; its neighbours miss one, and the rest have all.
    "one dark pixel": (np.pad([[0.0]], 3, constant_values=1), {"7": 8, "8": 41}),
    # Beside a brighter half all have all; the brighter pixels at the edge miss the three beside them.
    "two halves": (np.repeat([[0.2, 0.2, 0.8, 0.8]], 5, axis=0), {"8": 15, "5": 5}),
}


@pytest.mark.parametrize("name", LBP_BY_HAND)
def test_local_binary_patterns_of_pictures_by_hand(name: str) -> None:
    grey, counts = LBP_BY_HAND[name]
    found = measured(grey_picture(grey))
    assert (found["lbp_energy"], found["lbp_entropy"]) == pytest.approx(energy_and_entropy(counts), abs=1e-6)


def test_high_frequencies_are_those_of_the_whole_spectrum(photograph: Picture) -> None:
    grey = color.rgb2gray(photograph)[:101, :84].astype(np.float64)
    energy = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    distance = np.hypot(np.fft.fftfreq(101)[:, None], np.fft.fftfreq(84)[None])
    share = energy[distance > 0.25].sum() / energy.sum()
    assert measured(photograph[:101, :84])["high_frequency"] == pytest.approx(share, rel=1e-3)


def test_colourfulness_is_that_of_hasler_and_suesstrunk() -> None:
    # Left half red, right half blue: rg is 255 and 0, yb is 127.5 and -255.
    picture = np.zeros((10, 20, 3), np.float32)
    picture[:, :10, 0] = picture[:, 10:, 2] = 1
    spread = np.hypot(127.5, 191.25)
    distance = np.hypot(127.5, -63.75)
    assert measured(picture)["colourfulness"] == pytest.approx(spread + 0.3 * distance, rel=1e-5)
    assert measured(picture)["saturation"] == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (2, 2), (3, 1000)])
def test_pictures_of_any_shape_can_be_measured(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    values = statistics_of(random.random((*shape, 3), dtype=np.float32)).values
    assert np.isfinite(values).all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (31, 31), (30, 31)])
def test_the_median_is_that_of_numpy_to_the_bit(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(4)
    for spread in (0.001, 0.1, 1):
        picture = grey_picture(np.clip(0.5 + spread * random.standard_normal(shape), 0, 1))
        assert measured(picture)["median"] == np.median(color.rgb2gray(picture))


def test_the_histogram_counts_the_pixels_of_each_level_in_red_green_and_blue() -> None:
    picture = np.zeros((4, 5, 3), np.float32)
    picture[0, :, 0] = 1
    histogram = statistics_of(picture).histogram
    assert histogram.shape == (3, NUM_LEVELS)
    assert histogram[0, 255] == 5
    assert histogram[0, 0] == 15
    assert histogram[1:, 0].tolist() == [20, 20]
