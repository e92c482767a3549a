"""safetensors files: tensors come back bit for bit; a damaged file ends in one line."""

import json
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gen1_jax.errors import UserError
from gen1_jax.weights.tensor_files import (
    DIFFUSERS_WEIGHTS,
    TRANSFORMERS_WEIGHTS,
    TensorFiles,
    find_weight_files,
    write_tensors,
)

FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
INDEX = f"{DIFFUSERS_WEIGHTS}.index.json"


def draw(**shapes):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder, tensors, **options):
    shapes = {name: array.shape for name, array in tensors.items()}
    return write_tensors(folder, DIFFUSERS_WEIGHTS, shapes, tensors, **options)


def assert_bits(got, want):
    """Same names, types, shapes and bits (NaN and -0.0 too)."""
    assert set(got) == set(want)
    for name, array in want.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].tobytes() == array.tobytes(), name


def every_half(dtype):
    """All 65,536 numbers of a type of 16 bits."""
    return np.arange(2**16, dtype=np.uint16).view(dtype).reshape(256, 256)


# ---- reading


@pytest.mark.parametrize("letters", FLOATS)
def test_every_float_is_read_as_float32_exactly(tmp_path, letters):
    dtype = FLOATS[letters]
    stored = draw(w=(5, 3))["w"] if letters == "F32" else every_half(dtype)
    stored = stored.astype(dtype)
    scalar = np.asarray(stored[1, 1])
    save_file({"w": stored, "scalar": scalar}, tmp_path / TRANSFORMERS_WEIGHTS)
    tensors = TensorFiles(tmp_path)
    assert tensors.shapes == {"scalar": (), "w": stored.shape}
    assert tensors["w"].dtype == tensors["scalar"].dtype == np.float32
    np.testing.assert_array_equal(tensors["w"], stored.astype(np.float32))
    assert tensors["scalar"].shape == () and tensors["scalar"] == np.float32(scalar)
    # Cast back to their own type, the numbers show that nothing was rounded.
    numbers = ~np.isnan(tensors["w"])
    assert tensors["w"][numbers].astype(dtype).tobytes() == stored[numbers].tobytes()


def test_only_what_is_asked_for_is_read(tmp_path):
    """The file has 64 GiB, but hardly a byte of it is on the disk."""
    size = 2**34
    header = json.dumps(
        {
            "huge": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]},
            "small": {"dtype": "F32", "shape": [2], "data_offsets": [4 * size, 4 * size + 8]},
        }
    ).encode()
    with (tmp_path / DIFFUSERS_WEIGHTS).open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.seek(4 * size, 1)
        stream.write(np.array([1, 2], np.float32).tobytes())
    tensors = TensorFiles(tmp_path)
    assert tensors.shapes == {"huge": (size,), "small": (2,)} and len(tensors) == 2
    assert tensors["small"].tolist() == [1, 2]


def test_a_tensor_is_read_each_time_it_is_asked_for(tmp_path):
    write(tmp_path, draw(a=(2,), b=(3,)))
    tensors = TensorFiles(tmp_path)
    write(tmp_path, {name: 0 * array for name, array in draw(a=(2,), b=(3,)).items()})
    assert not tensors["a"].any() and not tensors["b"].any()
    tensors["a"][:] = 1  # the array is a copy of the caller's own
    assert not tensors["a"].any()
    (tmp_path / DIFFUSERS_WEIGHTS).write_bytes(b"cut off while it was being read")
    with pytest.raises(UserError, match="cannot read b from .*safetensors"):
        tensors["b"]
    with pytest.raises(KeyError):
        tensors["c"]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_integers_are_constants(tmp_path, dtype):
    tensors = draw(w=(2, 3)) | {"position_ids": np.ones((1, 7), dtype)}
    save_file(tensors, tmp_path / TRANSFORMERS_WEIGHTS)
    read = TensorFiles(tmp_path)
    assert set(read) == {"w", "position_ids"} and read.shapes["position_ids"] == (1, 7)
    assert_bits({"w": read["w"]}, {"w": tensors["w"]})
    with pytest.raises(UserError, match="position_ids is .*; accepted: float32, float16, bfloat16"):
        read["position_ids"]


# ---- writing

# In bytes, with 4 for a number: 8, 4, 48, 12, 24, 4, 0 and 16.
TENSORS = {
    "z.weight": np.array([np.nan, -0.0], np.float32),
    "scale": np.float32(np.pi).reshape(()),
    **draw(large=(4, 3), c=(3,), b=(2, 3, 1)),
    "a": np.full((1,), np.inf, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "transposed": draw(x=(2, 2))["x"].T,
}


@pytest.mark.parametrize(
    ("limit", "names"),
    [
        # A tensor above the limit has a shard of its own and leaves the one being filled open.
        (12, [["large"], ["z.weight", "scale"], ["b"], ["c"], ["transposed"], ["a", "empty"]]),
        (47, [["large"], ["z.weight", "scale", "c"], ["b", "a", "empty", "transposed"]]),
        (60, [["z.weight", "scale", "large"], ["c", "b", "a", "empty", "transposed"]]),
        (116, [[*TENSORS]]),
        (10**9, [[*TENSORS]]),
    ],
)
def test_shards_come_back_bit_for_bit(tmp_path, limit, names):
    files = write(tmp_path, TENSORS, max_shard_bytes=limit)
    assert [set(load_file(file)) for file in files] == [set(shard) for shard in names]
    count = len(names)
    if count == 1:
        assert files == [tmp_path / DIFFUSERS_WEIGHTS] == list(tmp_path.iterdir())
    else:
        stem = DIFFUSERS_WEIGHTS.removesuffix(".safetensors")
        named = [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
        assert [file.name for file in files] == named
        assert {file.name for file in tmp_path.iterdir()} == {*named, INDEX}
        index = json.loads((tmp_path / INDEX).read_text())
        assert index["metadata"] == {"total_size": 116}
        where = [(name, f) for f, shard in zip(named, names, strict=True) for name in shard]
        assert list(index["weight_map"].items()) == where
    assert find_weight_files(tmp_path) == sorted(files)
    assert_bits(TensorFiles(tmp_path), TENSORS)


def test_names_come_back_in_one_order(tmp_path):
    """Equal models are equal files, in whichever order their tensors are given."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    (first,) = write(tmp_path / "a", TENSORS)
    (second,) = write(tmp_path / "b", dict(reversed(TENSORS.items())))
    assert list(TensorFiles(tmp_path / "a")) == sorted(TENSORS)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_written_rounded_once(tmp_path, dtype):
    tensors = draw(w=(40, 50)) | {"scale": np.float32(4.6052).reshape(())}
    files = write(tmp_path, tensors, dtype=dtype, max_shard_bytes=2000 * 2)
    assert len(files) == 2  # the limit is that of the size on the disk
    rounded = {name: np.asarray(array.astype(dtype)) for name, array in tensors.items()}
    assert_bits({k: v for file in files for k, v in load_file(file).items()}, rounded)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 2001 * 2


def test_what_float16_cannot_hold_is_refused(tmp_path):
    tensors = draw(fine=(3,)) | {"large": np.array([1, 65520], np.float32)}
    with pytest.raises(UserError, match="large has values beyond float16; write float32 or bfloat"):
        write(tmp_path, tensors, dtype=np.float16)
    assert not list(tmp_path.iterdir())
    write(tmp_path, tensors, dtype=ml_dtypes.bfloat16)
    # The largest number, a number that rounds to it, and numbers that are infinite before.
    kept = {"edge": np.array([65504, -65519, np.inf, -np.inf, np.nan], np.float32)}
    write(tmp_path, kept, dtype=np.float16)
    want = [65504, -65504, np.inf, -np.inf, np.nan]
    np.testing.assert_array_equal(TensorFiles(tmp_path)["edge"], np.float32(want))


def test_a_shard_is_written_before_the_next_is_read(tmp_path):
    class Watched(Mapping):
        """Tensors that record how many files there were when each was read."""

        seen = {}

        def __getitem__(self, name):
            self.seen[name] = len(list(tmp_path.iterdir()))
            return TENSORS[name]

        __iter__, __len__ = TENSORS.__iter__, TENSORS.__len__

    write(tmp_path, Watched(), max_shard_bytes=47)
    assert list(Watched.seen.values()) == [1, 1, 0, 1, 2, 2, 2, 2]  # the shards of the test above


# ---- other libraries


def test_diffusers_reads_our_shards(tmp_path):
    torch, diffusers = (pytest.importorskip(name) for name in ("torch", "diffusers"))
    model = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=4, num_layers=1, embedding_dim=6
    )
    model.save_config(tmp_path)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert len(write(tmp_path, tensors, max_shard_bytes=3000)) > 2
    read, report = diffusers.PriorTransformer.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in read.state_dict().items())


def test_transformers_reads_our_shards(tmp_path):
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    tower["num_attention_heads"] = 2
    config = transformers.CLIPConfig(
        text_config=tower | {"vocab_size": 50},
        vision_config=tower | {"image_size": 8, "patch_size": 4},
    )
    model = transformers.CLIPModel(config)
    config.save_pretrained(tmp_path)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    shapes = {name: array.shape for name, array in tensors.items()}
    files = write_tensors(tmp_path, TRANSFORMERS_WEIGHTS, shapes, tensors, max_shard_bytes=3000)
    assert len(files) > 2 and shapes["logit_scale"] == ()
    read, report = transformers.CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in read.state_dict().items())


# ---- damaged files


def packed(header, data=b"", length=None):
    """Returns the bytes of a file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


GOOD = packed({"a": entry(0, 8), "b": entry(8, 16)}, bytes(16))
HUGE = 2**62

DAMAGED = {
    "empty": b"",
    "cut in the length": GOOD[:5],
    "cut after the length": GOOD[:8],
    "cut in the header": GOOD[:40],
    "cut before the data": GOOD[:-16],
    "cut in the data": GOOD[:-1],
    "more than the data": GOOD + b"\0",
    "a header longer than the file": packed({"a": entry(0, 8)}, bytes(8), length=10**6),
    "a header of all bits": b"\xff" * 8 + GOOD[8:],
    "a header of length 0": packed(b""),
    "a header that is no JSON": packed(b"{'a': 1}"),
    "a header that is no text": packed(b"\xff\xfe\xfd\xfc"),
    "a header that is a list": packed([1, 2]),
    "an entry that is no entry": packed({"a": 5}),
    "an entry without offsets": packed({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "offsets that end too late": packed({"a": entry(0, 12, (3,))}, bytes(8)),
    "offsets that are too large": packed({"a": entry(HUGE, HUGE + 8)}, bytes(8)),
    "offsets that overlap": packed({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "offsets with a gap": packed({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)),
    "offsets that begin late": packed({"a": entry(4, 12)}, bytes(12)),
    "offsets that do not cover the data": packed({"a": entry(0, 8)}, bytes(12)),
    "offsets backwards": packed({"a": entry(8, 0)}, bytes(8)),
    "negative offsets": packed({"a": entry(-8, 0)}, bytes(8)),
    "offsets that are no numbers": packed({"a": entry("0", "8")}, bytes(8)),
    "a shape that is too large": packed({"a": entry(0, 8, (3,))}, bytes(8)),
    "a shape that is too small": packed({"a": entry(0, 8, (1,))}, bytes(8)),
    "a shape beyond all numbers": packed({"a": entry(0, 8, (HUGE, HUGE))}, bytes(8)),
    "a negative shape": packed({"a": entry(0, 8, (-1, -2))}, bytes(8)),
    "a dtype that does not exist": packed({"a": entry(0, 8, dtype="F31")}, bytes(8)),
    "a web page": b"<html>404 not found</html>" * 100,
}


def refused(folder, words):
    with pytest.raises(UserError, match=words) as caught:
        TensorFiles(folder)
    assert "\n" not in str(caught.value)


def test_the_whole_file_is_read(tmp_path):
    (tmp_path / DIFFUSERS_WEIGHTS).write_bytes(GOOD)
    assert TensorFiles(tmp_path).shapes == {"a": (2,), "b": (2,)}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_named(tmp_path, damage):
    (tmp_path / DIFFUSERS_WEIGHTS).write_bytes(DAMAGED[damage])
    refused(tmp_path, f"{DIFFUSERS_WEIGHTS} is no whole safetensors file: .")


@pytest.mark.parametrize(("dtype", "size"), [("F64", 8), ("F8_E4M3", 1), ("F8_E5M2", 1)])
def test_other_floats_are_refused(tmp_path, dtype, size):
    header = {"a": entry(0, 8), "b": entry(8, 8 + 2 * size, dtype=dtype)}
    (tmp_path / TRANSFORMERS_WEIGHTS).write_bytes(packed(header, bytes(8 + 2 * size)))
    words = f"model.safetensors: b is {dtype}; accepted: float32, float16, bfloat16"
    refused(tmp_path, words)


def test_a_folder_in_the_file_s_place(tmp_path):
    (tmp_path / DIFFUSERS_WEIGHTS).mkdir()
    refused(tmp_path, f"{DIFFUSERS_WEIGHTS} is no whole safetensors file")


# ---- damaged indices


@pytest.fixture
def sharded(tmp_path):
    """A folder of the tensors a to d, each in a file of its own."""
    files = write(tmp_path, draw(a=(2,), b=(2,), c=(2,), d=(2,)), max_shard_bytes=8)
    assert len(files) == 4
    return tmp_path


def test_a_missing_shard(sharded):
    name = find_weight_files(sharded)[2].name
    (sharded / name).unlink()
    refused(sharded, f"{name} is missing, but the index beside it lists it")


def test_a_truncated_shard(sharded):
    file = find_weight_files(sharded)[1]
    file.write_bytes(file.read_bytes()[:-1])
    refused(sharded, f"{file.name} is no whole safetensors file")


def test_a_tensor_that_is_in_two_shards(sharded):
    first, second, *_ = find_weight_files(sharded)
    second.write_bytes(first.read_bytes())
    refused(sharded, f"{second.name}: a is in {first.name} too")


@pytest.mark.parametrize("text", ["{", "", "\xff", '{"weight_map": {"a": }}'])
def test_an_index_that_is_no_json(sharded, text):
    (sharded / INDEX).write_bytes(text.encode("latin-1"))
    refused(sharded, f"cannot read .*{INDEX}: .")


@pytest.mark.parametrize("content", [{}, [], None, "x", {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_that_lists_nothing(sharded, content):
    (sharded / INDEX).write_text(json.dumps(content))
    refused(sharded, INDEX)


@pytest.mark.parametrize(
    "shard",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "inner/x.safetensors",
        "./x.safetensors",
        "..",
        "",
        "pytorch_model.bin",
        ["x.safetensors"],
        None,
        3,
    ],
)
def test_an_index_that_points_elsewhere(sharded, shard):
    save_file(draw(x=(2,)), sharded.parent / "x.safetensors")
    content = json.loads((sharded / INDEX).read_text())
    content["weight_map"]["x"] = shard
    (sharded / INDEX).write_text(json.dumps(content))
    refused(sharded, "lists .*; accepted: safetensors files beside the index")


# ---- no safetensors


@pytest.mark.parametrize(
    "name", ["diffusion_pytorch_model.bin", "pytorch_model.bin", "v1-5.ckpt", "a.pt", "a.pth"]
)
def test_pickles_are_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch /tmp/run'\ntR.")
    refused(tmp_path, f"holds pickled weights only .{name}.*accepted: safetensors.*save_pretrained")
    write(tmp_path, draw(a=(2,)))
    assert set(TensorFiles(tmp_path)) == {"a"}


def test_no_weights_at_all(tmp_path):
    (tmp_path / "README.md").write_text("soon")
    refused(tmp_path, f"no weights in .*; accepted: {DIFFUSERS_WEIGHTS} or {TRANSFORMERS_WEIGHTS}")
    refused(tmp_path / "nowhere", "no weights in .*nowhere")
