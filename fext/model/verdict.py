"""Whether training helped, in plain words: a model beside the encoders that it should be better than.

The one place where differences become a judgement, so that every table and page judges alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fext.model.intervals import Interval

Outcome = Literal["helped", "did_not_help", "cannot_be_told"]

UNTRAINED = "untrained"
NO_REFERENCES = (
    "Nothing says yet whether these features are worth it: pixels may do as well. Ask with --references, which puts "
    "the model before training, a linear map and pixels beside it."
)
_NAMES = {UNTRAINED: "the model before training", "linear_map": "a linear map", "pixels": "pixels"}
_AGAINST = {UNTRAINED: "before training", "linear_map": "a linear map", "pixels": "pixels"}


@dataclass(frozen=True)
class Yardstick:
    """What is measured, more of which is better: words around its value, the unit of differences, and how many of that
    make one of the value."""

    words: str
    unit: str = ""
    digits: int = 3
    scale: float = 1.0
    helps: str = ""  # what training is for, where it is for several things
    use: str = "this"  # what the features would be used for

    @property
    def nothing(self) -> float:
        """A difference that is shown as zero."""
        return 0.5 / float(10**self.digits) / self.scale

    def value(self, score: float) -> str:
        """As in '81.2 % of test images told rightly'."""
        return self.words.format(f"{score * self.scale:.{self.digits}f}")

    def difference(self, interval: Interval, *, signed: bool = False) -> str:
        """As in '6.1 points (3.2 to 9.0)'."""
        ends = (None if end is None else end * self.scale for end in (interval.low, interval.high))
        return Interval(interval.mean * self.scale, *ends).text(self.unit, digits=self.digits, signed=signed)


def share(words: str, helps: str = "", use: str = "this") -> Yardstick:
    """A yardstick of shares in [0, 1]."""
    return Yardstick(words, "points", digits=1, scale=100, helps=helps, use=use)


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a model, and why: its score, and by how much it is above each reference.

    'helped' is better than before training, and not surely worse than or equal to any reference; 'did_not_help' is
    surely no better than one of them; else it 'cannot_be_told'. `best_reference` is None where there is none.
    """

    yardstick: Yardstick
    outcome: Outcome
    best_reference: str | None
    sentences: Sequence[str]
    score: Interval
    model_minus: Mapping[str, Interval]

    def above(self, reference: str) -> str:
        """By how much the model is above a reference, as in '+6.1 points (+3.2 to +9.0)'; '' where it is unknown."""
        difference = self.model_minus.get(reference)
        return "" if difference is None else self.yardstick.difference(difference, signed=True)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "outcome": self.outcome,
            "best_reference": self.best_reference,
            "sentences": list(self.sentences),
            "score": self.score._asdict(),
            "model_minus": {name: one._asdict() for name, one in self.model_minus.items()},
        }


def judge(yardstick: Yardstick, score: Interval, model_minus: Mapping[str, Interval]) -> Verdict:
    """The verdict on a model by its score and the paired differences to references, `untrained` or else the first of
    which says what training began with."""
    if not model_minus:
        return Verdict(yardstick, "cannot_be_told", None, [NO_REFERENCES], score, {})
    before = UNTRAINED if UNTRAINED in model_minus else next(iter(model_minus))
    others = {name: one for name, one in model_minus.items() if name != before}
    best = min(model_minus, key=lambda name: model_minus[name].mean)
    ahead = {name: one for name, one in others.items() if _is_no_better(one, yardstick)}
    outcome = _outcome(model_minus[before], yardstick)
    sentences = [_about_training(yardstick, score, before, model_minus[before], outcome, is_enough=not ahead)]
    if ahead:
        outcome = "did_not_help"
        sentences = [_about_what_is_ahead(yardstick, ahead), *sentences]
    elif others:
        sentences += _about_others(yardstick, others)
    return Verdict(yardstick, outcome, best, sentences, score, model_minus)


def _is_no_better(difference: Interval, yardstick: Yardstick) -> bool:
    return _is_equal(difference, yardstick) or (difference.high is not None and difference.high < 0)


def _is_equal(difference: Interval, yardstick: Yardstick) -> bool:
    low, high = difference.low, difference.high
    return low is not None and high is not None and max(-low, high) <= yardstick.nothing


def _outcome(difference: Interval, yardstick: Yardstick) -> Outcome:
    if _is_no_better(difference, yardstick):
        return "did_not_help"
    return "helped" if difference.low is not None and difference.low > 0 else "cannot_be_told"


def _about_training(
    yardstick: Yardstick, score: Interval, before: str, difference: Interval, outcome: Outcome, *, is_enough: bool
) -> str:
    value, against = yardstick.value(score.mean), _AGAINST[before]
    if outcome == "helped":
        helped = f"helped{yardstick.helps}" if is_enough else f"did not help{yardstick.helps} enough"
        return f"Training {helped}: {value}, {yardstick.difference(difference)} more than {against}."
    if outcome == "did_not_help":
        less = f"{yardstick.difference(difference.negated())} less than {against}"
        is_equal = _is_equal(difference, yardstick)
        return f"Training did not help{yardstick.helps}: {value}, {f'as much as {against}' if is_equal else less}."
    unsure = f"Whether training helped{yardstick.helps} cannot be told: {value}"
    if difference.low is None:
        return f"{unsure}, and there are too few images to compare it with {against}."
    return f"{unsure}, {yardstick.difference(difference, signed=True)} compared with {against}."


def _about_what_is_ahead(yardstick: Yardstick, ahead: Mapping[str, Interval]) -> str:
    name = min(ahead, key=lambda name: ahead[name].mean)
    are = "do" if name == "pixels" else "does"
    if _is_equal(ahead[name], yardstick):
        well = f"{_NAMES[name]} {are} as well as this model"
    else:
        are = "are" if name == "pixels" else "is"
        well = f"{_NAMES[name]} {are} better than this model by {yardstick.difference(ahead[name].negated())}"
    return f"{_capital(well)}: its features are not worth using for {yardstick.use}."


def _about_others(yardstick: Yardstick, others: Mapping[str, Interval]) -> list[str]:
    """Of references other than that before training, none of which is surely ahead or equal."""
    unsure = {name: one for name, one in others.items() if _outcome(one, yardstick) == "cannot_be_told"}
    if unsure:
        which = " or ".join(_compared(yardstick, name, one) for name, one in unsure.items())
        return [f"Whether it is better than {which} cannot be told."]
    nearest = min(others, key=lambda name: others[name].mean)
    names = [nearest, *(name for name in others if name != nearest)]
    are = "is" if names == ["linear_map"] else "are"
    more = " or more" if len(names) > 1 else ""
    whole = f"{' and '.join(_NAMES[name] for name in names)} {are} behind by {yardstick.difference(others[nearest])}"
    return [f"{_capital(whole)}{more}."]


def _compared(yardstick: Yardstick, name: str, difference: Interval) -> str:
    return f"{_NAMES[name]} [{yardstick.difference(difference, signed=True)}]"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
