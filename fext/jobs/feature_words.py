"""What training did to the features of a model, in words for a person; no label is needed to tell."""

from collections.abc import Mapping

from fext.model.plans import has_linear_path
from fext.settings import Settings

_BEYOND_CHANCE = 2.0  # standard errors


def in_words(before: Mapping[str, float], after: Mapping[str, float], images: str) -> str:
    """One line on the features of the kept weights, compared with those before training where these are known.

    `images` says what was scored, such as '80 validation images'.
    """
    if "recognized" not in after:  # an epoch of earlier FeXT
        return "not measured"
    shares, ranks = f"{after['recognized']:.0%}", f"{after['effective_rank']:.1f}"
    if before:
        shares += f" (before training {before['recognized']:.0%})"
        ranks += f" (before {before['effective_rank']:.1f})"
    return f"of {images} {shares} are known again from another view; effective rank {ranks}"


def fall_of_features(
    before: Mapping[str, float], after: Mapping[str, float], num_images: int, settings: Settings
) -> list[str]:
    """A line where fewer images are known again than before training, by more than chance would have it."""
    if not before or "recognized" not in after:
        return []
    was, now = before["recognized"], after["recognized"]
    error = ((was * (1 - was) + now * (1 - now)) / num_images) ** 0.5
    if was - now <= _BEYOND_CHANCE * error:
        return []
    has_path = has_linear_path(settings.architecture, settings.linear_shortcut)
    remedy = "more epochs" if has_path else "a higher views_weight or more epochs"
    return [
        f"training made the features worse: {now:.0%} of the images that the epoch is chosen by are known again from "
        f"another view, {was:.0%} before training; {remedy} may help"
    ]
