"""What a config leaves open: models like those they start from, and parts that do not fit."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from encoded_files import write_folder
from footage_files import write_footage
from public_models import SD_2, UNET, VAE

from gen1_jax.aot.programs import batch_shapes
from gen1_jax.config import load_config, resolve_paths
from gen1_jax.configs import own
from gen1_jax.data_pipelines.sources import make_stream
from gen1_jax.errors import UserError
from gen1_jax.models.config import list_fields
from gen1_jax.resolve import (
    check_encoding,
    describe_models,
    resolve_planned,
    resolve_training,
)
from gen1_jax.tokenizer import train_tokenizer
from gen1_jax.trained_on import resolve_pipeline
from gen1_jax.weights.folder import module_from_config, param_template
from gen1_jax.weights.merge import plan_merge

STAGES = ("image", "video", "structure", "blur")
WIDTH = 5  # of the image embeddings in the encoded clips of test_encoded.py
TOWER = {"hidden_size": WIDTH, "intermediate_size": 4, "num_hidden_layers": 1}
TOWER |= {"num_attention_heads": 1}
# Public checkpoints of two makes, as their config.json says them.
UNETS = {
    "SD 1": UNET | {"cross_attention_dim": WIDTH, "_class_name": "UNet2DConditionModel"},
    "SD 2": UNET
    | SD_2
    | {"cross_attention_dim": WIDTH, "_class_name": "UNet2DConditionModel"}
    | {"_diffusers_version": "0.8.0", "dual_cross_attention": False, "num_class_embeds": None},
}


def write_model(run: Path, part: str, config: dict) -> None:
    """Writes what is read of a model before a run starts; the weights are not."""
    folder = run / part / "model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))


def change(run: Path, part: str, **changes) -> None:
    path = run / part / "model" / "config.json"
    write_model(run, part, json.loads(path.read_text()) | changes)


@pytest.fixture(scope="module", params=UNETS)
def made(request, tmp_path_factory):
    """A run of configs/own.py before its first stage: what was imported, and encoded clips."""
    run = tmp_path_factory.mktemp("run")
    write_model(run, "unet", UNETS[request.param])
    write_model(run, "autoencoder", VAE | {"_class_name": "AutoencoderKL"})
    vision = TOWER | {"image_size": 8, "patch_size": 4}
    text = TOWER | {"vocab_size": 60, "max_position_embeddings": 7}
    clip = {"model_type": "clip", "text_config": text, "vision_config": vision}
    write_model(run, "clip", clip | {"projection_dim": WIDTH})
    for name in ("clips/train", "clips/validation", "images_12x12/train"):
        write_folder(run / "encoded" / name)
    train_tokenizer(["a red ball"], run / "tokenizer", context_length=7)
    return run


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def load(run: Path, part: str, *overrides: str):
    return resolve_paths(load_config(f"own:{part}", overrides), run / part)


def resolve(run: Path, part: str, *overrides: str):
    return resolve_training(load(run, part, *overrides))


def test_the_stages_take_every_width_from_the_checkpoint(run):
    """Each starts from the one before by its patterns alone, and its data are found."""
    before = json.loads((run / "unet" / "model" / "config.json").read_text())
    for stage, (channels, temporal) in zip(
        STAGES, ((4, False), (4, True), (12, True), (12, True)), strict=True
    ):
        config = resolve(run, stage)
        there, here = module_from_config(before), module_from_config(config.model.to_dict())
        assert (here.in_channels, here.temporal) == (channels, temporal)
        changed = {k for k, v in list_fields(here).items() if v != list_fields(there)[k]}
        assert changed <= {"in_channels", "temporal", "max_frames"}
        merge = config.merge.to_dict()
        report = plan_merge(param_template(here), param_template(there), **merge)
        assert bool(report.new) == (stage == "video") and not report.dropped
        assert bool(report.widened) == (stage == "structure")
        structure = ("structure", "structure_level") if channels == 12 else ()
        assert config.data.fields == ("latents", "latents_logvar", *structure, "content")
        assert config.data.num_frames == 4 and config.data.buckets == ((6, 6),)
        assert config.data.image_fraction == (1.0 if stage == "image" else 0.125)
        assert "like" not in config.model
        json.dumps(config.to_dict())  # as the run's config.json records it
        before = config.model.to_dict()
        write_model(run, stage, before)


def test_a_prior_takes_its_widths_from_clip(run):
    config = resolve(run, "prior")
    assert (config.model.embedding_dim, config.model.num_embeddings) == (WIDTH, 7)
    assert config.data.fields == ("content", "tokens")
    assert module_from_config(config.model.to_dict()).embedding_dim == WIDTH


def test_a_prior_reads_the_empty_text_of_the_tokenizer_that_encoded_the_captions(run):
    with pytest.raises(UserError, match="no tokenizer in .*nowhere; accepted: a folder with"):
        resolve(run, "prior", f"tokenizer={run / 'nowhere'}")
    train_tokenizer(["a red ball"], run / "tokenizer", context_length=8)
    with pytest.raises(UserError, match="makes texts of 8 tokens, and .*encoded holds texts of 7;"):
        resolve(run, "prior")
    for meta in (run / "encoded").rglob("meta.json"):  # encoded without captions
        known = json.loads(meta.read_text())
        known["fields"].pop("tokens")
        meta.write_text(json.dumps(known))
    for widths in ((), ("model.embedding_dim=5", "model.num_embeddings=7")):
        with pytest.raises(UserError, match="prior: the encoded data hold no captions, which a"):
            resolve(run, "prior", *widths)


def test_the_pipeline_takes_its_sizes_from_the_encoded_clips(run):
    with pytest.warns(UserWarning, match="the pace of training is not known, .* earlier version"):
        settings = resolve_pipeline(load(run, "pipeline")).settings
    assert settings.to_dict()["size"] == (12, 12) and settings.num_frames == 4
    assert "stride" not in settings
    sizes = ("settings.size=(8,8)", "settings.num_frames=3")
    given = load(run, "pipeline", *sizes, "settings.stride=1")
    assert resolve_pipeline(given).settings.to_dict()["size"] == (8, 8)


def test_the_pipeline_knows_the_pace_and_all_sizes_of_training(run):
    clips = run / "encoded" / "clips"
    for split in clips.iterdir():
        meta = json.loads((split / "meta.json").read_text())
        pace = {"stride": 4, "frame_rate": 25.0}
        (split / "meta.json").write_text(json.dumps(meta | {"pace": pace}))
    settings = resolve_pipeline(load(run, "pipeline")).settings
    assert (settings.stride, settings.frame_rate, settings.sizes) == (4, 25.0, ((12, 12),))
    portrait = load(run, "pipeline", "data.image_buckets=((8,6),)")
    assert resolve_pipeline(portrait).settings.sizes == ((12, 12), (16, 12))
    given = load(run, "pipeline", "settings.stride=2")
    assert resolve_pipeline(given).settings.stride == 2
    # With the size and the length given, data that are gone cost the pace alone.
    shutil.rmtree(run / "encoded")
    with pytest.raises(UserError, match="holds no encoded clips"):
        resolve_pipeline(load(run, "pipeline"))
    given = load(run, "pipeline", "settings.size=(8,8)", "settings.num_frames=3")
    with pytest.warns(UserWarning, match="the pace of training is not known, so edits take"):
        assert "stride" not in resolve_pipeline(given).settings


def record(folder: Path, **keys: dict) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.filterwarnings("ignore:the pace of training")
def test_depth_is_estimated_in_edits_as_in_the_training_data(run):
    """Encoded data say how; a part's config.json carries it to the pipeline."""

    def depth_of(pipeline):
        settings = resolve_pipeline(pipeline).settings.to_dict()
        assert settings["structure"]["extractor"] == "depth"
        return settings["depth"]

    pipeline, image = load(run, "pipeline"), resolve(run, "image")
    unrecorded = {"resizing": "shorter_side", "range": [0.0, 1.0]}
    assert image.depth.to_dict() == unrecorded
    assert depth_of(pipeline) == unrecorded
    depth = {"resizing": "minimal", "range": [0.02, 0.98]}
    record(run / "encoded" / "clips" / "train", depth=depth)
    with pytest.raises(UserError, match="images_12x12.*one way is accepted for all"):
        resolve(run, "image")
    record(run / "encoded" / "images_12x12" / "train", depth=depth)
    assert resolve(run, "image").depth.to_dict() == depth
    assert depth_of(pipeline) == depth
    with pytest.raises(UserError, match=r"encoded before, differ: .*range .*0.5.* and .*0.98"):
        resolve(run, "image", "depth.range=0,0.5")
    # What the UNet was trained on goes before what the encoded data are by now.
    trained = run / "blur" / "config.json"
    trained.parent.mkdir()
    for saved in (image.to_dict(), {"data": {"form": "raw"}}):  # the latter of an earlier version
        trained.write_text(json.dumps(saved))
        assert depth_of(pipeline) == unrecorded
    with pytest.raises(UserError, match="depth.range is .*the lower quantile comes first"):
        resolve_pipeline(load(run, "pipeline", "settings.depth={'range': (0.9, 0.1)}"))


@pytest.mark.filterwarnings("ignore:the pace of training")
def test_what_structure_is_made_of_goes_from_the_data_to_the_pipeline(run):
    """By its present name and by the earlier one, with what was dropped in training."""
    folders = [run / "encoded" / name / "train" for name in ("clips", "images_12x12")]
    older = {"resizing": "minimal", "range": [0.01, 0.99], "map": "edges", "degrading": "noise"}
    edges = {"extractor": "edges", "version": 1, "degrading": "noise"}
    canny = {"extractor": "canny", "version": 1, "degrading": "blur"}
    for keys, wanted in (({"depth": older}, edges), ({"structure": canny}, canny)):
        for folder in folders:
            record(folder, **{"depth": {}} | keys)
        assert resolve(run, "image").structure.to_dict() == wanted
        settings = resolve_pipeline(load(run, "pipeline")).settings
        assert settings.structure.to_dict() == wanted
        assert set(settings.depth) == {"resizing", "range"} and not settings.structure_drop_rate
    with pytest.raises(UserError, match="differ: structure.extractor flow and canny"):
        resolve(run, "image", "structure.extractor=flow")
    with pytest.raises(UserError, match="'canny' and depth.map, its older name, is 'edges'"):
        resolve(run, "image", "structure.extractor=canny", "depth.map=edges")
    trained = run / "blur" / "config.json"
    trained.parent.mkdir()
    saved = resolve(run, "image").to_dict() | {"loss": {"structure_drop_rate": 0.25}}
    trained.write_text(json.dumps(saved))
    settings = resolve_pipeline(load(run, "pipeline")).settings
    assert settings.structure_drop_rate == 0.25 and settings.structure.extractor == "canny"


def test_another_form_of_data_takes_its_encoders_from_the_run(run, tmp_path):
    """`--set data.form=footage data.folder=…` is all that a stage needs to read frames."""
    folder = write_footage(tmp_path / "footage")
    overrides = ("data.form=footage", f"data.folder={folder}")
    with pytest.raises(UserError, match="encoders vae, clip and depth, and frozen has no depth"):
        resolve(run, "image", *overrides)
    write_model(run, "depth", {"model_type": "dpt"})
    config = resolve(run, "image", *overrides)
    assert config.frozen.to_dict() == {
        name: str(run / folder / "model")
        for name, folder in (("vae", "autoencoder"), ("clip", "clip"), ("depth", "depth"))
    }
    assert config.data.fields == ("frames", "structure_level", "content_frame")
    assert (config.data.num_frames, config.data.buckets) == (4, ((32, 48),))
    assert make_stream(config.data, 0)
    change(run, "clip", projection_dim=3)
    with pytest.raises(UserError, match="is 5, and image embeddings of .*clip/model have 3"):
        resolve(run, "image", *overrides)


def test_a_model_may_be_like_any_folder_and_start_at_random(run):
    like = f"model.like={run / 'unet' / 'model'}"
    config = resolve(run, "video", "init_from=", like, "model.block_out_channels=(16,32)")
    module = module_from_config(config.model.to_dict())
    assert module.block_out_channels == (16, 32) and module.temporal


def test_a_run_that_began_needs_no_model_to_start_from(run):
    begun = resolve(run, "image").model.to_dict()
    shutil.rmtree(run / "unet")
    config = resolve_training(load(run, "image"), begun=begun)
    assert config.model.to_dict() == begun


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("part", "overrides", "says"),
    [
        ("image", ["init_from=../gone/model"], "image starts from .*run/gone/model: no model"),
        ("image", ["init_from="], "model.like is 'init_from', but init_from is empty"),
        ("image", ["model.in_chanels=4"], "in_chanels=4; accepted keys"),
        ("image", ["model.norm_num_groups=3"], "norm_num_groups=3; accepted: divisors"),
        ("image", ["init_from=../clip/model"], "UNet, not a CLIPModel"),
        ("image", ["init_from=../autoencoder/model"], "UNet, not a AutoencoderKL"),
        ("image", ["data.folder=../gone"], "holds no encoded .*gen1 precompute --config"),
        ("image", ["data.fields=latents"], "lacks latents_logvar, content, which .*accepted: "),
        (
            "image",
            ["loss.latents_drawn=true", "data.fields=latents,content"],
            "lacks latents_logvar, which objective diffusion reads",
        ),
        ("image", ["model.layers_per_block=2"], "not the model of this config: layers_per_block 1"),
        (
            "video",
            ["init_from=../unet/model", "merge.new=()"],
            "not the model of this config: temporal False there, True here",
        ),
        (
            "structure",
            ["init_from=../unet/model", "merge.widened=()", "model.temporal=False"],
            "config: in_channels 4 there, 12 here;",
        ),
        (
            "video",
            ["init_from=../unet/model", "model.max_frames=3"],
            "clips have 4 frames, and the model's max_frames is 3",
        ),
        (
            "video",
            ["init_from=../unet/model", "loss.random_positions=False"],
            "max_frames is 32, and clips of 4 frames train no .*random_positions=true, or .*=4$",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(run, part, overrides, says):
    with pytest.raises(UserError, match=says) as error:
        resolve(run, part, *overrides)
    one_line(error)


def test_another_checkpoint_names_the_fields_that_differ(run):
    """The paper's config has the sizes of Stable Diffusion 1.5."""
    config = load_config("paper:image")
    with pytest.raises(UserError, match="block_out_channels.*cross_attention_dim 5 there, 768"):
        resolve_training(resolve_paths(config, run / "image"))


def test_widths_of_clip_and_unet_are_compared(run):
    change(run, "unet", cross_attention_dim=1024)
    with pytest.raises(UserError, match="is 1024, and image embeddings of .* have 5 .*ViT-H-14"):
        resolve(run, "image")
    with pytest.raises(UserError, match="is 1024, and image embeddings of .*clip/model have 5"):
        check_encoding(load(run, "encoded"))
    change(run, "unet", cross_attention_dim=WIDTH)
    check_encoding(load(run, "encoded"))
    change(run, "autoencoder", latent_channels=16)
    with pytest.raises(UserError, match="of 4 channels, and those of .* have 16"):
        check_encoding(load(run, "encoded"))


# ---- without a run: what a config says of itself


def test_parts_describe_each_other_without_their_folders(run):
    """As `gen1 compile` and `gen1 plan` read them, from the files of a run as far as it is made."""

    def load_own(part):
        return load_config(f"own:{part}")

    whole = resolve_planned(load_own("blur"), load_own, run / "blur")
    assert (whole.model.in_channels, whole.model._class_name) == (12, "VideoUNet")
    assert batch_shapes(whole, images=False).structure.shape == (4, 4, 6, 6, 4)
    models = describe_models(whole.frozen, load_own, run / "blur")
    assert models["vae"]["_class_name"] == "AutoencoderKL"
    given = ["data.num_frames=2", "data.buckets=((4,4),)"]
    shutil.rmtree(run / "encoded")
    said = resolve_planned(load_config("own:blur", given), load_own, run / "blur")
    assert batch_shapes(said, images=False).structure.shape == (4, 2, 4, 4, 4)
    for overrides, workdir, says in (
        ([], run / "blur", "data.num_frames and data.buckets are left to .*gen1 precompute"),
        (given, None, r"no \.\./unet/model/config.json.*gen1 import --unet.*--workdir"),
    ):
        with pytest.raises(UserError, match=says) as error:
            resolve_planned(load_config("own:blur", overrides), load_own, workdir)
        one_line(error)
    with pytest.raises(UserError, match=r"no \.\./autoencoder/model/config.json"):
        describe_models(load_own("blur").frozen, load_own)
    paper = resolve_planned(load_config("paper:blur"), lambda part: load_config(f"paper:{part}"))
    assert paper.data.to_dict() == load_config("paper:blur").data.to_dict()


def test_own_has_the_paper_s_order_of_parts():
    assert list(own.PARTS)[-5:] == [*STAGES, "pipeline"]
    # A batch of images has as many frames as one of clips of eight frames.
    assert own.IMAGES == 8 * own.CLIPS
    assert np.prod(jax.tree.leaves(own.STEPS)) > 0
