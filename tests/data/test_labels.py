from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patch2tissue.data.labels import NAME_LAYOUTS, format_name, layout_of, parse_label, patient_of, slide_of
from patch2tissue.errors import DataError
from patch2tissue.tissues import BUILT_IN, Tissue, TissueSet, load_tissue_set


def _tissues(count: int) -> TissueSet:
    return TissueSet("some", tuple(Tissue(f"t{k}", f"T{k}", (k, 0, 0)) for k in range(count)))


PUBLISHED = [
    ("luad-histoseg", "1031280-2300-27920-[1 0 0 1]", (1, 0, 0, 1)),
    ("bcss-wsss", "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1101]", (1, 1, 0, 1)),
    ("wsss4luad", "436723-1234-5678-[1, 0, 1]", (1, 0, 1)),
]


@pytest.mark.parametrize(("layout", "stem", "labels"), PUBLISHED)
def test_published_names(layout: str, stem: str, labels: tuple[int, ...]) -> None:
    assert parse_label(stem, layout, BUILT_IN[layout]) == labels
    assert layout_of(stem) == layout


@given(
    base=st.text(min_size=1).filter(lambda text: "[" not in text),
    labels=st.lists(st.integers(0, 1), min_size=2, max_size=12),
    layout=st.sampled_from(NAME_LAYOUTS),
)
def test_a_formatted_name_parses_back(base: str, labels: list[int], layout: str) -> None:
    name = format_name(base, labels, layout)
    assert parse_label(name, layout, _tissues(len(labels))) == tuple(labels)
    assert layout_of(name) == layout
    for other in set(NAME_LAYOUTS) - {layout}:
        assert parse_label(name, other, _tissues(len(labels))) is None


@given(
    stem=st.one_of(
        st.text(),
        st.from_regex(r"[A-Z0-9_-]{0,9}\[[0-9, ]{0,9}\]\s?"),
        st.from_regex(r"(TCGA|SYN)?[-_0-9A-Z]{0,12}(_x[0-9]+_y[0-9]+)?"),
    ),
    layout=st.sampled_from(NAME_LAYOUTS),
    count=st.integers(2, 5),
)
def test_no_name_crashes(stem: str, layout: str, count: int) -> None:
    try:
        labels = parse_label(stem, layout, _tissues(count))
    except DataError as error:
        assert stem in str(error)
    else:
        assert labels is None or (len(labels) == count and set(labels) <= {0, 1})
    for told in (patient_of(stem), slide_of(stem)):
        assert told is None or (told and stem.startswith(told))


def test_wrong_labels_are_named_with_what_is_expected() -> None:
    with pytest.raises(
        DataError, match=r"a-\[1 0\]: its label has 2 digits, .* 3 tissues \(tumour epithelium, tumour-"
    ):
        parse_label("a-[1 0]", "luad-histoseg", load_tissue_set("wsss4luad"))
    with pytest.raises(DataError, match=r"a-\[1 2\]: its label holds a 2"):
        parse_label("a-[1 2]", "luad-histoseg", _tissues(2))
    with pytest.raises(DataError, match="Unknown layout 'csv2'"):
        parse_label("a", "csv2", _tissues(2))
    assert parse_label("a-[1 0]b", "luad-histoseg", _tissues(2)) is None
    assert parse_label("a[10]\n", "bcss-wsss", _tissues(2)) is None
    assert layout_of("scan[2023]") is None


@pytest.mark.parametrize(
    ("stem", "patient", "slide"),
    [
        ("1031280-2300-27920-[1 0 0 1]", "1031280", None),
        ("1031280-2300-27920", "1031280", None),
        ("436723-1234-5678-[1, 0, 1]", "436723", None),
        ("TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1101]", "TCGA-A1-A0SK", "TCGA-A1-A0SK-DX1"),
        ("TCGA-A1-A0SK-01Z-00-DX1.6A-B_x1_y2-[1 0]", "TCGA-A1-A0SK", "TCGA-A1-A0SK-01Z-00-DX1"),
        ("TCGA-A1-A0SK_x1_y2", "TCGA-A1-A0SK", "TCGA-A1-A0SK"),
        ("SYN-A1-0003-DX1_xmin1234_ymin567_MPP-0.5000+12[1101]", "SYN-A1-0003", "SYN-A1-0003-DX1"),
        ("train_1_x000112_y000056_mpp0.62-[1 1]", None, "train_1"),
        ("1031280-2300-27920_x000000_y000056-[1 1]", "1031280", "1031280-2300-27920"),
        ("train_1", None, None),
        ("2026-11-23-[1 0]", None, None),
        ("20261123-101-15-[1 0]", None, None),
        ("1031280-2300-27920-4", None, None),
        ("TCGA-A1-A0SKX", None, None),
        ("IMG_0001", None, None),
        ("", None, None),
    ],
)
def test_patient_and_slide(stem: str, patient: str | None, slide: str | None) -> None:
    assert (patient_of(stem), slide_of(stem)) == (patient, slide)
