"""The scenes of one call, with the files that are being looked at kept open."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any, TypeVar

from patch2tissue.errors import DataError
from patch2tissue.labelling.corrections import Corrections
from patch2tissue.slides.opening import open_slide
from patch2tissue.tissues import TissueSet
from patch2tissue.viewer.layers import THUMBNAIL_LEVEL, Look, SlideLayer, TissueLayer, deepest_level
from patch2tissue.viewer.patch_layers import AttentionLayer, MaskLayer, NetworkLayer
from patch2tissue.viewer.scenes import LayerSource, Scene
from patch2tissue.viewer.slide_layers import MapLayer

logger = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

_OPEN = 8
_TILES = 2048


class Viewer:
    """What is looked at. May be used by several threads.

    Args:
        scenes: what there is.
        tissues: of masks that belong to no run; None if none was named.
        corrections: of the data folders into which places that are found wrong may go; the first that fits is taken.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        tissues: TissueSet | None = None,
        corrections: Sequence[Corrections] = (),
    ) -> None:
        self.scenes = list(scenes)
        self._tissues = tissues
        self._corrections = list(corrections)
        self._lock = threading.Lock()
        self._slides: OrderedDict[int, SlideLayer] = OrderedDict()
        self._layers: OrderedDict[tuple[int, LayerSource], TissueLayer] = OrderedDict()
        # tiles that were sent lately, some 20 kB each: several people look at the same places
        self.slide_tile = lru_cache(_TILES)(self._slide_tile)
        self.layer_tile = lru_cache(_TILES)(self._layer_tile)
        self._sources = lru_cache(_TILES)(self._sources_of)

    def _slide_tile(self, number: int, level: int, column: int, row: int) -> bytes:
        """See `SlideLayer.tile`."""
        return self.slide(number).tile(level, column, row)

    def _layer_tile(self, number: int, index: int, level: int, column: int, row: int, look: Look) -> bytes:
        """See `TissueLayer.tile`."""
        return self.layer(number, index).tile(level, column, row, look)

    def thumbnail(self, number: int) -> bytes:
        """A scene in one tile, as JPEG; see `describe` for errors."""
        return self.slide_tile(number, min(deepest_level(*self.slide(number).size), THUMBNAIL_LEVEL), 0, 0)

    def describe(self, number: int) -> dict[str, Any]:
        """What the page needs to know of a scene.

        Raises:
            IndexError: if there is none.
            DataError: if its slide or a layer cannot be read.
        """
        scene, slide = self.scene(number), self.slide(number).slide
        # looked up anew: a run may have gone on
        self._sources.cache_clear()
        try:
            wrong = self.wrong(number)
        except DataError as error:  # labels that cannot be read are no reason not to look
            logger.warning("nothing can be marked as wrong: %s", error)
            wrong = None
        resolution = slide.resolution
        return {
            "name": scene.name,
            "group": scene.group,
            "width": slide.size[0],
            "height": slide.size[1],
            "um_per_pixel": None if resolution is None else [resolution.x, resolution.y],
            "layers": [self._describe_layer(number, index) for index in range(len(self._sources(number)))],
            "wrong": wrong,
        }

    def _describe_layer(self, number: int, index: int) -> dict[str, Any]:
        layer, source = self.layer(number, index), self._sources(number)[index]
        return {
            "from": source.origin,
            "kind": source.kind,
            "width": layer.size[0],
            "height": layer.size[1],
            "scale": list(layer.scale),
            "epochs": layer.epochs,
            "heat": layer.has_heat,
            "tissues": [
                {"name": name, "colour": list(colour)} for name, colour in zip(layer.names, layer.colours, strict=True)
            ],
        }

    def shares(self, number: int, index: int, epoch: int | None) -> list[dict[str, float]]:
        """See `TissueLayer.shares`."""
        layer = self.layer(number, index)
        if epoch is not None and not 0 <= epoch < max(1, layer.epochs):
            raise IndexError(epoch)
        return layer.shares(epoch)

    # --- what is wrong ------------------------------------------------------------------------------------------------

    def wrong(self, number: int) -> dict[str, Any] | None:
        """Marks on a scene that nobody has answered yet, and where they are answered; None if none can be set there."""
        corrections, scene, slide = self._corrections_for(number), self.scene(number), self.slide(number).slide
        if corrections is None:
            return None
        found = (
            corrections.marks(slide) if scene.group == "slide" else corrections.marks_on_patch(scene.path, slide.size)
        )
        return {
            "folder": str(corrections.folder),
            "tissues": corrections.tissues.name,
            "marks": [asdict(mark) for mark in found],
        }

    def mark_wrong(self, number: int, x: float, y: float) -> dict[str, Any]:
        """Have the patch at a place of a scene, in its pixels, asked about again; returns it.

        Raises:
            DataError: if that cannot be; the message tells why.
        """
        corrections, scene, slide = self._corrections_for(number), self.scene(number), self.slide(number).slide
        if corrections is None:
            raise DataError(
                f"{scene.path}: belongs to no data folder that is labelled here. Name one with --label-into."
            )
        if scene.group == "slide":
            return asdict(corrections.flag_place(slide, x, y))
        return asdict(corrections.flag_patch(scene.path, slide.size, x, y))

    def take_back(self, number: int, patch: str) -> bool:
        """Take back a mark that nobody has answered; return whether there was one."""
        corrections = self._corrections_for(number)
        return corrections is not None and corrections.withdraw(patch)

    def _corrections_for(self, number: int) -> Corrections | None:
        scene = self.scene(number)
        if scene.group == "test":
            return None  # what is tested on is not trained on
        if scene.group == "slide":
            slide = self.slide(number).slide
            return next((one for one in self._corrections if one.knows(slide)), None)
        return next((one for one in self._corrections if one.holds(scene.path) is not None), None)

    # --- what is open -------------------------------------------------------------------------------------------------

    def slide(self, number: int) -> SlideLayer:
        """A scene's slide or picture; see `describe` for errors."""
        scene = self.scene(number)

        def opened() -> SlideLayer:
            return SlideLayer(open_slide(scene.path, scene.um_per_pixel, needs_resolution=False))

        # those that go are not closed: somebody may be reading them; they go with their last reader
        return self._kept(self._slides, number, opened, _OPEN)

    def layer(self, number: int, index: int) -> TissueLayer:
        """A layer of a scene; see `describe` for errors."""
        sources = self._sources(number)
        if not 0 <= index < len(sources):
            raise IndexError(index)
        source, scene = sources[index], self.scene(number)
        return self._kept(self._layers, (number, source), lambda: self._opened(scene, source), 4 * _OPEN)

    def _kept(self, kept: OrderedDict[K, V], key: K, make: Callable[[], V], most: int) -> V:
        """What is kept under a key, made if it is not there; what was not used for longest goes."""
        with self._lock:
            if key not in kept:
                kept[key] = make()
                if len(kept) > most:
                    kept.popitem(last=False)
            kept.move_to_end(key)
            return kept[key]

    def _sources_of(self, number: int) -> list[LayerSource]:
        return self.scene(number).sources()

    def _opened(self, scene: Scene, source: LayerSource) -> TissueLayer:
        if source.kind == "map" and source.path.suffix != ".png":
            return MapLayer(source.path)
        run = next((run for run in scene.runs if run.run.path == source.path or run.name == source.origin), None)
        if source.kind in ("network", "attention", "epoch_attention"):
            assert run is not None
            if source.kind == "network":
                return NetworkLayer(scene.path, run, scene.um_per_pixel)
            return AttentionLayer(scene.path, run, scene.um_per_pixel, accumulated=source.kind == "attention")
        run = run or next(iter(scene.runs), None)
        tissues = self._tissues if run is None else run.tissues
        if tissues is None:
            raise DataError(f"{source.path}: which tissues are these? Name their set with --tissues.")
        return MaskLayer(scene.path, tissues, scene.um_per_pixel, source.path)

    def scene(self, number: int) -> Scene:
        """A scene.

        Raises:
            IndexError: if there is none of that number.
        """
        if not 0 <= number < len(self.scenes):
            raise IndexError(number)
        return self.scenes[number]

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            for slide in self._slides.values():
                slide.slide.close()
            for layer in self._layers.values():
                layer.close()
            self._slides.clear()
            self._layers.clear()
        for corrections in self._corrections:
            corrections.close()
