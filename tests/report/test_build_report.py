from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from fabricated_run import fabricate_run

from patch2tissue.errors import DataError
from patch2tissue.report.build import build_report
from patch2tissue.run_folder import RunFolder

SECTIONS = ("scores", "data", "accumulation", "pseudo-labels", "predictions", "details", "training", "made")
VOID = {"meta", "img", "br", "link", "input", "hr", "path", "use", "rect", "circle", "line"}


class Page(HTMLParser):
    """What a browser sees: tags with attributes, text outside style, and whether tags are nested properly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.tags if "id" in attributes]


def read(run: RunFolder) -> Page:
    return Page(build_report(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fabricate_run(tmp_path_factory.mktemp("report"), train=8, test=8, side=48, epochs=6)


@pytest.fixture(scope="module")
def page(run: RunFolder) -> Page:
    return read(run)


def test_every_section_is_there_and_nothing_is_absent(page: Page) -> None:
    assert set(SECTIONS) <= set(page.ids())
    assert [a for _, a in page.tags if a.get("class") == "absent"] == []
    assert page.open == []


def test_navigation_leads_to_sections(page: Page) -> None:
    targets = {a["href"][1:] for a in page.all("a") if (a["href"] or "").startswith("#")}
    assert targets == set(SECTIONS)


def test_ids_are_unique(page: Page) -> None:
    ids = page.ids()
    assert len(ids) == len(set(ids))
    referred = re.findall(r"url\(#([^)]+)\)", " ".join(str(a) for _, a in page.tags))
    assert set(referred) <= set(ids)


def test_nothing_is_loaded_from_elsewhere(run: RunFolder, page: Page) -> None:
    text = run.report_file.read_text(encoding="utf-8")
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#", "https://doi.org/")), value
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.all("meta"))


def test_pictures_have_alt_texts_and_charts_have_labels(page: Page) -> None:
    images = page.all("img")
    assert len(images) > 60
    assert all(image["alt"] and image["width"] and image["height"] for image in images)
    charts = page.all("svg")
    assert len(charts) >= 8
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)


def test_headings_do_not_skip_a_level(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_scores_are_shown_as_they_are_in_the_file(run: RunFolder, page: Page) -> None:
    scores = json.loads(run.scores_file.read_text())
    full = scores["test"]["full_method"]["miou"]
    ceiling = scores["test"]["full_supervision"]["miou"]
    for part in ("pseudo_labels", "test"):
        for entry in scores[part].values():
            assert f"{entry['miou']:.3f}" in page.text
            assert all(f"{value:.3f}" in page.text for value in entry["iou"].values())
    assert f"{100 * full / ceiling:.1f}" in page.text


def test_supervision_is_named(page: Page) -> None:
    assert "Supervision: image-level labels." in page.text
    assert "Synthetic tissue" in page.text


def test_worst_image_is_shown_and_marked(run: RunFolder, page: Page) -> None:
    rows = json.loads((run.path / "scores_detail.json").read_text())["test"]["full_method"]["per_image"]
    worst = min(rows, key=lambda row: row["miou"])
    assert any((image["alt"] or "").startswith(f"{worst['name']}, wrong pixels") for image in page.all("img"))


def test_colours_follow_dark_and_light(run: RunFolder) -> None:
    text = run.report_file.read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert "#0a0b" not in text  # every stand-in colour of a chart became a CSS variable
    assert "var(--s1)" in text


def test_file_is_small(run: RunFolder) -> None:
    assert run.report_file.stat().st_size < 4_000_000


def test_same_run_gives_the_same_page(run: RunFolder) -> None:
    def without_date() -> str:
        return re.sub(r"Written [^b]* by", "", build_report(run).read_text(encoding="utf-8"))

    assert without_date() == without_date()


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("scores.json", "No scores: this run was not compared with masks"),
        ("craanet/attention_history.npz", "the run kept no attention history"),
        ("pseudo_labels", "No pseudo labels to show"),
        ("predictions", "the test images were not predicted yet"),
        ("environment.json", "no environment.json"),
        ("../data", "The training patches cannot be read now"),
        ("../data/test", "there is no test split"),
        ("../data/test/mask", "The test images have no masks"),
        ("../data/train/mask", "The training patches have no masks"),
    ],
)
def test_missing_parts_are_named(run: RunFolder, tmp_path: Path, gone: str, sentence: str) -> None:
    copy = _copy(run, tmp_path)
    target = copy.path / gone
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = read(copy)
    assert sentence in re.sub(r"\s+", " ", page.text)
    assert set(SECTIONS) <= set(page.ids()) and page.open == []


def test_a_run_that_has_just_begun(run: RunFolder, tmp_path: Path) -> None:
    begun = RunFolder(tmp_path / "begun")
    begun.path.mkdir()
    shutil.copy(run.config_file, begun.config_file)
    page = read(begun)
    assert "No curves" in page.text and "No scores" in page.text and "No pseudo labels" in page.text


def test_one_method_without_comparisons(tmp_path: Path) -> None:
    page = read(fabricate_run(tmp_path, train=5, test=3, side=48, epochs=3, comparisons=False))
    assert "Share of full supervision" not in page.text and "Gain over" not in page.text
    assert "Accumulated over last epoch" in page.text


def test_two_tissues_with_background(tmp_path: Path) -> None:
    page = read(fabricate_run(tmp_path, train=4, test=2, side=40, epochs=2, tissues="wsss4luad"))
    assert "tumour-associated stroma" in page.text and "whiter than 215" in page.text


def test_extra_supervision_is_said_loudly(run: RunFolder, tmp_path: Path) -> None:
    copy = _copy(run, tmp_path)
    config = yaml.safe_load(copy.config_file.read_text()) | {"selection": "validation_masks"}
    copy.config_file.write_text(yaml.safe_dump(config))
    text = re.sub(r"\s+", " ", read(copy).text)
    assert "supervision beyond image-level labels" in text
    assert "no mask had a say" not in text and "nothing else: nobody outlined" not in text


def test_scores_on_the_images_that_chose_the_epoch_are_called_too_high(run: RunFolder, tmp_path: Path) -> None:
    copy = _copy(run, tmp_path)
    config = yaml.safe_load(copy.config_file.read_text()) | {"selection": "validation_masks"}
    copy.config_file.write_text(yaml.safe_dump(config))
    data = Path(config["data"]["path"])
    assert "they are too high" not in read(copy).text
    (data / "test").rename(data / "val")
    page = read(copy)
    assert "they are too high" in page.text and f"{data.as_posix()}/val" in page.text
    assert any("wrong pixels marked" in (image["alt"] or "") for image in page.all("img"))


HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}$x$"


def test_hostile_names_stay_text(run: RunFolder, tmp_path: Path) -> None:
    copy = _copy(run, tmp_path)
    config = yaml.safe_load(copy.config_file.read_text())
    tissues = [{"name": HOSTILE, "abbreviation": "<b>", "color": [1, 2, 3]}]
    tissues += [{"name": f"</style>{k}", "abbreviation": f"</svg>{k}", "color": [k, 9, 9]} for k in range(3)]
    config["tissues"] = {"name": "<script>alert(2)</script>", "tissues": tissues}
    config["craanet"]["encoder"] = {"name": "</pre><script>alert(3)</script>"}
    copy.config_file.write_text(yaml.safe_dump(config))
    copy.environment_file.write_text(json.dumps({"command": ["<script>"], "<i>": HOSTILE}))
    curves = copy.craanet / "metrics.csv"
    curves.write_text(curves.read_text() + f'1,"{HOSTILE.replace(chr(34), "")}",0.5\n')
    for folder in (Path(config["data"]["path"]) / "train", Path(config["data"]["path"]) / "train" / "mask"):
        for number, file in enumerate(sorted(folder.glob("*.png"))):
            file.rename(folder / f"<b onclick=alert(4)>{number}&amp;-0+0[{'1100' if number % 2 else '0011'}].png")
    for file in sorted((copy.pseudo_labels / "masks").glob("*.png")):
        file.rename(file.with_name("<b onclick=alert(4)>0&amp;-0+0[0011].png"))
    page = read(copy)
    assert not page.all("script") and not page.all("b onclick=alert(4)")
    assert not any("onerror" in attributes or "onclick" in attributes for _, attributes in page.tags)
    assert HOSTILE in page.text and "49" not in re.findall(r"\{\{(.*?)\}\}", page.text)
    assert page.open == []


def test_damaged_files_are_named(run: RunFolder, tmp_path: Path) -> None:
    copy = _copy(run, tmp_path)
    (copy.craanet / "attention_history.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match=r"attention_history.npz: cannot be read"):
        build_report(copy)
    (copy.craanet / "attention_history.npz").unlink()
    copy.scores_file.write_text('{"test": ')
    with pytest.raises(DataError, match=r"scores.json: cannot be read"):
        build_report(copy)


def test_scores_without_a_value_are_dashes(run: RunFolder, tmp_path: Path) -> None:
    copy = _copy(run, tmp_path)
    scores = json.loads(copy.scores_file.read_text())
    for key in ("miou", "ci95", "dice"):
        scores["test"]["full_method"][key] = None
    scores["test"]["full_method"]["iou"]["necrosis"] = None
    scores["pseudo_labels"]["accumulated"]["ci95"] = [None, None]
    copy.scores_file.write_text(json.dumps(scores))
    assert "–" in read(copy).text


def test_confusion_with_pixels_of_no_tissue(run: RunFolder, tmp_path: Path) -> None:
    copy = _copy(run, tmp_path)
    detail = {
        "test": {"full_method": {"confusion": [[6, 2, 0, 0, 2], [0, 5, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 9, 0]]}}
    }
    (copy.path / "scores_detail.json").write_text(json.dumps(detail))
    page = read(copy)
    matrix = [a["style"] for a in page.all("td") if (a.get("style") or "").startswith("--v:")]
    assert matrix[:5] == ["--v:0.600", "--v:0.200", "--v:0.000", "--v:0.000", "--v:0.200"]


def test_areas_are_added_up(run: RunFolder, tmp_path: Path) -> None:
    copy = _copy(run, tmp_path)
    rows = ["image,tissue,pixels,share,area_um2,area_mm2"]
    rows += [f"{i}.png,{t},{p},0.1,1,{p / 1000}" for i in range(2) for t, p in (("tumour", 300), ("stroma", 100))]
    (copy.predictions() / "areas.csv").write_text("\n".join(rows))
    page = read(copy)
    assert "75.0%" in page.text and "25.0%" in page.text


def test_large_images_are_scaled_down(run: RunFolder) -> None:
    from patch2tissue.report.pictures import MAX_SIDE, photo

    picture = photo(np.zeros((900, 1800, 3), dtype=np.uint8), "large")
    assert (picture.width, picture.height) == (MAX_SIDE, MAX_SIDE // 2)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        build_report(RunFolder(tmp_path))


def _copy(run: RunFolder, folder: Path) -> RunFolder:
    """Copy of a fabricated run with its data, pointing at each other."""
    shutil.copytree(run.path.parent, folder / "copy")
    copy = RunFolder(folder / "copy" / "run")
    for curves in copy.path.rglob("metrics.csv"):
        if curves.parent != copy.craanet:  # drawing charts takes most of the time
            curves.unlink()
    config = yaml.safe_load(copy.config_file.read_text(encoding="utf-8"))
    config["data"]["path"] = str(folder / "copy" / "data")
    copy.config_file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return copy
