"""The page of a picture and the images that are nearest to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fext.pictures.page import Html, Item, Section, gallery, page, paragraph

_MEANING = {
    "cosine": "The similarity is the cosine of the angle between the features of two images: 1 is the same direction, "
    "0 has nothing in common.",
    "euclidean": "The distance is that between the features of two images: 0 is the same.",
}


@dataclass(frozen=True)
class SimilarImages:
    """All that the page tells; the first of the items is the picture that was searched for, the others its nearest.

    `compared` says in words what is compared; `recall` is the share of the ten nearest that an approximate search
    finds, None where each image was compared.
    """

    query: str
    extraction: str
    items: Sequence[Item]
    num_found: int
    num_images: int
    metric: str
    compared: str
    recall: float | None


def similar_page(told: SimilarImages) -> Iterator[Html]:
    """The page in pieces, as page.page gives them."""
    num_shown = len(told.items) - 1
    more = f" {num_shown:,} are shown; nearest.csv names all." if num_shown < told.num_found else ""
    introduction = (
        f"The {told.num_found:,} images nearest to {told.query} among the {told.num_images:,} of the extraction "
        f"{told.extraction}. {_MEANING[told.metric]} Compared are {told.compared}.{more}"
    )
    sections = [
        Section("Searched for", "", gallery(told.items[:1])),
        Section("The nearest", "", paragraph(told_of_recall(told.recall)), gallery(told.items[1:])),
    ]
    return page(f"Images like {told.query}", introduction, sections)


def told_of_recall(recall: float | None) -> str:
    """What is to be said of a search; nothing of an exact one."""
    if recall is None:
        return ""
    return (
        f"The search is approximate, for there are many images: it found {recall:.1%} of the ten nearest of some of "
        f"the extraction's own images when its index was made."
    )
