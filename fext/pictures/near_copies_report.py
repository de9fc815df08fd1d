"""The page of the near copies among the images of an extraction."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fext.pictures.page import Html, Item, Section, columns, facts, gallery, group, page, paragraph
from fext.pictures.similar_report import told_of_recall

NUM_GROUPS, NUM_IN_GROUP = 100, 24


@dataclass(frozen=True)
class CopyGroups:
    """All that the page tells: how many copies of each kind there are beside the firsts, and the items of the first
    groups. num_copied is how many images were copied to find the threshold; None where it was chosen."""

    extraction: str
    features: str
    num_images: int
    num_groups: int
    counts: Mapping[str, int]
    groups: Sequence[Sequence[Item]]
    threshold: float
    num_copied: int | None
    recall: float | None


def near_copies_page(told: CopyGroups) -> Iterator[Html]:
    """The page in pieces, as page.page gives them."""
    introduction = (
        f"Images of the extraction {told.extraction} that are copies of one another, by their features. The first of "
        f"each group is the one that most others are near to, or the largest file; nothing was deleted."
    )
    counted = [("images", told.num_images), ("groups", told.num_groups)]
    counted += [(f"{kind} copies", told.counts[kind]) for kind in ("exact", "near")]
    counted += [("gone by now", told.counts["gone"])] if told.counts["gone"] else []
    sections = [Section("In short", _how(told), paragraph(told_of_recall(told.recall)), facts(counted)), _groups(told)]
    return page(f"Near copies in {told.extraction}", introduction, sections)


def _how(told: CopyGroups) -> str:
    if told.num_copied is None:
        compared = f"{told.features}, as they are,"
        return f"Two images are near copies from a cosine similarity of their {compared} of {told.threshold:g} on."
    return (
        f"What a copy changes in the {told.features} was learned from copies of {told.num_copied:,} of the images "
        f"(re-encoded, of half the size, brighter, without borders), and each latent channel counts by what it tells "
        f"of that. Two images are near copies from a similarity of {told.threshold:.4f} on, which 98 of 100 of those "
        f"copies reach, where their pictures, brought to 32×32 pixels and aligned, go together too."
    )


def _groups(told: CopyGroups) -> Section:
    if not told.groups:
        return Section("Groups", "None: no two images are copies of one another.")
    shown = columns(group(f"Group {number}", gallery(items)) for number, items in enumerate(told.groups, start=1))
    num_shown = len(told.groups)
    note = f"{num_shown:,} of {told.num_groups:,} groups are shown; duplicates.csv names all."
    text = "Exact copies have the bytes of the first of their group; of near ones stands the similarity to it."
    return Section("Groups", text, shown, paragraph(note if num_shown < told.num_groups else ""))
