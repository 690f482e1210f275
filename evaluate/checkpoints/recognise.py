"""Files that are no checkpoint this suite reads, told by their first bytes: what each is, and what to do with it."""

from __future__ import annotations

import re
from pathlib import Path

# Longest text that is looked at, and enough for every mark below.
START_BYTES = 4096


def foreign(path: Path, start: bytes) -> str | None:
    """What a file is that is not read here, with what to do, as a sentence; None for a file of no such kind."""
    for mark, at, said in _MARKS:
        if start[at : at + len(mark)] == mark:
            return said
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return f"it is a Git LFS pointer, not the file itself{_lfs_size(start)}; run `git lfs pull` where it was cloned"
    if start.startswith((b"/annex/objects/", b"../annex/objects/")) or b".git/annex/objects/" in start[:200]:
        return "it is a git-annex pointer, not the file itself; run `git annex get` on it"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")):
        return "it is a web page, not a checkpoint: the download gave an error or a login page; fetch it anew"
    if text.startswith((b"{", b"[")) and is_text(start):
        return "it is a JSON text; expected a checkpoint (or a folder with its config.json beside its weights)"
    if _onnx(start):
        return (
            "it is an ONNX model: its weights have lost the names of their layers; give the checkpoint it was made from"
        )
    if path.suffix in (".index", ".meta") or re.search(r"\.data-\d{5}-of-\d{5}$", path.name):
        return TENSORFLOW
    return next((said for suffix, said in _SUFFIXES.items() if path.suffix == suffix and not _read_here(start)), None)


def _read_here(start: bytes) -> bool:
    """Whether a file begins as a pickle does, whatever it is called."""
    return start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def is_text(start: bytes) -> bool:
    """Whether a file begins as readable text: then it is no checkpoint, unless it is a pickle of protocol 0."""
    try:
        text = start[: START_BYTES - 4].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return bool(text) and all(c.isprintable() or c in "\r\n\t" for c in text)


TENSORFLOW = "it is part of a TensorFlow checkpoint; convert it to torch with the project's own script first"
# Formats without a mark of their own: told by the name, and only where nothing that is read here begins so.
_SUFFIXES = {
    ".msgpack": "it is a msgpack file (Flax); convert it: from_pretrained(..., from_flax=True).save_pretrained(OUT)",
    ".pb": "it is a TensorFlow graph; convert it to torch with the project's own script first",
    ".caffemodel": "it is a Caffe model; convert it to torch first",
    ".onnx": "it is an ONNX model, or what is left of one; give the checkpoint it was made from",
    ".engine": "it is a TensorRT engine; give the checkpoint it was made from",
}
_PACKED = "unpack it and give the checkpoint inside"
_MARKS: tuple[tuple[bytes, int, str], ...] = (
    (b"GGUF", 0, "it is a GGUF file (llama.cpp): its numbers are quantised; give the checkpoint it was made from"),
    (b"ggml", 0, "it is a GGML file (llama.cpp): its numbers are quantised; give the checkpoint it was made from"),
    (b"\x89HDF\r\n\x1a\n", 0, "it is an HDF5 file (Keras); expected a torch, safetensors, pickle or npz file"),
    (b"ustar", 257, f"it is a tar archive (a packed folder, or torch before 0.1.10); {_PACKED}"),
    (b"7z\xbc\xaf\x27\x1c", 0, f"it is a 7-Zip archive; {_PACKED}"),
    (b"Rar!\x1a\x07", 0, f"it is a RAR archive; {_PACKED}"),
    (b"BZh", 0, "it is compressed by bzip2; unpack it with bunzip2 first"),
    (b"\x04\x22\x4d\x18", 0, "it is compressed by lz4; unpack it with lz4 -d first"),
    (b"TFL3", 4, "it is a TensorFlow Lite model; give the checkpoint it was made from"),
    (b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", 0, "it is the index of a TensorFlow checkpoint; convert it to torch first"),
    (b"MATLAB 5.0", 0, "it is a MATLAB file; load it with scipy.io.loadmat and save its arrays with numpy.savez"),
    (b"%PDF", 0, "it is a PDF, not a checkpoint"),
    (b"\x7fELF", 0, "it is a program or library (ELF), not a checkpoint"),
    (b"\x89PNG", 0, "it is a picture, not a checkpoint"),
    (b"\xff\xd8\xff", 0, "it is a picture, not a checkpoint"),
    (b"SQLite format 3\x00", 0, "it is an SQLite database, not a checkpoint"),
    (b"PAR1", 0, "it is a Parquet file: data, not a checkpoint"),
)


def _onnx(start: bytes) -> bool:
    """A protobuf that begins as ONNX's ModelProto does: field 1 the IR version, then its producer or its graph."""
    return len(start) > 4 and start[0] == 0x08 and 1 <= start[1] <= 20 and start[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)


def _lfs_size(start: bytes) -> str:
    found = re.search(rb"\nsize (\d{1,15})\n", start)
    return f" ({int(found[1]) / 1e6:.1f} MB)" if found else ""
