"""Files of the web by their address and digest: fetched once into the cache, and never used if the digest differs."""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from evaluate.checkpoints.limits import readable
from evaluate.checkpoints.sources.hub import offline
from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import replacing, sha256_of_file

SCHEMES = ("https://", "http://")
TIMEOUT_S = 60


def fetch(ref: str) -> tuple[Path, str]:
    """(the file, its address with its whole digest).

    Raises:
        InputError: an address without a digest, no answer, or content of another digest.
    """
    address, digest = _parsed(ref)
    name = re.sub(r"[^\w.-]", "_", urllib.parse.unquote(urllib.parse.urlsplit(address).path).rpartition("/")[2])[-100:]
    path = cache_root() / "downloads" / digest / (name or "file")
    if not path.is_file():
        if offline():
            raise InputError(f"{readable(address)} does not lie in the cache, and HF_HUB_OFFLINE forbids to fetch it")
        _download(address, digest, path)
    whole = sha256_of_file(path)
    if not whole.startswith(digest):
        raise InputError(f"{path} was changed after it was fetched: its SHA-256 is now {whole}; delete it")
    return path, f"{address}#sha256={whole}"


def _parsed(ref: str) -> tuple[str, str]:
    address, _, fragment = ref.partition("#")
    given = re.fullmatch(r"sha256=([0-9a-fA-F]{8,64})", fragment)
    # torch.hub's convention: the name ends in a dash and the first digits of the file's SHA-256.
    named = re.search(r"-([0-9a-f]{8,64})\.\w+$", urllib.parse.urlsplit(address).path)
    found = given or (named if not fragment else None)
    if found is None:
        raise InputError(
            f"{readable(ref)} does not say its digest; expected URL#sha256=HEX (of a file that you trust: "
            "`sha256sum FILE`), or a name that ends in its first digits, as resnet50-0676ba61.pth"
        )
    return address, found[1].lower()


def _download(address: str, digest: str, path: Path) -> None:
    hashed = hashlib.sha256()
    shown = readable(address)
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "fastmoco"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer, replacing(path) as target:
            expected = _length(answer)
            received = 0
            while piece := answer.read(2**20):
                hashed.update(piece)
                received += len(piece)
                target.write(piece)
            if expected is not None and received != expected:
                raise InputError(f"{shown} broke off after {received} of {expected} bytes; try again")
            if not hashed.hexdigest().startswith(digest):
                raise InputError(f"{shown} has SHA-256 {hashed.hexdigest()}, expected {digest}: it is not that file")
    except urllib.error.HTTPError as error:
        error.close()
        raise InputError(
            f"{shown} cannot be fetched: the server answers {error.code} {readable(error.reason, 80)}"
        ) from None
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise InputError(f"{shown} cannot be fetched: {readable(str(getattr(error, 'reason', error)), 200)}") from None
    except InputError:
        raise
    except ValueError:
        raise InputError(f"{shown} is no address") from None


def _length(answer: Any) -> int | None:
    said = answer.headers.get("Content-Length", "")
    return int(said) if said.isdigit() else None
