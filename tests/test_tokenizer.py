"""The tokenizer against transformers' CLIPTokenizer, on folders that both read."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.tokenizer import END, START, load_tokenizer, train_tokenizer

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "teal", "grey")
SHAPES = ("ball", "cube", "cylinder", "cone", "star", "torus")
CAPTIONS = [
    f"a {colour} {shape} moving {way} in front of a striped {other} wall"
    for colour in COLOURS
    for other in COLOURS
    for shape in SHAPES
    for way in ("left", "right", "upward")
]
TEXTS = [
    "",
    "a red ball",
    "A  Teal\tCUBE,   turning; it's 42 o'clock!",
    "unheard-of words, e.g. zyzzyva & quixotic",
    "two\nlines",
    f"a {START} and an {END} in the text",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(CAPTIONS, folder)
    return folder


def run_python(code, *arguments, **options):
    command = [sys.executable, "-c", code, *arguments]
    root = Path(__file__).resolve().parents[1]
    options |= {"cwd": root, "capture_output": True, "text": True}
    return subprocess.run(command, check=True, timeout=60, **options)


def encode_by_transformers(tokenizer, texts, length):
    options = {"padding": "max_length", "truncation": True, "max_length": length}
    return np.asarray(tokenizer(texts, **options)["input_ids"])


@pytest.mark.parametrize("kind", ["AutoTokenizer", "CLIPTokenizer", "PreTrainedTokenizerFast"])
def test_transformers_reads_and_encodes_the_same(folder, kind):
    import transformers

    theirs = getattr(transformers, kind).from_pretrained(folder)
    ours = load_tokenizer(folder)
    assert theirs.model_max_length == ours.context_length == 32
    assert theirs.bos_token_id == ours.start_id
    assert theirs.eos_token_id == theirs.pad_token_id == ours.end_id == ours.pad_id
    assert len(theirs) == ours.vocab_size == ours.end_id + 1 <= 512
    texts = TEXTS + CAPTIONS[:20]
    expected = encode_by_transformers(theirs, texts, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about texts that were cut
        np.testing.assert_array_equal(ours.encode(texts), expected)


def test_openai_files_load(folder, tmp_path):
    """The published folder holds vocab.json and merges.txt; the settings are those of SD 1.5."""
    import transformers

    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folder / name, tmp_path)
    end = {"__type": "AddedToken", "content": END, "lstrip": False, "normalized": True}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": END}
    config |= {"bos_token": START, "eos_token": end, "unk_token": end}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = load_tokenizer(tmp_path)
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    texts = TEXTS + CAPTIONS[:20]
    tokens = ours.encode(texts)
    assert tokens.shape == (len(texts), 77)
    np.testing.assert_array_equal(tokens, encode_by_transformers(theirs, texts, 77))
    # The folder that transformers saves loads too, with vocab.json and merges.txt or without them.
    theirs.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(load_tokenizer(tmp_path / "saved").encode(texts), tokens)
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).context_length == 77


def make_public(folder, to, **files):
    """Writes the published layout: vocab.json, merges.txt and files about special tokens."""
    to.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folder / name, to)
    for name, content in files.items():
        (to / f"{name}.json").write_text(json.dumps(content))
    return to


def test_every_layout_of_a_tokenizer_gives_the_same_ids(folder, tmp_path):
    """Stable Diffusion 2 pads with "!", which special_tokens_map.json alone says."""
    import transformers

    config = {"model_max_length": 30, "pad_token": END, "tokenizer_class": "CLIPTokenizer"}
    words = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": "!"}
    public = make_public(
        folder, tmp_path / "public", tokenizer_config=config, special_tokens_map=words
    )
    theirs = transformers.CLIPTokenizer.from_pretrained(public)
    theirs.save_pretrained(tmp_path / "saved")  # tokenizer.json, added_tokens_decoder
    for layout in (public, tmp_path / "saved"):
        ours = load_tokenizer(layout)
        assert ours.pad_id == theirs.pad_token_id != ours.end_id
        tokens = ours.encode(TEXTS[:3])
        np.testing.assert_array_equal(tokens, encode_by_transformers(theirs, TEXTS[:3], 30))
        assert (tokens[:, -1] == ours.pad_id).all()


def test_added_tokens_are_read(folder, tmp_path):
    """Textual inversion adds a word behind the end token."""
    added = {"<toy>": load_tokenizer(folder).vocab_size}
    public = make_public(folder, tmp_path / "public", added_tokens=added)
    ours = load_tokenizer(public)
    assert ours.vocab_size == ours.end_id + 2 and ours.context_length == 77
    assert ours.encode(["a <toy> ball"])[0, 2] == added["<toy>"]


@pytest.mark.parametrize(
    "config", [{"tokenizer_class": "T5Tokenizer"}, {"eos_token": "</s>"}, {"bos_token": "[CLS]"}]
)
def test_another_tokenizer_is_refused(folder, tmp_path, config):
    public = make_public(folder, tmp_path / "public", tokenizer_config=config)
    (name,) = config.values()
    with pytest.raises(UserError, match=f"{re.escape(name)}.* accepted: "):
        load_tokenizer(public)


def test_what_is_no_unicode_is_refused(folder):
    with pytest.raises(UserError, match=r"a text is no Unicode .*: character 3 .*'a \\udcff ball'"):
        load_tokenizer(folder).encode(["a \udcff ball"])


def test_encoded_form(folder):
    tokenizer = load_tokenizer(folder)
    tokens = tokenizer.encode(["", "a red ball"])
    assert tokens.dtype == np.int32 and tokens.shape == (2, 32)
    assert tokens[0, 0] == tokenizer.start_id and (tokens[0, 1:] == tokenizer.end_id).all()
    assert (tokens[1] == tokenizer.end_id).argmax() == 4  # each known word is one token
    assert tokenizer.encode([]).shape == (0, 32)
    with pytest.raises(UserError, match="accepted: a list of texts"):
        tokenizer.encode("a red ball")


def test_every_caption_fits_the_context(folder):
    tokens = load_tokenizer(folder).encode(CAPTIONS)  # a warning would be an error
    assert len(np.unique(tokens, axis=0)) == len(CAPTIONS)


def test_a_long_text_is_cut_with_one_warning(folder):
    tokenizer = load_tokenizer(folder)
    long = "a red ball " * 10 + "and a GREEN cube"
    with pytest.warns(UserWarning) as caught:
        tokens = tokenizer.encode([long, "a red ball", long])
    message = "2 of 3 texts are longer than 30 tokens and lose their ends; the first: "
    assert [str(warning.message) for warning in caught] == [message + "'and a GREEN cube'"]
    with pytest.warns(
        UserWarning, match="the text is longer than 30 tokens and loses its end: 'and"
    ):
        tokenizer.encode([long])
    assert tokens[0, -1] == tokenizer.end_id
    np.testing.assert_array_equal(tokens[0, 1:31], np.tile(tokens[1, 1:4], 10))


def test_captions_of_a_data_set_are_counted(folder):
    tokenizer = load_tokenizer(folder)
    texts = [
        "a red ball " * 10 + "and a GREEN cube",
        "a red ball",
        "a röd ball",
        "a red ball " * 11,
    ]
    with pytest.warns(UserWarning) as caught:
        for text in texts * 3:
            tokenizer.encode_captions([text])
    assert [str(warning.message).partition(": '")[0] for warning in caught] == [
        "a caption is longer than 30 tokens and loses its end",
        "a caption has characters that the tokenizer does not know",
    ]
    assert tokenizer.count_troubles() == [
        "6 of 12 captions are longer than 30 tokens and lose their ends",
        "3 of 12 captions have characters that the tokenizer does not know",
    ]


def test_unknown_characters_do_not_end_a_text(folder):
    tokenizer = load_tokenizer(folder)
    with pytest.warns(UserWarning, match="1 of 2 texts have characters .* 'a röd ball'"):
        tokens = tokenizer.encode(["a red ball", "a röd ball"])
    ends = (tokens == tokenizer.end_id).argmax(1)
    assert tokens[1, ends[1] - 1] == tokens[0, 3] and ends[1] > 4  # "ball" comes before the end


def test_same_captions_same_files(folder, tmp_path):
    """Another process has other hash tables, which must not have an influence."""
    code = (
        "import sys; from gen1_jax.tokenizer import train_tokenizer;"
        "train_tokenizer(reversed(sys.stdin.read().splitlines()), sys.argv[1])"
    )
    text = "\n".join(CAPTIONS)
    run_python(code, str(tmp_path / "new" / "tokenizer"), input=text)
    written = sorted(path.name for path in folder.iterdir())
    assert written == ["merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"]
    for name in written:
        assert (folder / name).read_bytes() == (tmp_path / "new/tokenizer" / name).read_bytes()


def test_vocab_size_is_kept(tmp_path):
    sizes = [train_tokenizer(CAPTIONS, tmp_path, vocab_size=n).vocab_size for n in (141, 200, 4096)]
    assert sizes[:2] == [141, 200] and 200 < sizes[2] < 512  # nothing left to merge
    with pytest.raises(UserError, match="vocab_size is 100; accepted: 1.. or more"):
        train_tokenizer(CAPTIONS, tmp_path, vocab_size=100)


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(UserError, match="no tokenizer in .*missing"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(UserError, match="no captions"):
        train_tokenizer([], tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="context_length is 2"):
        train_tokenizer(CAPTIONS, tmp_path / "new", context_length=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        train_tokenizer(CAPTIONS, tmp_path / "file" / "new")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        load_tokenizer(tmp_path)


def test_importing_stays_light():
    code = "import sys, gen1_jax.tokenizer; print({'tokenizers', 'transformers'} & {*sys.modules})"
    done = run_python(code)
    assert done.stdout.strip() == "set()"
