"""Whether a model that is named on the hub can be had where the run takes place, asked before anything is queued.

Three things can be wrong: the hub is switched off and its cache lacks the model; the hub cannot be reached from here;
the hub has no such model, or not for us. Each would come out minutes or hours later, after many retries.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.errors import JobError
from launcher.jobfile.problems import SettingError
from launcher.modelfiles import hub_cache, snapshot

SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
ON = ("1", "on", "yes", "true")
SECONDS = 5.0
REFUSALS = {
    401: "the hub has no such model, or only for those who may see it",
    403: "the hub gives it only to those who have accepted its terms",
    404: "the hub has no such model",
}
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
SETTING = "model.path"


def require_model(trainer: Mapping[str, Any], launch: Mapping[str, Any], *, ask: bool = True) -> None:
    """Refuses a model of the hub that the run could not load.

    Args:
        trainer: The plan's `trainer`.
        launch: The plan's `launch`, which names the scheduler and the environment that its jobs get.
        ask: Whether the hub itself may be asked.

    Raises:
        SettingError: what is wrong with `model.path`.
    """
    model, revision = trainer["model"]["path"], trainer["model"].get("revision")
    backend = launch.get("backend") or "local"
    if Path(model).exists() or model.startswith("/") or backend == "kubernetes":  # in pods the cache is another one
        return
    environment = {**os.environ, **((launch.get(backend) or {}).get("environment") or {})}
    off = next((name for name in SWITCHES if environment.get(name, "").lower() in ON), "")
    cache = hub_cache(environment)
    if (lacks := what_is_missing(model, revision, cache)) == "":
        return
    if off and (backend == "local" or cache.is_dir()):  # a folder that is not here may be on the nodes
        raise SettingError(
            SETTING,
            f"{lacks}, and {off}={environment[off]} forbids to ask the hub",
            got=model,
            remedy=f"Where there is a network: {download(model, revision)}. Or name a folder.",
        )
    if ask and not off and backend == "local":
        _ask(model, revision, environment)


def download(model: str, revision: str | None) -> str:
    """The command that brings a model into the cache."""
    return f"hf download {model}" + (f" --revision {revision}" if revision else "")


def what_is_missing(model: str, revision: str | None, cache: Path) -> str:
    """What the cache lacks of a model, in words; empty when a run finds there all that it loads."""
    folder = snapshot(model, revision, cache)
    if folder is None:
        return f"{cache} does not hold it" + (f" at revision {revision}" if revision else "")
    groups = {"config.json": ("config.json",), "its tokenizer": TOKENIZER, "its weights": WEIGHTS}
    missing = [name for name, patterns in groups.items() if not any(list(folder.glob(one)) for one in patterns)]
    return f"{folder} lacks {' and '.join(missing)}" if missing else ""


def _ask(model: str, revision: str | None, environment: Mapping[str, str]) -> None:
    """One short question to the hub; an answer that says nothing about the model lets the run try."""
    endpoint = environment.get("HF_ENDPOINT") or "https://huggingface.co"
    request = urllib.request.Request(f"{endpoint}/{model}/resolve/{revision or 'main'}/config.json", method="HEAD")
    if token := _token(environment):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        urllib.request.build_opener(_Stay()).open(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code in REFUSALS:
            login = "" if error.code == 404 else " Log in: hf auth login, or set HF_TOKEN."
            where = f" at revision {revision}" if revision else ""
            words = f"{REFUSALS[error.code]}{where} (HTTP {error.code})"
            raise SettingError(SETTING, words, got=model, remedy=f"See {endpoint}/{model}.{login}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, OSError) and "CERTIFICATE" not in str(error.reason):
            words = f"is not in the cache here, and the hub ({endpoint}) cannot be reached: {error.reason}"
            remedy = f"Name a folder; or, where there is a network: {download(model, revision)}."
            raise SettingError(SETTING, words, got=model, remedy=remedy) from None
    except (OSError, ValueError):
        return  # slow, or odd: whoever downloads has more patience


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect says that it is there; it is not followed, so the token goes nowhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _token(environment: Mapping[str, str]) -> str:
    if token := environment.get("HF_TOKEN") or environment.get("HUGGING_FACE_HUB_TOKEN"):
        return token.strip()
    home = Path(environment.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    try:
        return Path(environment.get("HF_TOKEN_PATH") or home / "token").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def caution(trainer: Mapping[str, Any], launch: Mapping[str, Any]) -> str:
    """What `require_model` would refuse, as a line for a plan; the hub is not asked."""
    try:
        require_model(trainer, launch, ask=False)
    except JobError as error:
        return error.message
    return ""
