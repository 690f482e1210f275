"""Repositories of the Hugging Face hub: from its cache if they lie there, else fetched, always pinned to a commit."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from evaluate.checkpoints import beside
from evaluate.checkpoints.file_bytes import FileBytes, OpenFile
from evaluate.checkpoints.limits import readable
from evaluate.checkpoints.sources.folders import INDEX, choose, shards_of
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import sha256_of_file, write_text

PREFIX = "hf:"
_REFERENCE = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?::([\w./-]+))?")


def fetch(ref: str) -> tuple[Path, str]:
    """(a folder with the repository's weights or the one file asked for, the reference with its commit).

    Raises:
        InputError: not a reference, no such repository, revision or file, no access, or no network.
    """
    repository, revision, file = _parsed(ref)
    found = _cached(repository, revision, file, whole=not offline())
    if found is None:
        if offline():
            raise InputError(
                f"{ref} does not lie in the cache ({_cache()}), and HF_HUB_OFFLINE forbids to fetch it; where there "
                f"is a network: hf download {repository}"
            )
        found = _fetched(ref, repository, revision, file)
    folder, commit = found
    pinned = f"{PREFIX}{repository}@{commit}" + (f":{file}" if file else "")
    return (folder / file if file else folder), pinned


def offline() -> bool:
    """Whether the environment forbids to ask the network: HF_HUB_OFFLINE, as huggingface_hub reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _parsed(ref: str) -> tuple[str, str, str | None]:
    found = _REFERENCE.fullmatch(ref)
    parts = (*found.groups(),) if found else ("",)
    if found is None or any(".." in (part or "") or (part or "").startswith(("/", ".")) for part in parts):
        raise InputError(f"{readable(ref)} names no repository of the hub; expected hf:ORG/NAME, hf:ORG/NAME@REVISION")
    repository, revision, file = parts
    return repository, revision or "main", file


def _cache() -> Path:
    # Read when it is asked for: huggingface_hub reads the environment once, when it is imported.
    if given := os.environ.get("HF_HUB_CACHE"):
        return Path(given).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(home).expanduser() / "hub"


def _place(repository: str) -> Path:
    return _cache() / f"models--{repository.replace('/', '--')}"


def _cached(repository: str, revision: str, file: str | None, *, whole: bool) -> tuple[Path, str] | None:
    """(folder, commit) of a snapshot that holds what is wanted; `whole`: with the config that describes it."""
    place = _place(repository)
    commit = revision
    if not (place / "snapshots" / commit).is_dir():
        try:
            commit = (place / "refs" / revision).read_text(encoding="utf-8").strip()[:100]
        except OSError:
            return None
    folder = place / "snapshots" / commit
    if not re.fullmatch(r"[0-9a-f]{7,64}", commit) or not folder.is_dir():
        return None
    if file is not None:
        return (folder, commit) if (folder / file).is_file() else None
    names = {path.name for path in folder.iterdir() if path.is_file()}
    described = "config.json" in names or (place / ".no_exist" / commit / "config.json").is_file()
    try:
        name = choose(repository, names)
        complete = all((folder / part).is_file() for part in _parts(folder, name))
    except InputError:
        return None
    return (folder, commit) if complete and (described or not whole) else None


def _parts(folder: Path, name: str) -> list[str]:
    """The files that a choice stands for: itself, or the shards of an index."""
    if not name.endswith(INDEX):
        return [name]
    index = OpenFile(folder / name)
    return list(dict.fromkeys(shards_of(bytes(FileBytes(index)), str(folder / name)).values()))


def _fetched(ref: str, repository: str, revision: str, file: str | None) -> tuple[Path, str]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        info = api.model_info(repository, revision=revision, files_metadata=True)
        assert info.sha is not None
        listed = {each.rfilename: each for each in info.siblings or ()}
        folder = _downloaded(api, repository, info.sha, listed, file)
        if revision != info.sha:
            # huggingface_hub's note of which commit a branch or tag was when it was fetched.
            write_text(_place(repository) / "refs" / revision, info.sha)
        return folder, info.sha
    except GatedRepoError:
        raise InputError(f"{ref} is gated: accept its terms on the hub, and log in with `hf auth login`") from None
    except RepositoryNotFoundError:
        raise InputError(f"{ref}: the hub has no such repository, or it is private (`hf auth login`)") from None
    except RevisionNotFoundError:
        raise InputError(f"{ref}: the repository has no revision {revision!r}") from None
    except EntryNotFoundError:
        raise InputError(f"{ref}: the repository has no such file") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise InputError(f"{ref} cannot be fetched: the hub answers {status}") from None
    except (InputError, AssertionError):
        raise
    except Exception as error:
        # The HTTP library's own errors, whose names change with its version: no route, no such host, time is over.
        raise InputError(f"{ref} cannot be fetched from the hub: {readable(str(error), 300)}") from None


def _downloaded(api: Any, repository: str, commit: str, listed: dict[str, Any], file: str | None) -> Path:
    def download(name: str) -> Path:
        path = Path(api.hf_hub_download(repository, name, revision=commit, cache_dir=_cache()))
        expected = getattr(getattr(listed.get(name), "lfs", None), "sha256", None)
        if expected and sha256_of_file(path) != expected:
            raise InputError(f"{path} is not what the hub says it is: its SHA-256 should be {expected}; delete it")
        return path

    if file is not None:
        if file not in listed:
            raise InputError(f"{PREFIX}{repository}@{commit} holds no file {readable(file)}")
        download(file)
        described = _download_all(download, _beside(listed))
        return described or _snapshot(repository, commit)
    name = choose(f"{PREFIX}{repository}", {each for each in listed if "/" not in each})
    folder = download(name).parent
    _download_all(download, [part for part in _parts(folder, name) if part != name])
    _download_all(download, _beside(listed))
    if "config.json" not in listed:
        # huggingface_hub's own note that a file is not there, so that the cache is known to hold all there is.
        absent = folder.parent.parent / ".no_exist" / commit / "config.json"
        absent.parent.mkdir(parents=True, exist_ok=True)
        absent.touch()
    return folder


def _beside(listed: Collection[str]) -> list[str]:
    return [name for name in beside.NAMES if name in listed]


def _download_all(download: Any, names: list[str]) -> Path | None:
    folder = None
    for name in names:
        folder = download(name).parent
    return folder


def _snapshot(repository: str, commit: str) -> Path:
    return _place(repository) / "snapshots" / commit
