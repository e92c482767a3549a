"""LoRA files: peft's layout, merged as peft and diffusers merge them; other models' are refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_unet import drawn_params, flat, tiny

from gen1_jax.errors import UserError
from gen1_jax.training.lora import LoraModule, merge_factors
from gen1_jax.weights.lora import FILE, merge_loras, read_lora, split_lora, write_lora
from gen1_jax.weights.naming import params_to_state_dict

MODULE = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
RANK = 2


@pytest.fixture(scope="module")
def adapted():
    """Parameters of a UNet with drawn factors; none is zero."""
    return drawn_params(LoraModule(tiny(), RANK))


@pytest.fixture
def folder(tmp_path, adapted):
    write_lora(tmp_path / "lora" / FILE, split_lora(adapted)[1])
    return tmp_path / "lora"


def test_the_layout_is_pefts_as_diffusers_saves_it(folder, adapted):
    """Both factors of all spatial attention, but for q and k of the one content token."""
    tensors = load_file(folder / FILE)
    network = params_to_state_dict(split_lora(adapted)[0])
    kernels = [
        key.removesuffix(".weight")
        for key in network
        if ".attn" in key
        and "temporal" not in key
        and key.endswith(".weight")
        and not ("attn2" in key and ("to_q" in key or "to_k" in key))
    ]
    assert len(kernels) > 8
    assert set(tensors) == {f"unet.{k}.lora_{x}.weight" for k in kernels for x in "AB"}
    for kernel in kernels:
        out, inner = network[f"{kernel}.weight"].shape
        assert tensors[f"unet.{kernel}.lora_A.weight"].shape == (RANK, inner)
        assert tensors[f"unet.{kernel}.lora_B.weight"].shape == (out, RANK)


def test_a_merged_file_is_what_the_training_computed(folder, adapted):
    network, _ = split_lora(adapted)
    merged = flat(merge_loras(network, [(folder / FILE, 1.0)]))
    wanted = flat(merge_factors(adapted))
    assert merged.keys() == wanted.keys()
    for name, array in merged.items():
        np.testing.assert_allclose(array, wanted[name], atol=1e-6)


def test_several_add_up_by_their_weights(folder, adapted):
    network, _ = split_lora(adapted)
    once = flat(merge_loras(network, [(folder, 0.75)]))
    twice = flat(merge_loras(network, [(folder, 1.0), (folder, -0.25)]))
    before = flat(network)
    changed = [name for name in once if not np.array_equal(once[name], before[name])]
    assert all("/attentions_" in name and name.endswith("kernel") for name in changed) and changed
    for name in once:
        np.testing.assert_allclose(once[name], twice[name], atol=1e-6)
    kernel = f"{MODULE.replace('.', '/').replace('s/0', 's_0')}/kernel"
    tensors = load_file(folder / FILE)
    a, b = (tensors[f"unet.{MODULE}.lora_{x}.weight"] for x in "AB")
    np.testing.assert_allclose(once[kernel] - before[kernel], 0.75 * (b @ a).T, atol=1e-5)


def test_alpha_counts_wherever_it_is_written(folder, tmp_path):
    """As a tensor, in diffusers' metadata, and in peft's own two files."""
    tensors = load_file(folder / FILE)
    alphas = {f"unet.{MODULE}.alpha": np.array(1.0, np.float32)}
    save_file(tensors | alphas, tmp_path / "alpha.safetensors")
    settings = {"lora_alpha": 6, "r": RANK, "alpha_pattern": {MODULE: 1}}
    packed = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in settings.items()})}
    save_file(tensors, tmp_path / "packed.safetensors", metadata=packed)
    plain = {name.replace("unet.", "base_model.model."): x for name, x in tensors.items()}
    (tmp_path / "peft").mkdir()
    save_file(plain, tmp_path / "peft" / "adapter_model.safetensors")
    (tmp_path / "peft" / "adapter_config.json").write_text(
        json.dumps({**settings, "use_rslora": True})
    )
    for path, own, others in (
        (folder, 1.0, 1.0),
        (tmp_path / "alpha.safetensors", 1 / RANK, 1.0),
        (tmp_path / "packed.safetensors", 1 / RANK, 6 / RANK),
        (tmp_path / "peft", RANK**-0.5, 6 * RANK**-0.5),
    ):
        scales = {module: change.scale for module, change in read_lora(path).items()}
        assert scales.pop(MODULE) == pytest.approx(own), path
        assert list(scales.values()) == pytest.approx([others] * len(scales)), path


def test_a_lora_of_another_model_names_the_first_misfit(folder, adapted, tmp_path):
    network, _ = split_lora(adapted)
    tensors = load_file(folder / FILE)
    wide = f"unet.{MODULE}.lora_A.weight"
    cases = {
        "wide": (tensors | {wide: np.zeros((RANK, 7), np.float32)}, "attn2.to_v, whose kernel"),
        "absent": ({"unet.x.lora_A.weight": tensors[wide], "unet.x.lora_B.weight":
                    tensors[wide].T}, "it changes x, which this UNet lacks"),
        "half": ({wide: tensors[wide]}, "has lora_A"),
        "kohya": ({"lora_unet_x.lora_down.weight": tensors[wide]}, "holds lora_unet_x"),
        "conv": ({wide: tensors[wide][..., None, None]}, "accepted: factors of matrices"),
        "empty": ({}, "holds no LoRA"),
    }  # fmt: skip
    for name, (content, said) in cases.items():
        file = tmp_path / f"{name}.safetensors"
        save_file(content, file)
        with pytest.raises(UserError, match=said):
            merge_loras(network, [(file, 1.0)])
    (tmp_path / "cut.safetensors").write_bytes(b"no file of tensors")
    for path, said in (
        (tmp_path / "missing", "no such file"),
        (tmp_path, f"has no {FILE}"),
        (tmp_path / "cut.safetensors", "no whole safetensors file"),
    ):
        with pytest.raises(UserError, match=said):
            merge_loras(network, [(path, 1.0)])


def test_diffusers_computes_the_same_on_the_exported_unet(folder, adapted):
    """`load_lora_adapter` and our merged kernels give one output; the LoRA changes it."""
    pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    from gen1_jax.weights.pytorch.video_unet import VideoUNet

    network, _ = split_lora(adapted)

    def load(params):
        tensors = {k: torch.from_numpy(x) for k, x in params_to_state_dict(params).items()}
        module = VideoUNet(**{k: v for k, v in tiny().to_config().items() if k[0] != "_"})
        module.load_state_dict(tensors)
        return module

    inputs = (torch.randn(1, 2, 3, 4, 4, 4), torch.tensor([7]), torch.randn(1, 2, 1, 6))
    adapter = load(network)
    before = adapter(*inputs)
    adapter.load_lora_adapter(folder, prefix="unet", weight_name=FILE)
    with torch.no_grad():
        wanted = load(merge_loras(network, [(folder, 1.0)]))(*inputs)
        torch.testing.assert_close(adapter(*inputs), wanted, atol=1e-5, rtol=1e-5)
    assert (wanted - before).abs().max() > 0.1
