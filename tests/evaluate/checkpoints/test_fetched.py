"""Checkpoints by name: from a hub on loopback that speaks its few routes, from its cache, from the web by digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from pretrain.backbones import registry
from pretrain.runtime.errors import InputError

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return registry.build("cifar_resnet20").state_dict()


class Hub:
    """Repositories as revision -> name -> bytes, and every request that was made for them."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.lies = False  # the digest it tells is not that of the file
        self.address = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of a request."""
        self.asked.append(path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^?]+)(\?.*)?", path):
            return self._listing(found[1], found[2])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*found.groups())
        if path in self.files:
            return 200, {"Content-Length": str(len(self.files[path]))}, self.files[path]
        return 404, {}, b"<html>no such page</html>"

    def _revision(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = COMMITS.get(revision, revision)
        held = self.repositories.get(repository, {}).get(commit)
        return None if held is None else (commit, held)

    def _listing(self, repository: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        if repository == "org/gated":
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if repository not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        found = self._revision(repository, revision)
        if found is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        commit, held = found
        siblings = [
            {"rfilename": name, "size": len(data), "lfs": {"sha256": self._digest(data), "size": 1, "pointerSize": 1}}
            for name, data in held.items()
        ]
        return 200, {}, json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode()

    def _digest(self, data: bytes) -> str:
        return "0" * 64 if self.lies else hashlib.sha256(data).hexdigest()

    def _file(self, repository: str, revision: str, name: str) -> tuple[int, dict[str, str], bytes]:
        found = self._revision(repository, revision)
        if found is None or name not in found[1]:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        data = found[1][name]
        headers = {"X-Repo-Commit": found[0], "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        return 200, headers | {"Content-Length": str(len(data))}, data


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = made.answer(self.path)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the server's name for it

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", made.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("FASTMOCO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def described(std: float = 0.25) -> bytes:
    return json.dumps({"image_mean": [0.5] * 3, "image_std": [std] * 3}).encode()


def test_a_repository_is_fetched_once_and_pinned(
    hub: Hub, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, through_tasks: Any
) -> None:
    weights = save(state)
    files = {
        "model.safetensors": weights,
        "config.json": b'{"model_type": "x"}',
        "pytorch_model.bin": b"",
        "a/b.pth": b"",
    }
    hub.repositories["org/name"] = {COMMITS["main"]: files | {"preprocessor_config.json": described()}}
    loaded = load_backbone("hf:org/name")
    assert loaded.ref == f"hf:org/name@{COMMITS['main']}"
    assert loaded.sha256 == hashlib.sha256(weights).hexdigest()
    assert loaded.metadata.normalization.std == (0.25,) * 3
    assert not any("pytorch_model" in path or "b.pth" in path for path in hub.asked)
    # From now on it lies in the cache: the network is not asked again, whether it is there or not.
    asked = len(hub.asked)
    assert inspect_file("hf:org/name").path == loaded.ref
    assert 0 <= through_tasks(loaded.ref, tasks=["knn"])["knn"] <= 100
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_backbone(loaded.ref).sha256 == loaded.sha256
    assert len(hub.asked) == asked
    with pytest.raises(
        InputError, match=r"hf:org/other does not lie in the cache .* HF_HUB_OFFLINE .* hf download org/oth"
    ):
        load_backbone("hf:org/other")


def test_revisions_files_and_shards(hub: Hub, state: dict[str, Tensor]) -> None:
    names = sorted(state)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": {n: state[n] for n in names[i::2]} for i in range(2)}
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    sharded = {file: save(part) for file, part in parts.items()} | {
        "model.safetensors.index.json": json.dumps(index).encode()
    }
    moved = {name: tensor + 1 for name, tensor in state.items()}
    hub.repositories["org/name"] = {
        COMMITS["main"]: sharded,
        COMMITS["v1"]: {"old/one.safetensors": save(moved), "old/two.safetensors": save(state)},
    }
    assert torch.equal(load_backbone("hf:org/name").module.state_dict()["conv1.weight"], state["conv1.weight"])
    one = load_backbone("hf:org/name@v1:old/one.safetensors")
    assert one.ref == f"hf:org/name@{COMMITS['v1']}:old/one.safetensors"
    assert torch.equal(one.module.state_dict()["conv1.weight"], moved["conv1.weight"])
    with pytest.raises(InputError, match="holds no weights that are read here"):
        load_backbone("hf:org/name@v1")
    with pytest.raises(InputError, match="holds no file old/three.safetensors"):
        load_backbone("hf:org/name@v1:old/three.safetensors")


def test_what_a_hub_refuses_is_one_sentence(hub: Hub, state: dict[str, Tensor], monkeypatch: Any) -> None:
    hub.repositories["org/name"] = {COMMITS["main"]: {"model.safetensors": save(state)}}
    for ref, said in (
        ("hf:org/nothing", "no such repository, or it is private"),
        ("hf:org/name@v9", "no revision 'v9'"),
        ("hf:org/gated", "is gated: accept its terms"),
        ("hf:name", "names no repository of the hub"),
        ("hf:../../etc", "names no repository of the hub"),
        ("hf:org/name@../x", "names no repository of the hub"),
        ("hf:org/name:../../etc/passwd", "names no repository of the hub"),
        ("hf:\x1b[2J/x", "names no repository of the hub"),
    ):
        with pytest.raises(InputError, match=said) as error:
            load_backbone(ref)
        assert str(error.value).isprintable()
    hub.lies = True
    with pytest.raises(InputError, match="is not what the hub says it is"):
        load_backbone("hf:org/name")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="hf:org/far cannot be fetched from the hub"):
        load_backbone("hf:org/far")


def test_a_cache_that_others_made(hub: Hub, tmp_path: Path, state: dict[str, Tensor], monkeypatch: Any) -> None:
    # As huggingface_hub lays it out: blobs by digest, snapshots as links to them, refs with commits.
    place = tmp_path / "hub" / "models--org--name"
    snapshot = place / "snapshots" / COMMITS["main"]
    for folder in (place / "blobs", place / "refs", snapshot):
        folder.mkdir(parents=True)
    (place / "blobs" / "x").write_bytes(save(state))
    (snapshot / "model.safetensors").symlink_to("../../blobs/x")
    (place / "refs" / "main").write_text(COMMITS["main"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_backbone("hf:org/name").ref == f"hf:org/name@{COMMITS['main']}"
    assert load_backbone(f"hf:org/name@{COMMITS['main']}").metadata.backbone == "cifar_resnet20"
    (place / "blobs" / "x").unlink()  # a broken snapshot is no snapshot
    with pytest.raises(InputError, match="does not lie in the cache"):
        load_backbone("hf:org/name")
    assert hub.asked == []


def test_timms_pretrained_weights(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    whole = timm.create_model("resnet18", pretrained=False).state_dict()
    hub.repositories["timm/resnet18.a1_in1k"] = {COMMITS["main"]: {"model.safetensors": save(whole)}}
    loaded = load_backbone("timm:resnet18.a1_in1k")
    assert loaded.ref == f"hf:timm/resnet18.a1_in1k@{COMMITS['main']}"
    assert (loaded.format, loaded.metadata.backbone) == ("timm", "resnet18")
    assert inspect_file("timm:resnet18").input.certainty == "stated"
    for name in ("resnet18.no_such_tag", "no_such_model", "\x1b"):
        with pytest.raises(InputError, match="timm has no pretrained weights|unknown"):
            load_backbone(f"timm:{name}")


def test_files_of_the_web_by_their_digest(hub: Hub, state: dict[str, Tensor], monkeypatch: Any) -> None:
    data = save(state)
    digest = hashlib.sha256(data).hexdigest()
    hub.files = {f"/net-{digest[:8]}.pth": data, "/plain.pth": data}
    pinned = f"{hub.address}/plain.pth#sha256={digest}"
    assert load_backbone(pinned).ref == pinned
    named = load_backbone(f"{hub.address}/net-{digest[:8]}.pth")
    assert (named.ref, named.sha256) == (f"{hub.address}/net-{digest[:8]}.pth#sha256={digest}", digest)
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_backbone(pinned).sha256 == digest
    assert len(hub.asked) == asked
    with pytest.raises(InputError, match="HF_HUB_OFFLINE forbids"):
        load_backbone(f"{hub.address}/other.pth#sha256={digest}"[:-64] + "1" * 64)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for ref, said in (
        (f"{hub.address}/plain.pth", "does not say its digest"),
        (f"{hub.address}/plain.pth#md5=abc", "does not say its digest"),
        (f"{hub.address}/plain.pth#sha256={'0' * 64}", f"has SHA-256 {digest}, expected 0000"),
        (f"{hub.address}/gone.pth#sha256={'0' * 64}", "the server answers 404"),
        (f"http://127.0.0.1:9/x.pth#sha256={'0' * 64}", "cannot be fetched: .*refused"),
        (f"http://[/x.pth#sha256={'0' * 64}", "is no address|damaged|refused"),
    ):
        with pytest.raises(InputError, match=said):
            load_backbone(ref)
    assert not list(Path(load_backbone(pinned).ref).parent.glob("*.partial"))


def test_a_campaign_and_the_command_pin_what_they_fetch(hub: Hub, tmp_path: Path, state: dict[str, Tensor]) -> None:
    from benchmarks.campaign.plan import make_plan
    from benchmarks.campaign.precheck import check_files
    from benchmarks.campaign.spec import load_spec
    from benchmarks.run.single import evaluate_request
    from pretrain.data.catalog import Catalog

    weights = save(state)
    hub.repositories["org/name"] = {
        COMMITS["main"]: {"model.safetensors": weights, "preprocessor_config.json": described()}
    }
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "name: x\ncheckpoints:\n  theirs: {file: 'hf:org/name'}\nevaluate:\n  - {task: knn, data: shapes}\n"
    )
    file = load_spec(spec)
    plan = make_plan(file, Catalog.load())
    check_files(file, plan.runs)
    reference = plan.runs[0].request.checkpoint
    assert reference is not None
    assert (reference.ref, reference.sha256) == (f"hf:org/name@{COMMITS['main']}", hashlib.sha256(weights).hexdigest())
    options: dict[str, Any] = {"changes": {}, "seed": 0, "select": None, "normalization": None, "label": None}
    alone = evaluate_request(
        Catalog.load(), task="knn", checkpoint="hf:org/name", data="shapes", protocol=None, device="cpu", **options
    )
    assert alone.checkpoint is not None
    assert (alone.checkpoint.label, alone.checkpoint.ref) == ("name", reference.ref)
    # What describes the weights is part of what was measured.
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / COMMITS["main"] / "preprocessor_config.json"
    snapshot.unlink()
    snapshot.write_bytes(described(0.5))
    assert make_plan(file, Catalog.load()).runs[0].run_id != plan.runs[0].run_id
