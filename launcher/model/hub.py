"""Whether what is named on the hub can be had where the run takes place, asked before anything is queued.

Three things can be wrong: the hub is switched off and its cache lacks the model; the hub cannot be reached from here;
the hub has no such model, or not for us. Each would come out minutes or hours later, after many retries.
"""

from __future__ import annotations

import shlex
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.errors import JobError
from launcher.model.files import hub_home
from launcher.model.hub_cache import RunCache, cache_of_run
from launcher.yamlfile.problems import SettingError

SECONDS = 5.0
REFUSALS = {
    401: "the hub has no such model, or only for those who may see it",
    403: "the hub gives it only to those who have accepted its terms",
    404: "the hub has no such model",
}
SETTING = "model.path"


def require_hub_files(trainer: Mapping[str, Any], launch: Mapping[str, Any], *, ask: bool = True) -> None:
    """Refuses a model or a data set of the hub that the run could not load.

    Args:
        trainer: The plan's `trainer`.
        launch: The plan's `launch`, which names the scheduler and the environment that its jobs get.
        ask: Whether the hub itself may be asked.

    Raises:
        SettingError: what is wrong with `model.path`, or with a source of data.
    """
    hub = cache_of_run(launch)
    named = trainer.get("model") or {}  # what a plan lacks, its reader says
    model, revision = named.get("path"), named.get("revision")
    if model and _is_hub_name(model):
        _require_model(model, revision, hub, ask and (launch.get("backend") or "local") == "local")
    for number, source in enumerate((trainer.get("data") or {}).get("train") or ()):
        if hub.switch and _is_hub_name(source["path"]) and hub.lacks_data_set(source["path"]):
            words = f"{hub.cache.parent} does not hold this data set, and {_forbids(hub)}"
            remedy = "Download it where there is a network, and name its files."
            raise SettingError(f"data.train.{number}.path", words, got=source["path"], remedy=remedy)


def _require_model(model: str, revision: str | None, hub: RunCache, ask: bool) -> None:
    lacks = hub.lacks(model, revision)
    if not hub.switch and lacks != "" and ask:
        _ask(model, revision, hub.environment)
    if hub.switch and lacks:
        where = shlex.quote(str(hub.here or hub.cache))
        remedy = f"Where there is a network: HF_HUB_CACHE={where} {download(model, revision)}. Or name"
        raise SettingError(SETTING, f"{lacks}, and {_forbids(hub)}", got=model, remedy=f"{remedy} a folder.")


def _forbids(hub: RunCache) -> str:
    return f"{hub.switch}={hub.environment[hub.switch]} forbids to ask the hub"


def _is_hub_name(path: str) -> bool:
    return not path.startswith(("/", ".", "~")) and not Path(path).exists()


def download(model: str, revision: str | None) -> str:
    """The command that brings a model into the cache."""
    return shlex.join(["hf", "download", model, *(["--revision", revision] if revision else [])])


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
    try:
        place = environment.get("HF_TOKEN_PATH") or hub_home(environment) / "token"
        return Path(place).read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # none, or no text
        return ""


def caution(trainer: Mapping[str, Any], launch: Mapping[str, Any]) -> str:
    """What `require_hub_files` would refuse, as a line for a plan; the hub is not asked."""
    try:
        require_hub_files(trainer, launch, ask=False)
    except JobError as error:
        return error.message
    return ""
