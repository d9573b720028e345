"""What is the same for every slide of a call: options, resolution, tissues, and what a map depends on."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from patch2tissue.atomic import remove_abandoned
from patch2tissue.config import InferenceConfig
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.inference.predictor import Predictor
from patch2tissue.inference.slides.outputs import OutputOptions
from patch2tissue.inference.slides.plan import TilePlan, plan_tiles
from patch2tissue.inference.slides.state import file_identity
from patch2tissue.links import refuse_to_write_through_links
from patch2tissue.run_folder import RunFolder
from patch2tissue.slides.opening import SlideFile
from patch2tissue.slides.resolution import COARSEST, FINEST
from patch2tissue.slides.scaled import ScaledSlide
from patch2tissue.slides.tissue_mask import TissueMask
from patch2tissue.tissues import TissueSet
from patch2tissue.weights import weights_digest

logger = logging.getLogger(__name__)

VERSION = 1
"""Counts changes after which a map that was begun earlier is begun anew."""

_TOO_COARSE, _COARSE = 2.0, 1.1


@dataclass(frozen=True)
class SlideOptions:
    """How slides are predicted.

    Attributes:
        um_per_pixel: resolution of the network's training in µm per pixel; None: that of the run's tissue set.
        tissue: `found`: tissue is looked for at 8 µm per pixel; `everywhere`: all of the slide goes through the
            network; or a mask file, or a folder with `NAME.png` or `NAME.geojson` for each slide.
        workers: processes that read tiles; None: as many as keep the network busy; 0: this process reads.
        outputs: what is written.
    """

    um_per_pixel: float | None = None
    tissue: str | Path = "found"
    workers: int | None = None
    outputs: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True)
class SlideJob:
    """What is the same for every slide, without the network: plain data that other processes can be handed.

    Attributes:
        out: folder for the results.
        options: see `SlideOptions`.
        um_per_pixel: resolution of the maps.
        tissues: what the network draws.
        inference: tiles, overlap and batch.
        temperature: of probabilities and confidence.
        settings: everything that a map depends on but the slide itself.
    """

    out: Path
    options: SlideOptions
    um_per_pixel: float
    tissues: TissueSet
    inference: InferenceConfig
    temperature: float
    settings: dict[str, Any]

    @classmethod
    def of(
        cls, run: RunFolder, predictor: Predictor, out: Path, options: SlideOptions, *, network: str = "full_method"
    ) -> SlideJob:
        """Check the options and make the folder for the results.

        Args:
            run: run folder.
            predictor: of it.
            out: folder for the results.
            options: see `SlideOptions`.
            network: which network of the run the predictor has.

        Raises:
            DataError: if the folder cannot be made.
            ConfigError: if an option makes no sense.
        """
        resolution = options.um_per_pixel or predictor.tissues.um_per_pixel
        if resolution is None:
            raise ConfigError(
                f"{run.config_file}: does not say at which resolution the network was trained. Pass --model-mpp with "
                "the µm per pixel of its training patches, or set um_per_pixel in the tissue set."
            )
        if not FINEST <= resolution <= COARSEST:
            raise ConfigError(
                f"The network's resolution in µm per pixel is from {FINEST} to {COARSEST:g}, not {resolution:g}."
            )
        if options.workers is not None and options.workers < 0:
            raise ConfigError(f"The number of reading processes is not negative, so not {options.workers}.")
        if options.outputs.simplify < 0:
            raise ConfigError(f"The tolerance of polygons is not negative, so not {options.outputs.simplify}.")
        make_results_folder(out)
        weights = run.pfscnet if network == "full_method" else run.comparison(network)
        settings = {
            "version": VERSION,
            "weights": weights_digest(weights),
            "temperature": predictor.temperature,
            "tissues": predictor.tissues.to_dict(),
            "inference": predictor.settings.model_dump(),
            "precision": str(predictor.dtype),
            "um_per_pixel": resolution,
            "outputs": asdict(options.outputs),
        }
        return cls(out, options, resolution, predictor.tissues, predictor.settings, predictor.temperature, settings)

    def settings_of(self, file: SlideFile, view: ScaledSlide, tissue: TissueMask) -> dict[str, Any]:
        """Everything that the map of a slide depends on."""
        own = self.options.tissue not in ("found", "everywhere")
        return self.settings | {
            "slide": file_identity(file.path),
            "slide_um_per_pixel": view.um_per_pixel,
            # wherever the command is given
            "tissue": [str(Path(tissue.source).absolute()) if own else tissue.source, _mask_hash(tissue)],
        }

    def plan(self, view: ScaledSlide, tissue: TissueMask) -> TilePlan:
        """The tiles of a slide."""
        return plan_tiles(view.size, self.inference.tile, self.inference.overlap, tissue, view.scale)

    def check_resolution(self, view: ScaledSlide) -> None:
        """Refuse or warn where the slide shows less than what the network was trained on.

        Raises:
            DataError: if it shows less than half.
        """
        assert view.slide.resolution is not None
        own = max(view.slide.resolution.x, view.slide.resolution.y)
        if own > _TOO_COARSE * self.um_per_pixel:
            raise DataError(
                f"{view.slide.path}: has {own:g} µm per pixel ({view.slide.resolution.source}), but the network was "
                f"trained at {self.um_per_pixel:g}. Scan it at a higher resolution, or train on patches of "
                "this one; if the figure is wrong, pass --mpp."
            )
        if own > _COARSE * self.um_per_pixel:
            logger.warning(
                "%s: has %g µm per pixel and is enlarged to the %g that the network was trained at; expect less.",
                view.slide.path,
                own,
                self.um_per_pixel,
            )


def make_results_folder(out: Path) -> None:
    """Make the folder for results, and rid it of what killed processes of this machine left.

    Raises:
        DataError: if it cannot be made, or a link in it leads elsewhere.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made a folder: {error.strerror or error}.") from None
    refuse_to_write_through_links(out)
    remove_abandoned(out)


def _mask_hash(tissue: TissueMask) -> str:
    return hashlib.sha256(np.packbits(tissue.mask).tobytes() + repr(tissue.mask.shape).encode()).hexdigest()
