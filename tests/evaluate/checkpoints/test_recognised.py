"""What people give by mistake is called by its name, with what to do; nothing of it is read as something else."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from evaluate.checkpoints.sources.folders import open_checkpoint
from pretrain.runtime.errors import InputError


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("folder/model.pth"), io.BytesIO(b""))
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return stream.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 343268717\n"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("model.gguf", b"GGUF\x03\0\0\0" + bytes(40), "it is a GGUF file"),
        # ModelProto: field 1 the IR version, then the producer's name, or the graph at once.
        ("model.onnx", b"\x08\x08\x12\x07pytorch\x1a\x052.4.0:" + bytes(40), "it is an ONNX model"),
        ("model.onnx", b"\x08\x0a:\x8c\x01" + bytes(40), "it is an ONNX model"),
        ("model.pth", LFS, r"Git LFS pointer, not the file itself \(343\.3 MB\); run `git lfs pull`"),
        ("model.pth", b"/annex/objects/SHA256E-s12--abc.pth\n", "git-annex pointer.*git annex get"),
        ("model.pth", b"<!DOCTYPE html>\n<html><head><title>404</title>", "it is a web page"),
        ("model.pth", b"\xef\xbb\xbf \n<html>", "it is a web page"),
        ("model.pth", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "it is a web page"),
        ("model.pth", b'{"error": "Invalid username or password."}', "it is a JSON text"),
        ("model.pth", b"Not Found", "it is a text, not a checkpoint"),
        ("checkpoint", b'model_checkpoint_path: "model.ckpt-1000"\n', "it is a text, not a checkpoint"),
        ("model.pth.tar", tar(), "it is a tar archive.*unpack it"),
        ("model.ckpt.index", b"\0\0\x0b\x1a\x01" + bytes(60), "part of a TensorFlow checkpoint"),
        ("model.ckpt.data-00000-of-00001", bytes(64), "part of a TensorFlow checkpoint"),
        ("model.ckpt.meta", b"\x0a\xf0\x01" + bytes(60), "part of a TensorFlow checkpoint"),
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(64), "it is an HDF5 file"),
        ("model.tflite", b"\x1c\0\0\0TFL3" + bytes(64), "TensorFlow Lite"),
        ("model.7z", b"7z\xbc\xaf\x27\x1c" + bytes(64), "7-Zip archive"),
        ("model.rar", b"Rar!\x1a\x07\x01" + bytes(64), "RAR archive"),
        ("model.pth.bz2", b"BZh9" + bytes(64), "compressed by bzip2"),
        ("flax_model.msgpack", b"\x81\xa6params\x81\xa4conv", "msgpack file"),
        ("frozen.pb", b"\x0a\x10\x0a\x05input" + bytes(40), "TensorFlow graph"),
        ("r50.caffemodel", b"\x0a\x09ResNet-50" + bytes(40), "Caffe model"),
        ("weights.mat", b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(40), "MATLAB file"),
        ("model.tar.gz", gzip.compress(tar()), "it is a tar archive"),
        ("model.pth.gz", gzip.compress(b"<html>denied</html>"), "it is a web page"),
        ("model.keras", zipped("config.json", "model.weights.h5"), "Keras archive"),
        ("artifact.zip", zipped("checkpoints/model.pth"), "unpack it and give the checkpoint inside"),
        ("picture.pth", b"\x89PNG\r\n\x1a\n" + bytes(64), "it is a picture"),
        ("zeros.pth", bytes(200), "no known container"),
    ],
    # By what is said, not by the bytes: gzip's hold the time, and the workers of xdist must collect the same names.
    ids=lambda value: "" if isinstance(value, bytes) else str(value),
)
def test_it_is_called_by_its_name(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=said):
        open_checkpoint(path)


def test_links_of_git_annex_that_lead_nowhere(tmp_path: Path) -> None:
    link = tmp_path / "model.pth"
    link.symlink_to(".git/annex/objects/aa/bb/SHA256E-s1--c.pth/SHA256E-s1--c.pth")
    with pytest.raises(InputError, match=r"a link of git-annex.*git annex get"):
        open_checkpoint(link)
    other = tmp_path / "other.pth"
    other.symlink_to("gone.pth")
    with pytest.raises(InputError, match="a link to gone.pth, where nothing is"):
        open_checkpoint(other)


def test_no_honest_pickle_is_taken_for_a_text(tmp_path: Path, peers: Any) -> None:
    import pickle

    (tmp_path / "file.pkl").write_bytes(pickle.dumps({"epoch": 1, "names": ["a", "b"]}, 0))
    assert open_checkpoint(tmp_path / "file.pkl").root == {"epoch": 1, "names": ["a", "b"]}


def test_pointers_inside_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(LFS)
    with pytest.raises(InputError, match="Git LFS pointer"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_bytes(LFS)
    with pytest.raises(InputError, match=r"index\.json is refused: it is a Git LFS pointer"):
        open_checkpoint(tmp_path)


def test_a_pickle_under_the_name_of_another_format(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "odd.pb").write_bytes(pickle.dumps({"epoch": 1}, 4))
    assert open_checkpoint(tmp_path / "odd.pb").root == {"epoch": 1}
