"""The one judgement of whether training helped: plain, sure of what it says, and never praise of what pixels beat."""

import numpy as np
import pytest
from scipy import stats

from fext.model.detection import auroc_above, curves
from fext.model.intervals import Interval, paired_share_interval
from fext.model.verdict import NO_REFERENCES, Verdict, Yardstick, judge, share

TOLD = share("{} % of test images told rightly")
SCORE = Interval(0.812, 0.78, 0.84)
ABOVE, BELOW, UNSURE = Interval(0.061, 0.032, 0.09), Interval(-0.12, -0.16, -0.08), Interval(0.01, -0.02, 0.04)
EQUAL, FEW = Interval(0.0, 0.0, 0.0), Interval(0.1, None, None)
HELPED = (
    "Training helped: 81.2 % of test images told rightly, 6.1 points (3.2 to 9.0) more than before training."
)  # fmt: skip


def of(**above: Interval) -> Verdict:
    return judge(TOLD, SCORE, above)


def test_what_is_better_than_all_references_is_said_to_have_helped_and_by_how_much() -> None:
    verdict = of(untrained=ABOVE, linear_map=Interval(0.2, 0.1, 0.3), pixels=Interval(0.1, 0.07, 0.13))
    assert (verdict.outcome, verdict.best_reference) == ("helped", "untrained")
    assert verdict.sentences == [HELPED, "Pixels and a linear map are behind by 10.0 points (7.0 to 13.0) or more."]
    assert verdict.above("untrained") == "+6.1 points (+3.2 to +9.0)"
    assert verdict.above("model") == ""


@pytest.mark.parametrize(
    ("untrained", "training"),
    [
        (ABOVE, "Training did not help enough: 81.2 % of test images told rightly, 6.1 points (3.2 to 9.0) more than"),
        (BELOW, "Training did not help: 81.2 % of test images told rightly, 12.0 points (8.0 to 16.0) less than"),
        (UNSURE, "Whether training helped cannot be told: 81.2 % of"),
    ],
)
def test_what_pixels_beat_is_never_praised(untrained: Interval, training: str) -> None:
    verdict = of(untrained=untrained, linear_map=ABOVE, pixels=BELOW)
    assert verdict.outcome == "did_not_help"
    first, second = verdict.sentences
    assert first == (
        "Pixels are better than this model by 12.0 points (8.0 to 16.0): its features are not worth using for this."
    )
    assert second.startswith(training)
    assert "Training helped" not in " ".join(verdict.sentences)


def test_pixels_or_a_linear_map_that_do_as_well_are_enough_to_leave_the_features() -> None:
    assert of(untrained=ABOVE, pixels=EQUAL).outcome == "did_not_help"
    assert of(untrained=ABOVE, pixels=EQUAL).sentences[0].startswith("Pixels do as well as this model: its")
    assert of(untrained=ABOVE, linear_map=BELOW).sentences[0].startswith("A linear map is better than this model by")


def test_where_the_untrained_model_is_best_training_did_not_help() -> None:
    verdict = of(untrained=BELOW, pixels=ABOVE)
    assert (verdict.outcome, verdict.best_reference) == ("did_not_help", "untrained")
    assert verdict.sentences[0].endswith("12.0 points (8.0 to 16.0) less than before training.")
    assert of(untrained=EQUAL).sentences == [
        "Training did not help: 81.2 % of test images told rightly, as much as before training."
    ]


def test_an_interval_with_zero_in_it_says_that_nothing_can_be_told() -> None:
    verdict = of(untrained=UNSURE)
    assert verdict.outcome == "cannot_be_told"
    assert verdict.sentences == [
        "Whether training helped cannot be told: 81.2 % of test images told rightly, +1.0 points (-2.0 to +4.0) "
        "compared with before training."
    ]
    assert of(untrained=FEW).outcome == "cannot_be_told"
    assert "too few images to compare it with before training" in of(untrained=FEW).sentences[0]
    unsure_of_pixels = of(untrained=ABOVE, linear_map=ABOVE, pixels=UNSURE)
    assert unsure_of_pixels.sentences == [
        HELPED,
        "Whether it is better than pixels [+1.0 points (-2.0 to +4.0)] cannot be told.",
    ]


def test_without_references_it_is_said_how_to_ask_for_them() -> None:
    verdict = of()
    assert (verdict.outcome, verdict.best_reference, verdict.sentences) == ("cannot_be_told", None, [NO_REFERENCES])


def test_a_verdict_can_be_written_down() -> None:
    written = of(untrained=ABOVE).to_dict()
    assert written["model_minus"] == {"untrained": {"mean": 0.061, "low": 0.032, "high": 0.09}}
    assert written["score"]["mean"] == 0.812
    decibels = judge(Yardstick("{} dB", "dB", 2), Interval(30.0, None, None), {"linear_map": Interval(1.0, 0.9, 1.1)})
    assert decibels.sentences[0] == "Training helped: 30.00 dB, 1.00 dB (0.90 to 1.10) more than a linear map."


# ---------------------------------------------------------------- intervals of paired differences


def told(both: int, one: int, other: int, none: int) -> tuple[np.ndarray, np.ndarray]:
    """What each of two ways has right."""
    counts = [both, one, other, none]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_a_paired_difference_of_shares_goes_by_the_images_told_differently() -> None:
    narrow = paired_share_interval(*told(60, 12, 2, 26))
    wide = paired_share_interval(*told(36, 36, 26, 2))
    assert narrow.mean == wide.mean == pytest.approx(0.1)
    assert narrow.excludes_zero
    assert not wide.excludes_zero
    # Bonett and Price: (13 - 3) / 102 plus and minus 1.96 deviations.
    deviation = ((13 + 3) / 102 - (10 / 102) ** 2) / 102
    assert narrow.low == pytest.approx(10 / 102 - stats.norm.ppf(0.975) * deviation**0.5)


def test_few_images_that_are_told_alike_prove_nothing() -> None:
    same = paired_share_interval(*told(6, 0, 0, 0))
    assert same.mean == 0
    assert same.low is not None
    assert same.low < -0.2


def test_copies_of_images_add_no_certainty() -> None:
    model, other = told(30, 9, 1, 10)
    copied = paired_share_interval(np.repeat(model, 4), np.repeat(other, 4), np.repeat(np.arange(50), 4))
    alone, blind = paired_share_interval(model, other), paired_share_interval(np.repeat(model, 4), np.repeat(other, 4))
    assert all(one.low is not None for one in (copied, alone, blind))
    assert copied.low <= alone.low < blind.low  # type: ignore[operator]
    assert paired_share_interval(model, other, np.zeros(50, np.int64)) == Interval(pytest.approx(0.16), None, None)


def test_the_difference_of_two_areas_is_that_of_the_curves_and_its_interval_covers_it() -> None:
    random = np.random.default_rng(0)
    is_anomalous = np.arange(80) < 30
    hits = 0
    for _ in range(100):
        base = random.normal(size=80)
        scores, others = (base + random.normal(size=80) + shift * is_anomalous for shift in (1.5, 1.5))
        found = auroc_above(scores, others, is_anomalous, None)
        one, other = (curves(values, is_anomalous) for values in (scores, others))
        assert one is not None
        assert other is not None
        assert found.mean == pytest.approx(one.auroc - other.auroc)
        hits += not found.excludes_zero
    assert hits >= 89
