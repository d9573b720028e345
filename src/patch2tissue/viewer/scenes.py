"""What there is to look at: slides and patches, each with the layers of tissue that there are of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from patch2tissue.data.layouts import image_files, image_folder, mask_files
from patch2tissue.errors import DataError
from patch2tissue.links import refuse_to_serve_links
from patch2tissue.plain_files import read_json
from patch2tissue.slides.opening import SLIDE_EXTENSIONS, find_slides
from patch2tissue.slides.slide import slide_name
from patch2tissue.viewer.runs import ViewedRun
from patch2tissue.viewer.slide_layers import MAP_FORMS

Group = Literal["slide", "training", "test", "picture"]
"""`training` and `test`: patches of a run; `picture`: images that belong to none."""

Kind = Literal["map", "pseudo_label", "network", "attention", "epoch_attention", "mask"]
"""`map`: what a prediction wrote; `mask`: drawn by hand; see `ViewedRun` for the others."""


@dataclass(frozen=True)
class LayerSource:
    """Where a layer comes from.

    Attributes:
        origin: name of the run or folder.
        kind: see `Kind`.
        path: the file, or the run folder.
    """

    origin: str
    kind: Kind
    path: Path


@dataclass
class Scene:
    """A slide or a patch.

    Attributes:
        name: as users know it; no other scene has it.
        path: its file.
        group: see `Group`.
        um_per_pixel: of its full size if a user or the tissue set told, else None.
        layers: those that files of results bring; see also `runs`.
        runs: runs that know this patch.
        mask: mask drawn by hand, None if there is none.
    """

    name: str
    path: Path
    group: Group = "slide"
    um_per_pixel: float | None = None
    layers: list[LayerSource] = field(default_factory=list)
    runs: list[ViewedRun] = field(default_factory=list)
    mask: Path | None = None

    def sources(self) -> list[LayerSource]:
        """All layers; what runs know is looked up now."""
        found = list(self.layers)
        for run in self.runs:
            label = run.pseudo_label(self.path) if self.group == "training" else None
            attended = self.group == "training" and run.has_attention(self.path)
            kinds: list[tuple[Kind, Path | None]] = [
                ("network", run.run.path if run.has_network else None),
                ("pseudo_label", label),
                ("attention", run.run.path if attended else None),
                ("epoch_attention", run.run.path if attended and run.has_epochs else None),
            ]
            found += [LayerSource(run.name, kind, path) for kind, path in kinds if path is not None]
        if self.mask is not None:
            found.append(LayerSource("data", "mask", self.mask))
        return found


@dataclass
class _Found:
    """Scenes by file, in the order in which they were named."""

    by_file: dict[Path, Scene] = field(default_factory=dict)

    def add(self, scene: Scene) -> Scene:
        """The scene of a file; what is new about it is added to what is known."""
        known = self.by_file.setdefault(scene.path.absolute(), scene)
        if known is not scene:
            known.layers += [layer for layer in scene.layers if layer not in known.layers]
            known.runs += [run for run in scene.runs if run not in known.runs]
            known.mask = known.mask or scene.mask
            known.um_per_pixel = known.um_per_pixel or scene.um_per_pixel
        return known


def find_scenes(
    inputs: Sequence[Path | str],
    maps: Sequence[Path] = (),
    mpp: float | None = None,
    runs: dict[Path, ViewedRun] | None = None,
    *,
    follow_links: bool = False,
) -> list[Scene]:
    """Slides and patches with their layers.

    Args:
        inputs: slides and pictures (files, folders, patterns, lists), folders that `slide predict` wrote, and runs.
        maps: further folders of results in which to look for maps of these slides and pictures.
        mpp: µm per pixel of the slides' full size, where they do not tell.
        runs: gets the runs among the inputs, by folder.
        follow_links: show what links bring into a folder from outside of it.

    Raises:
        DataError: if an input is nothing of that, there is nothing to look at, or a link leads out of a folder.
    """
    found = _Found()
    opened: dict[Path, ViewedRun] = {} if runs is None else runs
    others: list[Path | str] = []
    for item in inputs:
        path = Path(item)
        if (path / "config.yaml").is_file():
            opened.setdefault(path.resolve(), ViewedRun(path))
        elif path.is_dir() and any(path.glob("work/*/state.json")):
            for scene in _results(path, _origin(path)):
                found.add(scene)
        else:
            others.append(item)
    _name_runs(opened.values())
    for run in opened.values():
        for scene in _scenes_of(run):
            found.add(scene)
    for scene in _named(others, mpp):
        found.add(scene)
    scenes = list(found.by_file.values())
    if not follow_links:
        folders = [Path(item) for item in others if Path(item).is_dir()]
        for folder in (*folders, *(run.data for run in opened.values())):
            inside = [scene.path for scene in scenes if folder.absolute() in scene.path.absolute().parents]
            masks = [
                scene.mask for scene in scenes if scene.mask and folder.absolute() in scene.mask.absolute().parents
            ]
            refuse_to_serve_links([*inside, *masks], folder)
    for folder in maps:
        if not Path(folder).is_dir():
            raise DataError(f"{folder}: there is no such folder of maps.")
        for scene in scenes:
            path_of = _map_in(Path(folder), scene)
            if path_of is not None:
                found.add(Scene(scene.name, scene.path, layers=[LayerSource(_origin(Path(folder)), "map", path_of)]))
    if not scenes:
        raise DataError("There is nothing to look at. Name slides, a run, or a folder that `slide predict` wrote.")
    _give_names(scenes)
    return scenes


def _origin(folder: Path) -> str:
    """What a folder of results is called; that of a run has the run's name."""
    place = folder.resolve()
    return place.parent.name if place.name == "slides" and (place.parent / "config.yaml").is_file() else place.name


def _name_runs(runs: Iterable[ViewedRun]) -> None:
    """Tell runs of the same name apart by the folder they lie in."""
    places = {run: run.run.path.resolve() for run in runs}
    twice = {name for name, count in Counter(place.name for place in places.values()).items() if count > 1}
    for run, place in places.items():
        if place.name in twice:
            run.name = f"{place.parent.name}/{place.name}"


def _give_names(scenes: Sequence[Scene]) -> None:
    """Make names differ: a link holds them."""
    for form in ("{scene.group}: {scene.name}", "{scene.path}"):
        counts = Counter(scene.name for scene in scenes)
        for scene in scenes:
            if counts[scene.name] > 1:
                scene.name = form.format(scene=scene)


def _scenes_of(run: ViewedRun) -> list[Scene]:
    """The slides that a run predicted into its folder, and its patches."""
    slides = _results(run.run.path / "slides", run.name)
    try:
        groups = run.patches()
    except DataError:
        if slides:
            return slides  # the slides are what somebody else was sent, without the patches
        raise
    scale = run.tissues.um_per_pixel
    groups_of: tuple[Literal["training", "test"], ...] = ("training", "test")
    return slides + [
        Scene(patch.name, patch.path, group, scale, runs=[run], mask=patch.mask)
        for group in groups_of
        for patch in groups[group]
    ]


def _results(folder: Path, origin: str) -> list[Scene]:
    """The slides of a folder of results."""
    scenes = []
    for state in sorted(folder.glob("work/*/state.json")):
        try:
            result = read_json(state)["result"]
            scene = Scene(state.parent.name, Path(result["slide"]))
            found = _map_in(folder, scene)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a slide that is not done, or none
        if found is not None:
            scene.layers.append(LayerSource(origin, "map", found))
            scenes.append(scene)
    return scenes


def _named(inputs: Sequence[Path | str], mpp: float | None) -> list[Scene]:
    """Slides, and pictures of folders that hold no slides."""
    scenes = []
    for item in inputs:
        folder = Path(item)
        files = image_files(image_folder(folder)) if folder.is_dir() else []
        if files and not any(file.suffix.lower() in SLIDE_EXTENSIONS for file in files):
            masks = mask_files(folder)
            scenes += [Scene(file.stem, file, "picture", mpp, mask=masks.get(file.stem)) for file in files]
        else:
            scenes += [
                Scene(slide_name(one.path), one.path, "slide", one.um_per_pixel) for one in find_slides([item], mpp)
            ]
    return scenes


def _map_in(folder: Path, scene: Scene) -> Path | None:
    """A scene's map in a folder of results."""
    stem = scene.path.stem
    names = [*(f"{slide_name(scene.path)}{ending}" for ending in MAP_FORMS), f"{stem}_mask.png"]
    return next((folder / name for name in names if (folder / name).is_file()), None)
