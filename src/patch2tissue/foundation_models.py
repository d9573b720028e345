"""Pathology foundation models by a short name: what they are built of, what they expect, and what they may be used for.

Facts are those of the models' pages on the Hugging Face Hub and of the papers, looked up in November 2026; where a page
could not be read, `to_check` says of what. Nothing here loads a model, so that the list is quick to print.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patch2tissue.config import RunConfig

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet, which most of the models were trained with."""

_BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))

_NON_COMMERCIAL = "CC-BY-NC-ND-4.0"

_SWIGLU: dict[str, Any] = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}


@dataclass(frozen=True)
class FoundationModel:
    """A vision transformer that was trained on histology without labels.

    Attributes:
        name: short name, which `encoder.name` takes.
        repository: on the Hugging Face Hub.
        architecture: name of timm's model.
        options: arguments of `timm.create_model` that differ from that model's own.
        depth: transformer blocks.
        width: channels of a token.
        patch: side of a token in pixels.
        parameters: their number, without a classifier.
        um_per_pixel: resolutions it was trained at, in µm per pixel.
        licence: SPDX name where there is one.
        commercial: whether the licence allows commercial use.
        gated: whether the terms must be accepted on the Hub before the weights can be downloaded.
        input_size: side in pixels of the images it was trained on; others work, their positions are interpolated.
        mean: input mean in 0..1.
        std: input deviation in 0..1.
        paper: where it was published.
        to_check: what could not be looked up and should be compared with the model's page; empty if nothing.
    """

    name: str
    repository: str
    architecture: str
    options: Mapping[str, Any]
    depth: int
    width: int
    patch: int
    parameters: int
    um_per_pixel: tuple[float, ...]
    licence: str
    commercial: bool
    gated: bool
    paper: str
    input_size: int = 224
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]
    to_check: str = ""

    @property
    def page(self) -> str:
        """The model's page."""
        return f"https://huggingface.co/{self.repository}"

    def out_indices(self, depth: int) -> list[int]:
        """Blocks whose tokens are feature maps: the ends of the four quarters of so many blocks."""
        return sorted({-(-depth * quarter // 4) - 1 for quarter in (1, 2, 3, 4)})

    def to_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {
            "name": self.name,
            "repository": self.repository,
            "page": self.page,
            "architecture": self.architecture,
            "options": dict(self.options),
            "parameters": self.parameters,
            "width": self.width,
            "patch": self.patch,
            "input_size": self.input_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "um_per_pixel": list(self.um_per_pixel),
            "licence": self.licence,
            "commercial": self.commercial,
            "gated": self.gated,
            "paper": self.paper,
            "to_check": self.to_check,
        }


_MODELS = (
    FoundationModel(
        "uni",
        "MahmoodLab/UNI",
        "vit_large_patch16_224",
        {"init_values": 1e-5},
        depth=24,
        width=1024,
        patch=16,
        parameters=303_350_784,
        um_per_pixel=(0.5,),
        licence=_NON_COMMERCIAL,
        commercial=False,
        gated=True,
        paper="Chen et al., Nature Medicine 2024",
    ),
    FoundationModel(
        "uni2-h",
        "MahmoodLab/UNI2-h",
        "vit_giant_patch14_224",
        {
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            **_SWIGLU,
        },
        depth=24,
        width=1536,
        patch=14,
        parameters=681_394_176,
        um_per_pixel=(0.5,),
        licence=_NON_COMMERCIAL,
        commercial=False,
        gated=True,
        paper="MahmoodLab, model page, 2025",
        to_check="resolution: 20x is what the authors' own pipeline uses it at",
    ),
    FoundationModel(
        "virchow",
        "paige-ai/Virchow",
        "vit_huge_patch14_224",
        {"init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", **_SWIGLU},
        depth=32,
        width=1280,
        patch=14,
        parameters=631_229_184,
        um_per_pixel=(0.5,),
        licence="Apache-2.0",
        commercial=True,
        gated=True,
        paper="Vorontsov et al., Nature Medicine 2024",
    ),
    FoundationModel(
        "virchow2",
        "paige-ai/Virchow2",
        "vit_huge_patch14_224",
        {"init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", "reg_tokens": 4, **_SWIGLU},
        depth=32,
        width=1280,
        patch=14,
        parameters=631_239_424,
        um_per_pixel=(0.25, 0.5, 1.0, 2.0),
        licence=_NON_COMMERCIAL,
        commercial=False,
        gated=True,
        paper="Zimmermann et al., arXiv 2408.00738, 2024",
    ),
    FoundationModel(
        "h-optimus-0",
        "bioptimus/H-optimus-0",
        "vit_giant_patch14_reg4_dinov2",
        {"img_size": 224, "init_values": 1e-5},
        depth=40,
        width=1536,
        patch=14,
        parameters=1_134_774_272,
        um_per_pixel=(0.5,),
        licence="Apache-2.0",
        commercial=True,
        gated=True,
        paper="Saillard et al., Bioptimus, 2024",
        mean=_BIOPTIMUS[0],
        std=_BIOPTIMUS[1],
    ),
    FoundationModel(
        "h-optimus-1",
        "bioptimus/H-optimus-1",
        "vit_giant_patch14_reg4_dinov2",
        {"img_size": 224, "init_values": 1e-5},
        depth=40,
        width=1536,
        patch=14,
        parameters=1_134_774_272,
        um_per_pixel=(0.5,),
        licence=_NON_COMMERCIAL,
        commercial=False,
        gated=True,
        paper="Bioptimus, model page, 2025",
        mean=_BIOPTIMUS[0],
        std=_BIOPTIMUS[1],
        to_check="licence",
    ),
    FoundationModel(
        "h0-mini",
        "bioptimus/H0-mini",
        "vit_base_patch14_reg4_dinov2",
        {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.33334, **_SWIGLU},
        depth=12,
        width=768,
        patch=14,
        parameters=85_739_520,
        um_per_pixel=(0.5,),
        licence=_NON_COMMERCIAL,
        commercial=False,
        gated=True,
        paper="Filiot et al., arXiv 2501.16239, 2025",
        mean=_BIOPTIMUS[0],
        std=_BIOPTIMUS[1],
        to_check="width of the MLP (mlp_ratio), licence",
    ),
    FoundationModel(
        "phikon",
        "owkin/phikon",
        "vit_base_patch16_224",
        {},
        depth=12,
        width=768,
        patch=16,
        parameters=85_798_656,
        um_per_pixel=(0.5,),
        licence="Owkin non-commercial",
        commercial=False,
        gated=False,
        paper="Filiot et al., medRxiv 2023.07.21.23292757, 2023",
    ),
    FoundationModel(
        "phikon-v2",
        "owkin/phikon-v2",
        "vit_large_patch16_224",
        {"init_values": 1e-5},
        depth=24,
        width=1024,
        patch=16,
        parameters=303_350_784,
        um_per_pixel=(0.5,),
        licence="Owkin non-commercial",
        commercial=False,
        gated=False,
        paper="Filiot et al., arXiv 2409.09173, 2024",
    ),
    FoundationModel(
        "gigapath",
        "prov-gigapath/prov-gigapath",
        "vit_giant_patch14_dinov2",
        {"img_size": 224, "patch_size": 16, "init_values": 1e-5, "mlp_ratio": 5.33334},
        depth=40,
        width=1536,
        patch=16,
        parameters=1_134_953_984,
        um_per_pixel=(0.5,),
        licence="Apache-2.0",
        commercial=True,
        gated=True,
        paper="Xu et al., Nature 2024",
        to_check="licence: the page once named one of its own; its terms ask for use in research only",
    ),
)

FOUNDATION_MODELS: dict[str, FoundationModel] = {model.name: model for model in _MODELS}
"""By short name."""

_BY_REPOSITORY = {model.repository.lower(): model for model in _MODELS}


def hub_repository(name: str) -> str | None:
    """The repository in a name such as `hf-hub:MahmoodLab/UNI`; None if the name is none of that form."""
    for prefix in ("hf-hub:", "hf_hub:"):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return None


def foundation_model(name: str) -> FoundationModel | None:
    """The foundation model that `encoder.name` means: by its short name, or as `hf-hub:` and its repository."""
    repository = hub_repository(name)
    if repository is not None:
        return _BY_REPOSITORY.get(repository.lower())
    return FOUNDATION_MODELS.get(name.lower())


FAR = 1.5
"""Factor between the resolution of patches and that of a model's training from which on it is told of."""


def encoder_notes(config: RunConfig) -> list[str]:
    """What a user should know of the encoders that a run asks for, before it is trained; empty if all is well."""
    notes = []
    resolution = config.tissue_set().um_per_pixel
    names = dict.fromkeys((config.craanet.encoder.name, config.stage2_encoder().name))
    for model in filter(None, map(foundation_model, names)):
        if resolution is not None and _factor(model, resolution) > FAR:
            known = " or ".join(f"{value:g}" for value in model.um_per_pixel)
            notes.append(
                f"the patches have {resolution:g} µm per pixel, but {model.name} was trained at {known}: its features "
                "are of things of that size. Cut patches at that resolution if you can."
            )
    first = config.craanet.encoder
    if first.train == "frozen" and not first.pretrained and first.weights is None and config.pretraining is None:
        notes.append(
            "craanet.encoder is frozen at random weights, of which little can be learned: name its weights, or set "
            "craanet.encoder.train to 'all'"
        )
    return notes


def _factor(model: FoundationModel, um_per_pixel: float) -> float:
    return min(max(um_per_pixel / known, known / um_per_pixel) for known in model.um_per_pixel)
