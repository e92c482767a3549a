"""Model folders: round trips, exchange with diffusers, and every way to fail."""

import importlib
import json
import os
import subprocess
import sys
import textwrap

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from gen1_jax import files
from gen1_jax.errors import UserError
from gen1_jax.models.autoencoder import AutoencoderKL
from gen1_jax.models.prior import PriorTransformer
from gen1_jax.pipeline import MODELS
from gen1_jax.weights import folder as folder_module
from gen1_jax.weights.folder import (
    init_params,
    load_model,
    module_from_config,
    param_template,
    save_model,
)
from gen1_jax.weights.naming import MismatchError

AUTOENCODER = AutoencoderKL(
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(8, 16),
    norm_num_groups=4,
)
PRIOR = PriorTransformer(
    num_attention_heads=2, attention_head_dim=8, num_layers=1, embedding_dim=12, num_embeddings=6
)
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


def random_params(module, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, param_template(module))


def assert_same(got, want):
    got, want = (traverse_util.flatten_dict(tree, sep="/") for tree in (got, want))
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].dtype == want[name].dtype, name
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def saved(tmp_path):
    save_model(tmp_path / "vae", AUTOENCODER, random_params(AUTOENCODER))
    return tmp_path / "vae"


@pytest.mark.parametrize("module", [AUTOENCODER, PRIOR], ids=["autoencoder", "prior"])
def test_save_load_save_is_bit_for_bit(tmp_path, module):
    params = random_params(module)
    save_model(tmp_path / "deep" / "a", module, params)
    loaded_module, loaded = load_model(tmp_path / "deep" / "a")
    assert loaded_module == module
    assert_same(loaded, params)
    save_model(tmp_path / "b", loaded_module, loaded)
    assert files_of(tmp_path / "b") == files_of(tmp_path / "deep" / "a")
    assert set(files_of(tmp_path / "b")) == {"config.json", WEIGHTS}


def test_device_arrays_and_half_precision_are_written_as_float32(tmp_path):
    params = jax.tree.map(lambda x: jax.numpy.asarray(x, "bfloat16"), random_params(PRIOR))
    save_model(tmp_path / "prior", PRIOR, params)
    tensors = load_file(tmp_path / "prior" / WEIGHTS)
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float32)}
    want = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    assert_same(load_model(tmp_path / "prior")[1], want)


@pytest.mark.parametrize("module", [AUTOENCODER, PRIOR], ids=["autoencoder", "prior"])
def test_diffusers_reads_ours_and_we_read_theirs(tmp_path, module):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    params = random_params(module)
    save_model(tmp_path / "ours", module, params)
    cls = getattr(diffusers, type(module).__name__)
    model, report = cls.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    stored = load_file(tmp_path / "ours" / WEIGHTS)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, torch.from_numpy(stored[name])), name
    model.save_pretrained(tmp_path / "theirs", max_shard_size="8KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    loaded_module, loaded = load_model(tmp_path / "theirs")
    assert loaded_module == module
    assert_same(loaded, params)


def test_transformers_layout_is_chosen_by_the_config(tmp_path):
    class Model(PriorTransformer):
        def to_config(self):
            return {"model_type": "clip", "architectures": ["CLIPModel"]}

    module = Model(**{name: getattr(PRIOR, name) for name in ("num_layers", "num_embeddings")})
    module = module.clone(num_attention_heads=2, attention_head_dim=8, embedding_dim=12)
    save_model(tmp_path / "clip", module, random_params(module))
    assert set(files_of(tmp_path / "clip")) == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_are_read_as_float32(saved, dtype):
    tensors = {name: array.astype(dtype) for name, array in load_file(saved / WEIGHTS).items()}
    save_file(tensors, saved / WEIGHTS)
    _, params = load_model(saved)
    want = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), random_params(AUTOENCODER))
    assert_same(params, want)


def test_compute_type_is_handed_to_the_module(saved):
    module, params = load_model(saved, dtype=jax.numpy.bfloat16)
    assert module.dtype == jax.numpy.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("part", MODELS.values(), ids=MODELS)
def test_every_kind_of_model_has_its_class(part):
    cls = getattr(importlib.import_module(part.module), part.kind)
    assert all(callable(getattr(cls, method)) for method in ("from_config", "to_config"))
    assert callable(cls.dummy_inputs)


def test_initial_parameters_are_those_of_init():
    params = init_params(PRIOR, jax.random.key(3))
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), params)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), param_template(PRIOR))
    again = init_params(PRIOR, jax.random.key(3))
    assert_same(params, again)


# ---- reading what is wrong


def rewrite_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(change(config)))


def fails(folder, message):
    with pytest.raises(UserError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def test_missing_folder(tmp_path):
    fails(tmp_path / "nowhere", "no model folder .*nowhere; give a folder")


def test_missing_config(saved):
    (saved / "config.json").unlink()
    fails(saved, "no config.json in .*vae")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "cannot read .*config.json"), ("[]", "object")]
)
def test_broken_config(saved, text, message):
    (saved / "config.json").write_text(text)
    fails(saved, message)


@pytest.mark.parametrize("config", [{}, {"_class_name": "AsymmetricAutoencoderKL"}])
def test_unknown_architecture(saved, config):
    rewrite_config(saved, lambda _: config)
    fails(saved, "kind (None|'AsymmetricAutoencoderKL'); accepted: VideoUNet, .*AutoencoderKL, ")
    with pytest.raises(UserError, match="config holds a model of kind"):
        module_from_config(config)


def test_unsupported_setting(saved):
    rewrite_config(saved, lambda config: config | {"act_fn": "mish"})
    fails(saved, "act_fn='mish'")


def test_missing_weights(saved):
    (saved / WEIGHTS).unlink()
    fails(saved, f"no weights in .*vae; accepted: {WEIGHTS} or model.safetensors")


def test_weights_that_are_no_safetensors(saved):
    (saved / WEIGHTS).write_bytes(b"<html>not found</html>" * 100)
    fails(saved, f"{WEIGHTS} is no whole safetensors file")


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_truncated_weights(saved, kept):
    content = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(content[:kept])
    fails(saved, f"{WEIGHTS} is no whole safetensors file")


def test_weights_of_another_architecture(saved, tmp_path):
    save_model(tmp_path / "prior", PRIOR, random_params(PRIOR))
    (saved / WEIGHTS).write_bytes((tmp_path / "prior" / WEIGHTS).read_bytes())
    error = fails(
        saved, r"do not fit its config.json \(AutoencoderKL\): \d+ missing .*\d+ unexpected"
    )
    assert len(error.missing) == len(jax.tree.leaves(param_template(AUTOENCODER)))


def test_weights_of_another_size(saved):
    rewrite_config(saved, lambda config: config | {"latent_channels": 8})
    error = fails(
        saved, r"of another shape .*quant_conv.weight is \[8, 8, 1, 1\], not \[16, 16, 1, 1\]"
    )
    assert not error.missing and not error.unexpected


def test_tensors_of_another_kind(saved):
    tensors = load_file(saved / WEIGHTS)
    name = "quant_conv.weight"
    save_file(tensors | {name: tensors[name].astype(np.float64)}, saved / WEIGHTS)
    fails(saved, f"{name} is F64; accepted: float32, float16, bfloat16")


def shard(saved):
    tensors = load_file(saved / WEIGHTS)
    names = sorted(tensors)
    half = len(names) // 2
    for file, part in (("a.safetensors", names[:half]), ("b.safetensors", names[half:])):
        save_file({name: tensors[name] for name in part}, saved / file)
    where = {name: "ab"[i >= half] + ".safetensors" for i, name in enumerate(names)}
    (saved / INDEX).write_text(json.dumps({"weight_map": where}))
    (saved / WEIGHTS).unlink()


def test_sharded_weights(saved):
    shard(saved)
    assert_same(load_model(saved)[1], random_params(AUTOENCODER))
    (saved / "b.safetensors").unlink()
    fails(saved, "b.safetensors is missing, but the index beside it lists it")


@pytest.mark.parametrize("index", ["{}", "[]"])
def test_empty_index(saved, index):
    shard(saved)
    (saved / INDEX).write_text(index)
    fails(saved, INDEX)


# ---- writing


def test_an_existing_model_is_replaced_whole(saved):
    (saved / "model.safetensors").write_bytes(b"left behind")
    params = random_params(PRIOR, seed=1)
    save_model(saved, PRIOR, params)
    assert set(files_of(saved)) == {"config.json", WEIGHTS}
    module, loaded = load_model(saved)
    assert module == PRIOR
    assert_same(loaded, params)
    assert list(saved.parent.iterdir()) == [saved]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "prior").mkdir()
    params = random_params(PRIOR)
    save_model(tmp_path / "prior", PRIOR, params)
    module, loaded = load_model(tmp_path / "prior")
    assert module == PRIOR
    assert_same(loaded, params)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="will not replace .* holds files but no config.json"):
        save_model(tmp_path, PRIOR, random_params(PRIOR))
    assert files_of(tmp_path) == {"thesis.txt": b"years of work"}
    with pytest.raises(UserError, match="it is a file; give a folder"):
        save_model(tmp_path / "thesis.txt", PRIOR, random_params(PRIOR))
    with pytest.raises(UserError, match="cannot write"):
        save_model(tmp_path / "thesis.txt" / "prior", PRIOR, random_params(PRIOR))
    assert files_of(tmp_path) == {"thesis.txt": b"years of work"}


def test_parameters_of_another_module_are_not_written(saved):
    before = files_of(saved)
    with pytest.raises(MismatchError, match="not those of AutoencoderKL: .* missing"):
        save_model(saved, AUTOENCODER, random_params(PRIOR))
    assert files_of(saved) == before


@pytest.mark.parametrize("where", ["write_tensors", "_swap"])
@pytest.mark.parametrize("existing", [True, False])
def test_a_full_disk_leaves_everything_as_it_was(saved, monkeypatch, where, existing):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    module = {"write_tensors": folder_module, "_swap": files}[where]
    monkeypatch.setattr(module, where, full)
    target = saved if existing else saved.parent / "new"
    before = files_of(saved)
    with pytest.raises(UserError, match="cannot write .*No space left on device"):
        save_model(target, PRIOR, random_params(PRIOR))
    assert files_of(saved) == before
    assert list(saved.parent.iterdir()) == [saved]


def test_the_operating_system_s_own_limit(saved):
    """The process is really not allowed to write more than 4 KB to a file."""
    resource = pytest.importorskip("resource")
    script = textwrap.dedent("""
        import resource, signal, sys
        import numpy as np
        from gen1_jax.errors import UserError
        from gen1_jax.weights import folder
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        module, params = folder.load_model(sys.argv[1])
        try:
            folder.save_model(sys.argv[1], module, params)
        except UserError as error:
            print(error)
    """)
    assert resource.RLIM_INFINITY
    before = files_of(saved)
    command = [sys.executable, "-c", script, str(saved)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.startswith(f"cannot write {saved}: ") and "too large" in done.stdout
    assert files_of(saved) == before
    assert list(saved.parent.iterdir()) == [saved]
