"""What training did to the features of a model, in words for a person; no label is needed to tell."""

from collections.abc import Mapping

_BEYOND_CHANCE = 2.0  # standard errors


def in_words(before: Mapping[str, float], after: Mapping[str, float], num_images: int) -> str:
    """One line on the features of the kept weights, beside those that training began with where these are known."""
    if "recognized" not in after:  # an epoch of earlier FeXT
        return "not measured"
    shares, ranks = f"{after['recognized']:.0%}", f"{after['effective_rank']:.1f}"
    if before:
        shares += f" (before training {before['recognized']:.0%})"
        ranks += f" (before {before['effective_rank']:.1f})"
    return f"of {num_images} validation images {shares} are known again from another view; effective rank {ranks}"


def fall_of_features(before: Mapping[str, float], after: Mapping[str, float], num_images: int) -> list[str]:
    """A line where fewer images are known again than before training, by more than chance would have it."""
    if not before or "recognized" not in after:
        return []
    was, now = before["recognized"], after["recognized"]
    error = ((was * (1 - was) + now * (1 - now)) / num_images) ** 0.5
    if was - now <= _BEYOND_CHANCE * error:
        return []
    return [
        f"training made the features worse: {now:.0%} of the validation images are known again from another view, "
        f"{was:.0%} before training; more views_weight or more epochs may help, or a model with a linear shortcut"
    ]
