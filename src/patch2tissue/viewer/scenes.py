"""What is looked at: slides, each with the maps that there are of it."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from patch2tissue.errors import DataError
from patch2tissue.slides.opening import find_slides, open_slide
from patch2tissue.slides.slide import slide_name
from patch2tissue.viewer.layers import MapLayer, SlideLayer

_OPEN = 8
_TILES = 2048


@dataclass
class Scene:
    """A slide and its maps.

    Attributes:
        name: of the slide.
        path: its file.
        um_per_pixel: of its full size if a user told, else None.
        maps: files of its tissue maps, one per folder of results, in the order these were named.
    """

    name: str
    path: Path
    um_per_pixel: float | None = None
    maps: list[Path] = field(default_factory=list)


def find_scenes(inputs: Sequence[Path | str], maps: Sequence[Path] = (), mpp: float | None = None) -> list[Scene]:
    """Slides and their maps.

    Args:
        inputs: slides (files, folders, patterns, lists), folders that `slide predict` wrote, and runs with `slides/`.
        maps: further folders of results in which to look for maps of these slides.
        mpp: µm per pixel of the slides' full size, where they do not tell.

    Raises:
        DataError: if an input is nothing of that, or there is no slide.
    """
    scenes: dict[str, Scene] = {}
    slides: list[Path | str] = []
    folders = list(map(Path, maps))
    for item in inputs:
        results = _results(Path(item))
        if results is None:
            slides.append(item)
        else:
            for scene in results:
                scenes.setdefault(scene.name, scene).maps.extend(
                    path for path in scene.maps if path not in scenes[scene.name].maps
                )
    for file in find_slides(slides, mpp) if slides else []:
        name = slide_name(file.path)
        scenes.setdefault(name, Scene(name, file.path, file.um_per_pixel))
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder of maps.")
        for scene in scenes.values():
            found = _map_in(folder, scene.name)
            if found is not None and found not in scene.maps:
                scene.maps.append(found)
    if not scenes:
        raise DataError("There is no slide to look at. Name slides, or a folder that `slide predict` wrote.")
    return list(scenes.values())


def _results(path: Path) -> list[Scene] | None:
    """The slides of a folder of results or a run; None if it is none."""
    folder = path / "slides" if (path / "config.yaml").is_file() else path
    states = sorted(folder.glob("work/*/state.json")) if folder.is_dir() else []
    if not states:
        if folder != path:
            raise DataError(
                f"{path}: is a run that has not predicted slides into {folder}. Predict some with `patch2tissue slide "
                "predict`, or name the folder of maps with --maps and the slides."
            )
        return None
    scenes = []
    for state in states:
        try:
            result = json.loads(state.read_text(encoding="utf-8"))["result"]
            slide = Path(result["slide"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a slide that is not done
        found = _map_in(folder, state.parent.name)
        if found is not None:
            scenes.append(Scene(state.parent.name, slide, maps=[found]))
    return scenes


def _map_in(folder: Path, name: str) -> Path | None:
    files = (folder / f"{name}_classes{ending}" for ending in (".tif", ".ome.tif"))
    return next((path for path in files if path.is_file()), None)


class Viewer:
    """The scenes of one call, with the files that are being looked at kept open. May be used by several threads.

    Args:
        scenes: what there is.
    """

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self.scenes = list(scenes)
        self._lock = threading.Lock()
        self._slides: OrderedDict[int, SlideLayer] = OrderedDict()
        self._maps: OrderedDict[Path, MapLayer] = OrderedDict()
        # tiles that were sent lately, some 20 kB each: several people look at the same places
        self.slide_tile = lru_cache(_TILES)(self._slide_tile)
        self.map_tile = lru_cache(_TILES)(self._map_tile)

    def _slide_tile(self, number: int, level: int, column: int, row: int) -> bytes:
        """See `SlideLayer.tile`."""
        return self.slide(number).tile(level, column, row)

    def _map_tile(self, number: int, index: int, level: int, column: int, row: int, shown: tuple[bool, ...]) -> bytes:
        """See `MapLayer.tile`."""
        return self.map(number, index).tile(level, column, row, shown)

    def describe(self, number: int) -> dict[str, Any]:
        """What the page needs to know of a scene.

        Raises:
            IndexError: if there is none.
            DataError: if its slide or a map cannot be read.
        """
        scene, slide = self._scene(number), self.slide(number).slide
        resolution = slide.resolution
        return {
            "name": scene.name,
            "width": slide.size[0],
            "height": slide.size[1],
            "um_per_pixel": None if resolution is None else [resolution.x, resolution.y],
            "maps": [self._describe_map(number, index) for index in range(len(scene.maps))],
        }

    def _describe_map(self, number: int, index: int) -> dict[str, Any]:
        layer, path = self.map(number, index), self._scene(number).maps[index]
        areas = _areas(path, self._scene(number).name)
        tissues = [
            {"name": name, "colour": list(colour), **areas.get(name, {})}
            for name, colour in zip(layer.names, layer.colours, strict=True)
        ]
        size = {"width": layer.size[0], "height": layer.size[1], "scale": list(layer.scale)}
        return {"from": path.resolve().parent.name, **size, "tissues": tissues}

    def slide(self, number: int) -> SlideLayer:
        """A scene's slide; see `describe` for errors."""
        scene = self._scene(number)
        with self._lock:
            if number not in self._slides:
                slide = open_slide(scene.path, scene.um_per_pixel, needs_resolution=False)
                self._slides[number] = SlideLayer(slide)
                if len(self._slides) > _OPEN:
                    # not closed: somebody may be reading it; it goes with its last reader
                    self._slides.popitem(last=False)
            self._slides.move_to_end(number)
            return self._slides[number]

    def map(self, number: int, index: int) -> MapLayer:
        """A map of a scene; see `describe` for errors."""
        maps = self._scene(number).maps
        if not 0 <= index < len(maps):
            raise IndexError(index)
        path = maps[index]
        with self._lock:
            if path not in self._maps:
                self._maps[path] = MapLayer(path)
                if len(self._maps) > 2 * _OPEN:
                    self._maps.popitem(last=False)
            self._maps.move_to_end(path)
            return self._maps[path]

    def _scene(self, number: int) -> Scene:
        if not 0 <= number < len(self.scenes):
            raise IndexError(number)
        return self.scenes[number]

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            for layer in self._slides.values():
                layer.slide.close()
            for map_layer in self._maps.values():
                map_layer.close()
            self._slides.clear()
            self._maps.clear()


def _areas(path: Path, name: str) -> dict[str, dict[str, float]]:
    """Areas that were written beside a map, by tissue; nothing where there are none."""
    try:
        plain = json.loads((path.parent / f"{name}_areas.json").read_text(encoding="utf-8"))["tissues"]
        return {of: {"area_mm2": float(one["area_mm2"]), "share": float(one["share"])} for of, one in plain.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
