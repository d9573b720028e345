"""What is seen first: key numbers, and one chart of all scores with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from patch2tissue.report.figures import ScoreRow, score_chart
from patch2tissue.report.names import PARTS
from patch2tissue.report.record import RunRecord, interval, mapping, number

_MAIN = {"pseudo_labels": "accumulated", "test": "full_method"}


@dataclass(frozen=True)
class Card:
    """One key number: `value` and its `unit` large, `title` above, `note` below, `tone` good, bad or nothing."""

    title: str
    value: str
    note: str
    unit: str = ""
    tone: str = ""


def _gain(record: RunRecord, title: str, part: str, key: str, other: str) -> Card | None:
    """How many points `key` is ahead of `other`; coloured only if each lies outside the other's interval."""
    value, base = record.score(part, key), record.score(part, other)
    if value is None or base is None:
        return None
    ends = [interval(mapping(record.scores[part][name])) for name in (key, other)]
    inside = any(
        low is not None and high is not None and low <= middle <= high
        for (low, high), middle in zip(ends, (base, value), strict=True)
    )
    difference = value - base
    text = f"{100 * difference:+.1f}".replace("-", "−")
    tone = "" if inside or abs(difference) < 0.0005 else "good" if difference > 0 else "bad"
    note = f"from {base:.3f}" + (", inside the 95% interval" if inside else "")
    return Card(title, text, note, "points", tone)


def cards(record: RunRecord) -> dict[str, list[Card]]:
    """The numbers that say whether the method worked, by group; those that were not measured are left out."""
    groups = {"Predictions on test": _test_cards(record), "Pseudo labels on train": _pseudo_label_cards(record)}
    return {title: group for title, group in groups.items() if group}


def _test_cards(record: RunRecord) -> list[Card]:
    full = record.score("test", "full_method")
    if full is None:
        return []
    low, high = interval(mapping(mapping(record.scores.get("test")).get("full_method")))
    note = "against masks" if low is None or high is None else f"95% interval {low:.3f} to {high:.3f}"
    found = [Card("Full method", f"{full:.3f}", note, "MIoU")]
    ceiling = record.score("test", "full_supervision")
    if ceiling:
        note = f"trained on masks, it reaches {ceiling:.3f}"
        found.append(Card("Share of full supervision", f"{100 * full / ceiling:.1f}", note, "%"))
    gains = (
        _gain(record, "Gain over cross-entropy only", "test", "full_method", "cross_entropy_only"),
        _gain(record, "Gain over the CAM pipeline", "test", "full_method", "cam_pipeline"),
    )
    return found + [card for card in gains if card is not None]


def _pseudo_label_cards(record: RunRecord) -> list[Card]:
    accumulated = record.score("pseudo_labels", "accumulated")
    if accumulated is None:
        return []
    found = [Card("Accumulated attention", f"{accumulated:.3f}", "before refinement", "MIoU")]
    final = record.score("pseudo_labels", "refined")
    if final is not None:
        found.append(Card("Final pseudo labels", f"{final:.3f}", "what stage 2 learned from", "MIoU"))
    gains = (
        _gain(record, "Accumulated over last epoch", "pseudo_labels", "accumulated", "last_epoch"),
        _gain(record, "Accumulated over plain CAM", "pseudo_labels", "accumulated", "cam"),
    )
    return found + [card for card in gains if card is not None]


def interval_note(record: RunRecord) -> str:
    """What the intervals are drawn over, for example 'over 40 patients (train)'; empty if unknown."""
    found = []
    for part, key, split in (("pseudo_labels", "accumulated", "train"), ("test", "full_method", "test")):
        entry = mapping(mapping(record.detail.get(part)).get(key))
        groups, kind = number(entry.get("groups")), entry.get("grouped_by")
        if groups and isinstance(kind, str):
            found.append(f"{groups:.0f} {kind}{'s' if groups != 1 else ''} ({split})")
    return "over " + " and ".join(found) if found else ""


def overview_chart(record: RunRecord) -> Markup | None:
    """Chart of all MIoU values; None if there are none."""
    groups = {}
    for part, title, names, _ in PARTS:
        rows = []
        for key, label in names.items():
            value = record.score(part, key)
            if value is not None:
                low, high = interval(record.scores[part][key])
                rows.append(ScoreRow(key, label, value, low, high, key == _MAIN[part]))
        if rows:
            groups[title] = rows
    return score_chart(groups) if groups else None
