"""Gen-1 at the paper's sizes on Stable Diffusion 2.1 and OpenCLIP ViT-H/14, 1024 wide.

    gen1 import -o runs/paper_vit_h \\
      --unet stabilityai/stable-diffusion-2-1-base/unet \\
      --vae stabilityai/stable-diffusion-2-1-base/vae \\
      --clip laion/CLIP-ViT-H-14-laion2B-s32B-b79K --depth Intel/dpt-large
    gen1 ingest clips SRC --size 256x448 --num-frames 8 --stride 4 --out runs/paper_vit_h/footage
    gen1 ingest images SRC --out runs/paper_vit_h/footage
    gen1 precompute --config paper_vit_h:encoded --workdir runs/paper_vit_h/encoded
    gen1 train --config paper_vit_h:prior --workdir runs/paper_vit_h/prior
    gen1 train --config paper_vit_h:image --workdir runs/paper_vit_h/image  # video, structure, blur

The UNet reads image embeddings as wide as its cross-attention: 1024 in Stable Diffusion 2.x, those
of ViT-H/14. No public prior has this width, so `prior` is trained. All else is configs/paper.py's.

Hardware: that of configs/paper.py.
Result: not known; this project has not trained it.
"""

from ml_collections import ConfigDict

from gen1_jax.configs import base, paper

WIDTH = 1024  # of an image embedding
STABLE_DIFFUSION = "stabilityai/stable-diffusion-2-1-base"
CLIP = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
# What Stable Diffusion 2.x's UNet has in place of 1.5's 8 heads: heads of 64 channels.
UNET = {
    "cross_attention_dim": WIDTH,
    "attention_head_dim": (5, 10, 20, 20),  # number of heads at each resolution
    "use_linear_projection": True,
}


def widened(config: ConfigDict) -> ConfigDict:
    """Returns the config of a UNet, or of a stage, with the network of Stable Diffusion 2.x."""
    config.model = ConfigDict({**config.model.to_dict(), **UNET})
    return config


def unet() -> ConfigDict:
    model = {**paper.unet(temporal=False, structured=False), **UNET}
    return paper.imported("--unet", f"{STABLE_DIFFUSION}/unet", model)


def autoencoder() -> ConfigDict:
    model = paper.autoencoder().model.to_dict()
    return paper.imported("--vae", f"{STABLE_DIFFUSION}/vae", model)


def clip() -> ConfigDict:
    model = {
        "model_type": "clip",
        "projection_dim": WIDTH,
        "text_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            # As published. An eos_token_id of 2 says: the largest id ends a text.
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        "vision_config": {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
            "image_size": 224,
            "patch_size": 14,
        },
    }
    return paper.imported("--clip", CLIP, model)


def tokenizer() -> ConfigDict:
    config = paper.tokenizer()
    config.made_by = f"gen1 import --clip {CLIP} -o RUN"
    return config


def prior() -> ConfigDict:
    return paper.prior(embedding_dim=WIDTH)


def image() -> ConfigDict:
    return widened(paper.image())


def video() -> ConfigDict:
    return widened(paper.video())


def structure() -> ConfigDict:
    return widened(paper.structure())


def blur() -> ConfigDict:
    return widened(paper.blur())


OWN = (unet, autoencoder, clip, tokenizer, prior, image, video, structure, blur)
PARTS = paper.PARTS | {part.__name__: part for part in OWN}


def get_config(part: str = "all") -> ConfigDict:
    """Returns one part's config or, for `all`, the list of parts."""
    return base.choose(PARTS, part)
