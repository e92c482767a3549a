"""Every key of every kind of config: its type, its default and what it means.

`gen1_jax.config` checks configs against these classes, and `gen1 config` and docs/configs.md print
them. The settings of a config's `data` are in data_pipelines/settings.py, one class for each form;
those of its `model` are the fields of the networks in gen1_jax/models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from gen1_jax.settings import required, setting
from gen1_jax.structure_settings import DepthSettings, StructureSettings

Dtype = Literal["float32", "bfloat16", "float16"]
Size = tuple[int, int]  # (height, width)
Encoder = Literal["vae", "clip", "depth", "prior"]
MAX_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    """Lists the parts of a run."""

    kind: Literal["all"] = required("that these are all parts")
    parts: tuple[str, ...] = required("names of the parts, in the order in which they are made")


# ---- training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW: a linear warm-up, then a cosine.

    A config that gives some of these keys gets the defaults here for the others: those of
    `gen1_jax.training.state.make_optimizer`. One that gives none gets those of `Training`.
    """

    learning_rate: float = setting(1e-3, "highest rate, which the warm-up reaches", low=0)
    warmup_steps: int = setting(50, "steps in which the rate rises from zero", low=0)
    final_fraction: float = setting(
        1.0,
        "share of the highest rate at which the cosine ends; 1: the rate stays, also in an "
        "`optimizer` without this key",
        low=0,
    )
    weight_decay: float = setting(
        0.01, "of matrices and convolution kernels; biases have none", low=0
    )
    b1: float = setting(0.9, "decay of the gradient's average", low=0, high=1)
    b2: float = setting(
        0.999,
        "decay of the squared gradient's average; 0.999 in an `optimizer` without this key",
        low=0,
        high=1,
    )
    clip_norm: float = setting(1.0, "a gradient of a larger norm is scaled down to it")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merge:
    """Parameters that may differ from those in `init_from`, as patterns of their names."""

    new: tuple[str, ...] = setting((), "parameters that init_from lacks; they start anew")
    dropped: tuple[str, ...] = setting((), "parameters of init_from that are left out")
    widened: tuple[str, ...] = setting((), "kernels whose input channels grow, by zeros")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """Devices along each axis of the mesh."""

    data: int = setting(-1, "devices that shard the batch; -1: all that are left", low=-1)
    fsdp: int = setting(1, "devices that shard the batch and the parameters", low=-1)
    frames: int = setting(1, "devices that shard the frames of each clip", low=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
    """A change of low rank of the UNet's attention projections, in place of training the UNet."""

    rank: int = setting(0, "rank of the change, often 4 to 64; 0: no LoRA", low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """Trains a model."""

    kind: Literal["train"] = required("what the part does")
    name: str = required("the part's name, for messages")
    objective: Literal["autoencoder", "contrastive", "depth", "prior", "diffusion"] = required(
        "the loss, by its name in gen1_jax/training/objectives.py"
    )
    loss: Mapping[str, Any] = setting({}, "settings of the objective")
    model: Mapping[str, Any] = setting({}, "the network, in the terms of the public config.json")
    init_from: str = setting("", "model folder to start from; empty: random parameters")
    merge: Merge = setting(Merge(), "parameters that may differ from those in init_from")
    trains: tuple[str, ...] = setting(
        (), "patterns of the parameters that are trained, others keep their values; empty: all"
    )
    lora: Lora = setting(Lora(), "trains a LoRA only, which is written beside the model")
    frozen: Mapping[Encoder, str] = setting(
        {}, "model folders of the encoders that the loss or the pictures need"
    )
    tokenizer: str = setting(
        "../tokenizer", "turns texts into tokens; the prior reads the empty text, for no caption"
    )
    data: Mapping[str, Any] = setting({}, "what is trained on; see the forms of data")
    structure: StructureSettings = setting(
        StructureSettings(),
        "structure of frames that are encoded in the training step; encoded data say their own",
    )
    depth: DepthSettings = setting(DepthSettings(), "how depth is estimated; as for structure")
    optimizer: Optimizer = setting(Optimizer(final_fraction=0.05, b2=0.99), "AdamW's settings")
    num_steps: int = setting(1000, "length of the run, in steps", low=1)
    ema_decay: float = setting(
        0.995,
        "of the parameters' moving average, which is saved; it spans 1 / (1 - decay) steps at most",
        low=0,
        high=1,
    )
    ema_share: float = setting(
        0.1, "share of the part's steps so far that the average spans at most", low=0, high=1
    )
    dtype: Dtype = setting("float32", "compute type; bfloat16 suits accelerators")
    mesh: Mesh = setting(Mesh(), "devices along each axis of the mesh")
    sharding: tuple[
        tuple[Literal["place", "in", "out"], Literal["data", "fsdp", "frames"]], ...
    ] = setting(
        (("out", "fsdp"), ("in", "fsdp")),
        "rules (axis of a kernel, axis of the mesh) for parameters; the first that divides holds",
    )
    split_from: int = setting(
        2**14, "elements from which on a parameter is sharded; smaller ones are replicated", low=0
    )
    microbatches: int = setting(
        1, "parts of a batch, computed one after another to save memory", low=1
    )
    reduce_once: Literal["no", "float32", "bfloat16"] = setting(
        "no",
        "type in which gradients are reduced over the devices once a step; less is sent, and each "
        "device holds a whole gradient, 4 bytes a parameter; no: after every microbatch",
    )
    remat: Literal["none", "products", "layer"] = setting(
        "none",
        "what the UNet's backward pass computes again to save memory: nothing, all but products "
        "of matrices and convolutions, or everything inside a layer",
    )
    seed: int = setting(0, "of parameters, data order, noise and dropout", low=0, high=MAX_SEED)
    log_every: int = setting(10, "steps between two entries of the log", low=1)
    sample_every: int = setting(500, "steps between two pictures; 0: no pictures", low=0)
    eval_every: int = setting(
        1000, "steps between two held-out losses; one more at the end; 0: none at all", low=0
    )
    eval_batches: int = setting(8, "validation batches of each kind, video and image", low=1)
    beside_share: float = setting(
        0.02,
        "largest share of the time that pictures and held-out losses take; one that would take "
        "more is left out, except at the end",
        low=0,
        high=1,
    )
    checkpoint_every: int = setting(500, "steps between two checkpoints", low=1)
    keep_checkpoints: int = setting(2, "checkpoints that are kept, the newest", low=1)


# ---- encoding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """Encodes clips and images ahead of training."""

    kind: Literal["encode"] = required("what the part does")
    data: Mapping[str, Any] = required("clips and images to encode; see the forms of data")
    tokenizer: str = setting(
        "../tokenizer", "turns captions into tokens; empty: no tokens are stored"
    )
    frozen: Mapping[Encoder, str] = required("model folders of the encoders")
    structure: StructureSettings = setting(StructureSettings(), "what the structure is made of")
    depth: DepthSettings = setting(DepthSettings(), "how depth is estimated")
    unet: str = setting(
        "", "UNet that will train on the result, whose widths are compared first; empty: none"
    )
    splits: tuple[str, ...] = setting(("train", "validation"), "splits that are encoded")
    levels_per_clip: int = setting(
        2, "structure levels stored for a clip: level 0, the others at random; 8: all",
        low=1, high=8,
    )  # fmt: skip
    precision: Literal["float16", "float32"] = setting("float16", "of the stored numbers")
    records_per_shard: int | None = setting(
        None, "records of a file, of which a job that was stopped encodes at most so many again; "
        "None: 512 MB of them, fewer in a small folder", low=1,
    )  # fmt: skip
    batch_size: int = setting(16, "clips that a device encodes together", low=1)
    num_threads: int = setting(1, "threads that decode video", low=1)
    dtype: Dtype = setting("float32", "compute type; bfloat16 suits accelerators")
    seed: int = setting(0, "of the random structure levels", low=0, high=MAX_SEED)


# ---- the pipeline


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The noise schedule; see gen1_jax/diffusion/process.py."""

    zero_terminal_snr: bool = setting(False, "as in training")
    prediction_type: Literal["v_prediction", "epsilon", "sample"] | None = setting(
        None, "as in training; None: v_prediction"
    )
    num_timesteps: int | None = setting(None, "timesteps T of training; None: 1000", low=1)
    beta_start: float | None = setting(None, "first β; None: 0.00085", low=0, high=1)
    beta_end: float | None = setting(None, "last β; None: 0.012", low=0, high=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorSampling:
    """How the prior is sampled."""

    num_steps: int = setting(25, "steps of the prior", low=1)
    guidance_scale: float = setting(4.0, "guidance of the prior; 4: Karlo's own")
    clamp: float | None = setting(
        None, "bound of the predicted standardised embedding; None: the prior's own", low=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """What `gen1 edit` reads in gen1.json."""

    schedule: Schedule = setting(Schedule(), "noise schedule")
    spacing: Literal["leading", "trailing"] = setting("leading", "of DDIM's timesteps")
    size: Size | None = setting(
        None, "(height, width) of frames in training, in pixels; None: those of `data`", low=1
    )
    num_frames: int | None = setting(None, "frames of a clip in training; None: as `data`", low=1)
    sizes: tuple[Size, ...] | None = setting(
        None,
        "(height, width) of all frames in training, those of clips first, then those of images; "
        "None: as `data`",
        low=1,
    )
    stride: int | None = setting(
        None, "source frames from one frame of a clip in training to the next; None: as `data`",
        low=1,
    )  # fmt: skip
    frame_rate: float | None = setting(
        None,
        "frames a second of the videos in training, their median; None: as `data`, or not known",
        low=0,
    )
    guidance_scale: float = setting(7.5, "ω where a user gives none")
    prior: PriorSampling = setting(PriorSampling(), "how the prior is sampled")
    structure: Mapping[str, Any] | None = setting(
        None, "what the structure is made of; None: as in the UNet's training data"
    )
    depth: Mapping[str, Any] | None = setting(
        None, "how depth is estimated; None: as in the UNet's training data"
    )
    structure_drop_rate: float | None = setting(
        None, "share of training examples without structure; None: as in the UNet's training",
        low=0, high=1,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Gathers the models into one folder for `gen1 edit`."""

    kind: Literal["pipeline"] = required("what the part does")
    folders: Mapping[Literal["unet", Encoder], str] = required("model folder of each part")
    tokenizer: str = setting("../tokenizer", "folder of the tokenizer")
    data: Mapping[str, Any] | None = setting(
        None, "encoded clips whose sizes, length and pace are those of training"
    )
    settings: PipelineSettings = required("written to gen1.json, which `gen1 edit` reads")


# ---- the world, its captions, and parts from elsewhere


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Renders the moving-shapes data set."""

    kind: Literal["world"] = required("what the part does")
    builder: str = required("size of the world, by its name: test, demo or tiny")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Learns a tokenizer from the captions of the world."""

    kind: Literal["tokenizer"] = required("what the part does")
    world: str = setting("../world", "folder of the world, whose training captions are read")
    builder: str = required("size of the world, by its name: test, demo or tiny")
    vocab_size: int = required("tokens that may be learnt, at most", low=1)
    context_length: int = required("tokens of a caption", low=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """Comes from elsewhere; a run checks that it is there."""

    kind: Literal["given"] = required("what the part does")
    holds: str = required("file that must be there, from the part's folder")
    made_by: str = required("the command that makes it")
    model: Mapping[str, Any] | None = setting(None, "its network, for `gen1 compile`")
    context_length: int | None = setting(None, "tokens of a caption, for `gen1 compile`", low=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Edits held-out clips of the world and measures the edits."""

    kind: Literal["evaluation"] = required("what the part does")
    pipeline: str = setting("../pipeline", "pipeline folder")
    world: str = setting("../world", "folder of the world")
    builder: str = required("size of the world, by its name: test, demo or tiny")
    split: str = setting("test", "split whose clips are edited")
    num_clips: int = setting(64, "clips that are edited at every setting", low=1)
    structure_level: tuple[int, ...] = setting(
        (0,), "values of t_s; one control varies, the others keep their first", low=0, high=7
    )
    temporal_scale: tuple[float, ...] = setting((1.0,), "values of ω_t")
    guidance_scale: tuple[float, ...] = setting((2.0,), "values of ω")
    num_steps: int = setting(20, "DDIM steps", low=1)
    batch_size: int = setting(16, "clips edited together", low=1)
    num_pictured: int = setting(8, "clips on the contact sheet", low=1)
    seed: int = setting(
        0, "of the noise, and of the colours that the prompts ask for", low=0, high=MAX_SEED
    )


KINDS = {
    "train": Training,
    "encode": Encoding,
    "pipeline": Pipeline,
    "world": World,
    "tokenizer": Tokenizer,
    "given": Given,
    "evaluation": Evaluation,
}
