"""The hub: its cache is imported, and only those files are downloaded that are read."""

import hashlib
import http.server
import importlib
import json
import shutil
import threading
from urllib.parse import unquote, urlparse

import pytest
from public_models import assert_bits, gen1, refused, weights_of, write_public
from safetensors.numpy import save_file

from gen1_jax.tokenizer import load_tokenizer
from gen1_jax.weights.hub import reason

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    root = tmp_path_factory.mktemp("public")
    write_public(root)
    return root


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of downloads, and no network (HF_HUB_OFFLINE, of conftest.py)."""
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            "nobody/nothing",
            "config.json .* nobody/nothing at revision main",
        ),
        (
            "nobody/nothing/unet",
            "unet/config.json .* nobody/nothing at revision main",
        ),
        (
            "nobody/nothing@fp16",
            "config.json .* nobody/nothing at revision fp16",
        ),
        (
            "nobody/nothing/a/unet@refs/pr/1",
            "a/unet/config.json .* at revision refs/pr/1",
        ),
        ("nobody/no--thing", "it is no hub id"),
    ],
)
def test_without_network_it_says_what_to_download(hub, tmp_path, capsys, model, words):
    command = (tmp_path / "runs" / "new", "--unet", model)
    (tmp_path / "runs").mkdir()
    line = refused(capsys, *command, words=words)
    assert line.startswith(f"gen1: {model}: there is no such folder, and the hub ")
    assert "HF_HUB_OFFLINE is set" in line or "no hub id" in line


def test_a_missing_connection_is_said(monkeypatch):
    from huggingface_hub import constants, errors

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert reason(errors.LocalEntryNotFoundError("…")) == "no connection to it"
    assert reason(ConnectionResetError("by the other side")).startswith("ConnectionResetError: by")


def test_what_the_hub_s_cache_holds_is_imported(hub, public, tmp_path, capsys):
    cache = hub / "models--someone--diffusion"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(COMMIT)
    for part in ("unet", "vae", "scheduler"):
        shutil.copytree(public / part, cache / "snapshots" / COMMIT / part)
    run = tmp_path / "run"
    gen1(capsys, run, "--unet", "someone/diffusion/unet", "--vae", "someone/diffusion/vae@main")
    assert_bits(weights_of(run / "unet" / "model"), weights_of(public / "unet"))
    assert_bits(weights_of(run / "autoencoder" / "model"), weights_of(public / "vae"))
    record = json.loads((run / "unet" / "import.json").read_text())
    assert (record["source"], record["revision"]) == ("someone/diffusion/unet", COMMIT)
    assert record["prediction_type"] == "epsilon"
    command = (tmp_path / "other" / "run", "--prior", "someone/diffusion/prior")
    (tmp_path / "other").mkdir()
    refused(capsys, *command, words="someone/diffusion has no folder prior/ at revision main")


# ---- what is downloaded


@pytest.fixture
def served(hub, tmp_path, monkeypatch):
    """A hub of this machine's own: the folder of its repository, and the files asked for so far."""
    constants = importlib.import_module("huggingface_hub.constants")
    root, asked = tmp_path / "served", []
    root.mkdir()

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            where = unquote(urlparse(self.path).path)
            files = {str(f.relative_to(root)): f for f in root.rglob("*") if f.is_file()}
            content, headers = b"", {"X-Repo-Commit": COMMIT}
            if where.startswith(f"/api/models/someone/diffusion/tree/{COMMIT}"):
                sizes = [(name, file.stat().st_size) for name, file in files.items()]
                entries = [{"type": "file", "path": n, "size": s, "oid": COMMIT} for n, s in sizes]
                content = json.dumps(entries).encode()
            elif where.startswith("/api/models/someone/diffusion/revision/"):
                siblings = [{"rfilename": name} for name in files]
                info = {"id": "someone/diffusion", "sha": COMMIT, "siblings": siblings}
                content = json.dumps(info).encode()
            elif (name := where.removeprefix(f"/someone/diffusion/resolve/{COMMIT}/")) in files:
                content = files[name].read_bytes()
                headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
                if self.command == "GET":
                    asked.append(name)
            else:
                return self.send_error(404)
            self.send_response(200)
            for header, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield root, asked
    server.shutdown()
    thread.join()
    server.server_close()


def weights(variant=""):
    return f"unet/diffusion_pytorch_model{variant}.safetensors"


@pytest.mark.parametrize(
    ("there", "arguments", "taken"),
    [
        (("", ".fp16", ".non_ema"), (), ""),
        (("", ".fp16", ".non_ema"), ("--variant", "non_ema"), ".non_ema"),
        ((".fp16",), (), ".fp16"),
    ],
)
def test_only_what_is_read_is_downloaded(served, public, tmp_path, capsys, there, arguments, taken):
    root, asked = served
    shutil.copytree(public / "unet", root / "unet")
    want = weights_of(root / "unet")
    (root / weights()).unlink()
    for variant in there:
        save_file({k: v + len(variant) for k, v in want.items()}, root / weights(variant))
    for other in ("unet/diffusion_pytorch_model.bin", "unet/model.py", "v1-5.safetensors"):
        (root / other).write_text("never read")
    out, _ = gen1(capsys, tmp_path / "run", "--unet", "someone/diffusion/unet", *arguments)
    assert sorted(asked) == ["unet/config.json", weights(taken)]
    got = weights_of(tmp_path / "run" / "unet" / "model")
    assert_bits(got, {k: v + len(taken) for k, v in want.items()})
    record = json.loads((tmp_path / "run" / "unet" / "import.json").read_text())
    assert record["variants"] == [taken.strip(".") or None] and record["revision"] == COMMIT


def test_several_variants_are_listed_before_any_is_downloaded(served, public, tmp_path, capsys):
    root, asked = served
    (root / "unet").mkdir()
    shutil.copyfile(public / "unet" / "config.json", root / "unet" / "config.json")
    for variant in (".fp16", ".non_ema"):
        (root / weights(variant)).touch()
    command = (tmp_path / "new" / "run", "--unet", "someone/diffusion/unet")
    command[0].parent.mkdir()
    refused(capsys, *command, words="diffusion/unet holds no plain .*fp16, non_ema; .*--variant")
    refused(capsys, *command, "--variant", "bf16", words="no variant bf16; there: fp16, non_ema$")
    for variant in (".fp16", ".non_ema"):
        (root / weights(variant)).rename(root / weights(variant).replace("safetensors", "bin"))
    refused(capsys, *command, words="diffusion/unet holds pickled weights only")
    assert set(asked) == {"unet/config.json"}


def test_a_tokenizer_comes_without_the_model_beside_it(served, public, tmp_path, capsys):
    root, asked = served
    shutil.copytree(public / "clip", root, dirs_exist_ok=True)
    gen1(capsys, tmp_path / "run", "--tokenizer", "someone/diffusion")
    assert set(asked) == {"config.json", "vocab.json", "merges.txt"}
    assert load_tokenizer(tmp_path / "run" / "tokenizer").vocab_size == 7


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        (False, "someone/diffusion has no config.json, and pytorch_.* holds a LoRA adapter"),
        (True, "but holds some; give --unet someone/diffusion/unet$"),
    ],
)
def test_a_repository_without_a_model(served, public, tmp_path, capsys, beside, words):
    root, asked = served
    (root / "pytorch_lora_weights.safetensors").touch()
    if beside:
        shutil.copytree(public / "unet", root / "unet")
    (tmp_path / "new").mkdir()
    refused(capsys, tmp_path / "new" / "run", "--unet", "someone/diffusion", words=words)
    assert asked == ["unet/config.json"] * beside
