"""Checks of an exported pipeline's models: moved between devices, saved, loaded, trained."""

import json
from functools import partial
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers.pipelines import pipeline_utils
from exported_alone import FOLDER, GIVEN, edit, load

# ---- moving models between devices


class Away:
    """As accelerate's `AlignDevicesHook`: a module has its tensors while `forward` runs only."""

    execution_device = torch.device("cpu")

    def __init__(self, module):
        self.tensors = {name: p for name, p in module._parameters.items() if p is not None}
        self.handles = [
            module.register_forward_pre_hook(self.pre_forward),
            module.register_forward_hook(lambda module, args, out: self.post_forward(module, out)),
        ]
        module._hf_hook = self
        self.post_forward(module, None)

    def pre_forward(self, module, *args):
        module._parameters.update(self.tensors)

    def post_forward(self, module, output):
        for name, p in self.tensors.items():
            module._parameters[name] = torch.nn.Parameter(p.to("meta"), requires_grad=False)
        return output


def offloading(pipe):
    """Tensors are read while their module's `forward` runs, for which hooks of offloading wait.

    The autoencoder's `encode` and `decode` call such a hook themselves.
    """
    pipe = load()
    picture = {"prompt": None, "image": GIVEN["frames"][0]}
    want = [edit(pipe), edit(pipe, **picture)]
    models = {name: x for name, x in pipe.components.items() if isinstance(x, torch.nn.Module)}
    calls = dict.fromkeys(models, 0)

    def count(name, *_):
        calls[name] += 1

    for name, model in models.items():
        for module in model.modules():
            Away(module)
        model.register_forward_pre_hook(partial(count, name))
    got = [edit(pipe), edit(pipe, **picture)]
    for a, b in zip(got, want, strict=True):
        assert np.array_equal(a.frames, b.frames)
    assert {name for name, number in calls.items() if not number} == {"vae"}, calls


# ---- saving


class Hub:
    """Stands for the hub: remembers which files a folder held when it was uploaded."""

    repo_id = "a/b"

    def __init__(self, *args, **options):
        pass


def saving(pipe):
    """A pipeline with a compiled UNet is saved whole before it is uploaded, and loads again."""
    want = edit(pipe).frames
    uploaded = {}

    def upload(self, folder, *args, **options):
        files = (path for path in Path(folder).rglob("*") if path.is_file())
        uploaded.update({str(path.relative_to(folder)): path.read_bytes() for path in files})

    pipe = load()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    pipeline_utils.create_repo = Hub
    pipeline_utils.load_or_create_model_card = lambda *args, **options: None
    pipeline_utils.populate_model_card = lambda card: Card()
    type(pipe)._upload_folder = upload
    pipe.save_pretrained("resaved", push_to_hub=True)
    sources = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.py"))
    assert len(sources) == 8
    for name in sources:
        assert uploaded[name] == (FOLDER / name).read_bytes(), name
    index = json.loads(uploaded["model_index.json"])
    original = json.loads((FOLDER / "model_index.json").read_text())
    apart = {"_name_or_path", "_diffusers_version"}
    assert {k: v for k, v in index.items() if v is not None and k not in apart} == {
        k: v for k, v in original.items() if k not in apart
    }
    assert np.array_equal(edit(load("resaved")).frames, want)


class Card:
    def save(self, path):
        Path(path).write_text("a card")


def variants_and_types(pipe):
    half = load(torch_dtype=torch.bfloat16)
    assert half.unet.dtype == half.vae.dtype == half.prior.dtype == torch.bfloat16
    assert np.isfinite(edit(half, output_type="np").frames).all()
    half.save_pretrained("half", variant="bf16", max_shard_size="20KB")
    weights = sorted(path.name for path in Path("half/unet").glob("*.safetensors"))
    assert len(weights) > 1 and all(".bf16" in name for name in weights)
    again = load("half", variant="bf16", torch_dtype=torch.bfloat16)
    assert np.array_equal(edit(again).frames, edit(half).frames)


# ---- the parts


def stock_classes(pipe):
    for part, library, kind in (
        ("vae", diffusers, "AutoencoderKL"),
        ("prior", diffusers, "PriorTransformer"),
        ("image_encoder", transformers, "CLIPVisionModelWithProjection"),
        ("text_encoder", transformers, "CLIPTextModelWithProjection"),
        ("depth_estimator", transformers, "DPTForDepthEstimation"),
    ):
        cls = getattr(library, kind)
        _, info = cls.from_pretrained(FOLDER / part, output_loading_info=True)
        assert not any(info.values()), (part, info)
    cls = diffusers.UNet2DConditionModel  # the spatial part, from the same folder
    _, info = cls.from_pretrained(FOLDER / "unet", output_loading_info=True)
    temporal = [name for name in info.pop("unexpected_keys") if "temporal" in name]
    assert temporal and not any(info.values()), info


def training_and_compiling(pipe):
    """The UNet compiles to one graph, and gradient checkpointing does not change the gradients."""
    unet = load().unet
    torch.manual_seed(0)
    width = unet.config.cross_attention_dim
    sample, context = torch.randn(1, 3, 4, 8, 8, 12), torch.randn(1, 3, 1, width)
    args = (sample, torch.tensor([300]), context)

    def gradients():
        unet.zero_grad()
        unet(*args, num_video_branches=2).square().mean().backward()
        return [p.grad.clone() for p in unet.parameters() if p.grad is not None]

    plain = gradients()
    unet.enable_gradient_checkpointing()
    for a, b in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(a, b)
    unet.disable_gradient_checkpointing()
    with torch.no_grad():
        want = unet(*args, num_video_branches=2)
        compiled = torch.compile(unet, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(*args, num_video_branches=2), want)
