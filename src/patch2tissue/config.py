"""One pydantic model of a whole run: YAML in, YAML out, every field described, unknown keys refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AllowInfNan, Field, ValidationError, field_validator, model_validator

from patch2tissue.config_sections import AugmentationConfig, LoggersConfig
from patch2tissue.config_sections import Section as _Section
from patch2tissue.errors import ConfigError
from patch2tissue.plain_yaml import parse_yaml, read_yaml
from patch2tissue.tissues import BUILT_IN, TissueSet, load_tissue_set, tissue_set_from_dict


class SyntheticSource(_Section):
    """Make synthetic tissue when the data folder does not exist yet."""

    kind: Literal["synthetic"] = "synthetic"
    train: int = Field(600, ge=1, description="patches in train")
    val: int = Field(0, ge=0, description="patches in val")
    test: int = Field(120, ge=0, description="patches in test")
    size: int = Field(128, ge=32, description="patch size in pixels")
    difficulty: Literal["easy", "medium", "hard"] = Field("hard", description="how hard the tissue is to tell apart")
    seed: int = Field(0, ge=0, description="seed of the pictures; same seed, same bytes")


class RegionSource(_Section):
    """Cut labelled patches from large images with masks when the data folder does not exist yet."""

    kind: Literal["regions"] = "regions"
    path: Path = Field(description="folder with train/img, train/mask and val or test folders of the same form")
    size: int = Field(112, ge=16, description="patch size in pixels")
    stride: int = Field(56, ge=1, description="distance between patches in pixels")
    least_share: float = Field(0.05, ge=0, le=1, description="least share of a patch that counts as 'present'")


class DataConfig(_Section):
    """Where patches are and how they are read."""

    path: Path = Field(description="data folder with train/ and optionally val/ and test/ (img, mask)")
    layout: Literal["auto", "luad-histoseg", "bcss-wsss", "wsss4luad", "csv"] = Field(
        "auto", description="how a patch's label is written: in its file name, or in labels.csv"
    )
    test_path: Path | None = Field(None, description="folder with img/ and mask/ to score on instead of test/ of path")
    source: SyntheticSource | RegionSource | None = Field(
        None, discriminator="kind", description="how to make the data folder if it does not exist"
    )
    um_per_pixel: float | None = Field(
        None, gt=0, description="resolution of the patches in µm per pixel; null: that of the tissue set"
    )
    patch_size: int | None = Field(None, ge=32, description="crop or pad training patches to this size; null: as is")
    stain_jitter: float = Field(0.05, ge=0, le=0.5, description="spread of the stain augmentation in HED space")
    brightness_jitter: float = Field(0.05, ge=0, le=0.5, description="spread of the brightness augmentation")
    augmentation: AugmentationConfig | None = Field(
        None, description="change colours by another library instead; null: stain and brightness alone"
    )
    cache: bool = Field(
        True, description="keep decoded training patches in memory when they fit in 2 GiB, in all workers"
    )


_NOT_OPTIONS = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "checkpoint_strict",
        "feature_cfg",
        "feature_cls",
        "features_only",
        "output_stride",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_filter_fn",
        "pretrained_strict",
    }
)
"""Arguments of timm that name a file, which it might unpickle, or that other fields set."""


class LoRAConfig(_Section):
    """Low-rank adaptation of an encoder, where `train` is `lora`."""

    rank: int = Field(8, ge=1, description="rank of each change of a weight matrix")
    alpha: float = Field(16.0, gt=0, description="the change counts alpha / rank times")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of a layer's inputs that the change does not see")
    targets: list[str] = Field(
        ["attn.qkv", "attn.proj"], min_length=1, description="ends of the names of the layers that are adapted"
    )


class EncoderConfig(_Section):
    """A timm encoder, where its weights come from, and what of it is trained."""

    name: str = Field(
        "resnet50d",
        description="any timm model name, also hf-hub: names, or a foundation model of `patch2tissue encoders list`",
    )
    pretrained: bool = Field(False, description="let timm download pretrained weights (needs internet)")
    weights: Path | None = Field(None, description="local safetensors file with the encoder's weights")
    allow_missing: bool = Field(False, description="accept a weights file that lacks some of the encoder's tensors")
    output_stride: Literal[8, 16, 32] = Field(8, description="pixels per feature position (ViT: its own patch size)")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of timm.create_model")
    train: Literal["all", "frozen", "lora"] = Field(
        "all", description="what is trained: every weight, none of the encoder's, or low-rank changes of them"
    )
    lora: LoRAConfig = Field(default_factory=LoRAConfig, description="low-rank adaptation")
    gradient_checkpointing: bool = Field(
        False,
        description="compute a ViT's blocks once more in the backward pass instead of keeping them: less memory",
    )
    final_norm: bool | None = Field(
        None, description="normalise a ViT's feature maps by its last norm; null: for foundation models only"
    )

    @field_validator("options")
    @classmethod
    def _no_files(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Some of timm's arguments name a file, which it would unpickle, or are set by other fields."""
        wrong = sorted(_NOT_OPTIONS & options.keys())
        if wrong:
            raise ValueError(
                f"'{wrong[0]}' is not taken here: use pretrained, weights (a .safetensors file) or output_stride"
            )
        return options

    mean: tuple[float, float, float] | None = Field(None, description="input mean in 0..1; null: the encoder's own")
    std: tuple[float, float, float] | None = Field(None, description="input deviation in 0..1; null: the encoder's own")


class OptimiserConfig(_Section):
    """Optimiser and schedule of one stage (AdamW, linear warm-up, cosine decay)."""

    epochs: int = Field(20, ge=1, description="passes over the training patches")
    batch_size: int = Field(16, ge=1, description="patches per step")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of new layers")
    encoder_rate: float = Field(1.0, gt=0, description="encoder's learning rate as a share of learning_rate")
    weight_decay: float = Field(1e-2, ge=0, description="decoupled weight decay")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of all steps with a rising learning rate")
    gradient_clip: float = Field(5.0, ge=0, description="largest gradient norm; 0: no clipping")


class PretrainingConfig(OptimiserConfig):
    """Self-supervised pre-training of the encoder on the training patches, before stage 1; labels are not used."""

    epochs: int = Field(50, ge=1, description="passes over the training patches")
    batch_size: int = Field(64, ge=2, description="patches per step")
    crop: int = Field(64, ge=32, description="side of a view in pixels")
    least_scale: float = Field(0.4, gt=0, le=1, description="least side of a view's crop as a share of the patch's")
    stain: float = Field(0.1, ge=0, le=0.5, description="spread of a view's stain shift in HED space")
    brightness: float = Field(0.1, ge=0, le=0.5, description="spread of a view's brightness")
    dimensions: int = Field(256, ge=8, description="size of the embedding in which views are compared")


class AccumulationConfig(_Section):
    """Attention accumulation: overlaying the maps of the training epochs."""

    mode: Literal["mean", "max", "ema"] = Field("mean", description="how a new map is overlaid on the memory")
    form: Literal["softmax", "rectified", "plain"] = Field("softmax", description="which form of the map is kept")
    start: float = Field(0.5, ge=0, lt=1, description="share of the epochs that passes before accumulation starts")
    ema_decay: float = Field(0.7, ge=0, lt=1, description="share of the old memory kept by mode ema")
    dtype: Literal["float16", "uint8"] = Field(
        "uint8", description="storage of a map value; uint8: one byte, rounded without bias"
    )
    epoch_maps_gib: float = Field(
        0.5,
        ge=0,
        description="most disk, in GiB, for the maps of every epoch, which `view` shows; else none",
    )


class CRAANetConfig(OptimiserConfig):
    """Stage 1: the multi-label patch classifier with class residual attention."""

    encoder: EncoderConfig = Field(default_factory=EncoderConfig, description="encoder of both stages")
    heads: Literal[1, 2, 4, 6, 8] = Field(1, description="residual attention heads")
    temperatures: list[Annotated[float, AllowInfNan(True)]] | None = Field(
        None, description="one temperature per head instead of the published set; .inf is the maximum"
    )
    residual_weight: float = Field(0.3, ge=0, description="weight λ of the attention term; 0 leaves plain averaging")
    attention_stages: int = Field(
        1, ge=1, description="feature maps of the encoder, counted from the deepest, that classify and give attention"
    )
    accumulation: AccumulationConfig = Field(default_factory=AccumulationConfig, description="attention accumulation")

    @property
    def first_accumulated_epoch(self) -> int:
        """The first epoch, counted from 0, whose maps are overlaid on the memory."""
        return min(self.epochs - 1, int(self.accumulation.start * self.epochs))


class RefinementConfig(_Section):
    """Mean-field refinement of pseudo labels with the dense-energy kernel."""

    iterations: int = Field(0, ge=0, le=50, description="mean-field steps; 0: no refinement")
    weight: float = Field(3.0, ge=0, description="weight of the pairwise term")
    sigma_rgb: float = Field(15.0, gt=0, description="colour scale, in grey levels of 255")
    sigma_xy: float = Field(20.0, gt=0, description="distance scale in pixels of the image")
    grid: int = Field(56, ge=8, le=256, description="longest side of the grid on which it runs")


class PseudoLabelConfig(_Section):
    """From accumulated attention to pseudo labels."""

    scales: list[float] = Field([0.75, 1.0, 1.25], min_length=1, description="test-time scales")
    symmetries: bool = Field(True, description="average over the 8 symmetries at test time")
    memory_weight: float = Field(0.5, ge=0, le=1, description="share of the attention memory against the final maps")
    margin: float = Field(0.0, ge=0, lt=1, description="ignore pixels whose best and second score differ by less")
    reliable_share: float = Field(
        1.0, gt=0, le=1, description="share of each tissue's pixels in a patch, the surest, that is kept; 1: all"
    )
    refinement: RefinementConfig = Field(default_factory=RefinementConfig, description="mean-field refinement")


class DenseEnergyConfig(_Section):
    """Dense energy loss."""

    weight: float = Field(2.0, ge=0, description="weight α of the loss; 0: off")
    sigma_rgb: float = Field(15.0, gt=0, description="colour scale, in grey levels of 255")
    sigma_xy: float = Field(20.0, gt=0, description="distance scale in pixels of the image")
    grid: int = Field(56, ge=4, le=256, description="longest side of the grid on which the kernel is evaluated")
    sampling: Literal["auto", "exact", "rows", "displacements"] = Field(
        "auto", description="exact kernel, or an unbiased estimate of it; auto: exact on a GPU, displacements on a CPU"
    )
    samples: int = Field(64, ge=1, description="rows or displacements drawn per step where the kernel is sampled")
    balanced: bool = Field(False, description="let each pixel count alike, however many others resemble it")
    soft_filter: bool = Field(True, description="weigh labelled pixels by how unsure the network is of them")


class PixelContrastConfig(_Section):
    """Pixel clustering by contrast learning."""

    weight: float = Field(0.1, ge=0, description="weight β of the loss; 0: off")
    dimensions: int = Field(128, ge=2, description="size of the pixel embedding")
    temperature: float = Field(0.1, gt=0, description="temperature τ of the InfoNCE losses")
    prototypes: int = Field(1, ge=1, description="prototypes per tissue")
    momentum: float = Field(0.99, ge=0, lt=1, description="share μ of the old prototype kept per step")
    anchors: int = Field(512, ge=2, description="anchor pixels per step")
    bank: int = Field(512, ge=0, description="pixels kept per tissue in the memory bank; 0: no bank")
    confidence: float = Field(0.7, ge=0, le=1, description="least probability of its label for a pixel to be used")


class LabelCorrectionConfig(_Section):
    """Correction of wrong pseudo labels by the prototypes."""

    mode: Literal["off", "relabel", "ignore"] = Field("ignore", description="what happens to a pixel found wrong")
    margin: float = Field(0.2, ge=0, description="least lead, in cosine, of another present tissue's prototype")
    confidence: float = Field(0.5, ge=0, le=1, description="labels with a higher confidence are never touched")
    start: float = Field(0.5, ge=0, lt=1, description="share of the epochs that passes first")
    fill: bool = Field(False, description="also label ignored pixels whose nearest prototype leads by the margin")


class ConsistencyConfig(_Section):
    """Mean teacher: the averaged weights label the plain view, the network learns them on a strong view."""

    weight: float = Field(0.0, ge=0, description="weight of the loss; 0: off. On, a step costs about twice as much")
    confidence: float = Field(0.8, ge=0, le=1, description="least probability of the teacher's label to learn from it")
    strength: float = Field(1.0, ge=0, le=2, description="strength of the change of stain, light and sharpness")
    mixing: Literal["none", "cutout", "cutmix"] = Field(
        "cutmix", description="what happens to a rectangle of each patch: nothing, erased, taken from another patch"
    )


class PFSCNetConfig(OptimiserConfig):
    """Stage 2: the segmentation network."""

    encoder: EncoderConfig | None = Field(None, description="null: the encoder of stage 1")
    init: Literal["craanet", "encoder"] = Field(
        "craanet", description="start from the trained encoder of stage 1, or as the encoder section says"
    )
    decoder_channels: int = Field(256, ge=8, description="channels of the decoder")
    atrous_rates: tuple[int, int, int] = Field((6, 12, 18), description="dilations of the multi-scale module")
    dense_energy: DenseEnergyConfig = Field(default_factory=DenseEnergyConfig, description="dense energy loss")
    contrast: PixelContrastConfig = Field(default_factory=PixelContrastConfig, description="pixel clustering")
    correction: LabelCorrectionConfig = Field(default_factory=LabelCorrectionConfig, description="label correction")
    consistency: ConsistencyConfig = Field(default_factory=ConsistencyConfig, description="mean teacher")
    mosaic: float = Field(0.0, ge=0, le=1, description="chance that a patch is joined with another one of the batch")
    mosaic_of: Literal["one_tissue", "any"] = Field(
        "one_tissue", description="patches joined: those of one tissue, or all whose tissues occur together in a label"
    )
    losses_start: float = Field(0.2, ge=0, lt=1, description="share of the epochs with cross-entropy alone")
    confidence_weighting: bool = Field(False, description="weigh cross-entropy by the pseudo label's confidence")
    weight_averaging: float = Field(0.99, ge=0, lt=1, description="decay of the averaged weights; 0: last weights")
    rounds: int = Field(
        1, ge=1, le=3, description="trainings in a row; each further one learns from the predictions of the one before"
    )

    @model_validator(mode="after")
    def _teacher_is_averaged(self) -> PFSCNetConfig:
        if self.consistency.weight > 0 and self.weight_averaging == 0:
            raise ValueError("consistency needs averaged weights for its teacher: set weight_averaging above 0")
        return self


class ComparisonConfig(_Section):
    """Further networks trained beside the method, for comparison. The last one reads masks, by name."""

    cam: bool = Field(False, description="pseudo labels of plain CAM: average pooling, last epoch's map")
    grad_cam: bool = Field(False, description="pseudo labels of Grad-CAM on the trained CRAANet, last epoch")
    cam_pipeline: bool = Field(False, description="a network trained with cross-entropy on those; needs cam")
    cross_entropy_only: bool = Field(False, description="PFSCNet on the same pseudo labels without the two losses")
    full_supervision: bool = Field(
        False, description="PFSCNet trained on the masks of train: the ceiling, NOT weakly supervised"
    )

    @model_validator(mode="after")
    def _pipeline_needs_cam(self) -> ComparisonConfig:
        if self.cam_pipeline and not self.cam:
            raise ValueError("cam_pipeline trains on the labels of cam: set cam to true as well")
        return self


class InferenceConfig(_Section):
    """How images are predicted."""

    tile: int = Field(512, ge=32, description="side of a tile in pixels; smaller images go through whole")
    overlap: float = Field(0.25, ge=0, lt=1, description="share of a tile that overlaps its neighbour")
    batch_size: int = Field(8, ge=1, description="tiles per forward pass")
    symmetries: bool = Field(False, description="average over the 8 symmetries")
    gate: float | None = Field(None, ge=0, le=1, description="drop tissues that CRAANet finds less likely than this")
    engine: Literal["auto", "torch", "compile", "onnxruntime", "openvino"] = Field(
        "auto",
        description="what computes the network: auto is torch; compile needs a C++ compiler; onnxruntime (float32) and "
        "openvino are extras and compute on the CPU",
    )


class HardwareConfig(_Section):
    """Device, precision and processes."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: CUDA, else MPS, else CPU")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where it is fast")
    workers: int = Field(
        0, ge=0, description="data-loading processes of each training process; 0: in the training process"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of each process; null: all cores, shared out")
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1, description="training processes on each machine, with GPUs one for each; auto: as many as there are GPUs"
    )
    nodes: int = Field(1, ge=1, description="machines that train together; see many-machines.md")


class RunConfig(_Section):
    """A whole run."""

    output: Path = Field(description="run folder to write")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of everything random in training")
    tissues: str | dict[str, Any] = Field(description="name of a tissue set, a YAML file, or the set itself")
    data: DataConfig = Field(description="the patches")
    pretraining: PretrainingConfig | None = Field(
        None, description="pre-train the encoder on the patches without labels; null: not at all"
    )
    craanet: CRAANetConfig = Field(default_factory=CRAANetConfig, description="stage 1")
    pseudo_labels: PseudoLabelConfig = Field(default_factory=PseudoLabelConfig, description="between the stages")
    pfscnet: PFSCNetConfig = Field(default_factory=PFSCNetConfig, description="stage 2")
    comparisons: ComparisonConfig = Field(default_factory=ComparisonConfig, description="networks beside the method")
    inference: InferenceConfig = Field(default_factory=InferenceConfig, description="prediction")
    hardware: HardwareConfig = Field(default_factory=HardwareConfig, description="machine")
    loggers: LoggersConfig = Field(default_factory=LoggersConfig, description="where curves go beside metrics.csv")
    selection: Literal["last", "validation_masks"] = Field(
        "last", description="which stage-2 weights are kept; validation_masks is extra supervision and is recorded"
    )

    @model_validator(mode="after")
    def _names_resolve(self) -> RunConfig:
        self.tissue_set()
        return self

    @model_validator(mode="after")
    def _one_start(self) -> RunConfig:
        first, second = self.craanet.encoder, self.pfscnet.encoder
        started = {"craanet": first}
        if second is not None and (second.name, second.options) == (first.name, first.options):
            started["pfscnet"] = second
        for section, encoder in started.items():
            if self.pretraining is not None and (encoder.pretrained or encoder.weights is not None):
                raise ValueError(
                    f"pretraining starts from random weights, but {section}.encoder names others: leave out either the "
                    "section pretraining, or encoder.pretrained and encoder.weights"
                )
        return self

    def tissue_set(self) -> TissueSet:
        """The tissue set this run uses, with the resolution of its patches."""
        if isinstance(self.tissues, dict):
            tissues = tissue_set_from_dict(self.tissues, "config field 'tissues'")
        else:
            tissues = load_tissue_set(self.tissues)
        resolution = self.data.um_per_pixel
        if resolution is None and isinstance(self.data.source, SyntheticSource):
            from patch2tissue.data.synthetic.patches import UM_PER_PIXEL

            resolution = UM_PER_PIXEL
        return tissues if resolution is None else replace(tissues, um_per_pixel=resolution)

    def stage2_encoder(self) -> EncoderConfig:
        """Encoder of PFSCNet: its own, or that of stage 1."""
        return self.pfscnet.encoder or self.craanet.encoder

    def self_contained(self) -> RunConfig:
        """The configuration with the tissue set itself where it names a file, so that it says the same anywhere."""
        if isinstance(self.tissues, dict) or self.tissues in BUILT_IN:
            return self
        return self.model_copy(update={"tissues": load_tissue_set(self.tissues).to_dict()})

    def to_yaml(self) -> str:
        """The whole configuration, defaults included, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply_override(plain: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override}: expected section.field=value, for example --set craanet.epochs=5.")
    try:
        value = parse_yaml(text)
    except ValueError:
        raise ConfigError(f"--set {override}: '{text}' is not a YAML value.") from None
    node = plain
    parts = key.strip().split(".")
    for part in parts[:-1]:
        if node.get(part) is None:
            node[part] = {}
        if not isinstance(node[part], dict):
            raise ConfigError(f"--set {override}: '{part}' is a value, not a section.")
        node = node[part]
    node[parts[-1]] = value


def config_from_dict(plain: dict[str, Any], source: str = "config") -> RunConfig:
    """Validate a plain mapping.

    Raises:
        ConfigError: naming every field that is missing, unknown or wrong.
    """
    try:
        return RunConfig.model_validate(plain)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            field = ".".join(str(part) for part in item["loc"]) or "config"
            reason = "unknown field" if item["type"] == "extra_forbidden" else item["msg"]
            lines.append(f"  {field}: {reason}")
        raise ConfigError(f"{source}: the configuration is not valid:\n" + "\n".join(lines)) from None


def load_config(path: Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML configuration and apply `section.field=value` overrides.

    Relative paths stay as they are, that is relative to the folder the command runs in.

    Raises:
        ConfigError: if the file cannot be read or is not a valid configuration.
    """
    plain = read_yaml(Path(path), "a configuration", "output, tissues and data")
    for override in overrides or []:
        _apply_override(plain, override)
    return config_from_dict(plain, str(path))
