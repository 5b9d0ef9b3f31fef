"""Check before submission that the run can load the models and datasets that it names on the Hugging Face hub.

Three things can be wrong: offline mode is on and the cache lacks the model; the hub cannot be reached from here; the
hub has no such model or denies access. The run would fail with each only minutes or hours later, after many retries.
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

TIMEOUT_SECONDS = 5.0
HTTP_REFUSALS = {
    401: "the hub has no such model, or only for those who may see it",
    403: "the hub gives it only to those who have accepted its terms",
    404: "the hub has no such model",
}
SETTING = "model.path"


def require_hub_files(trainer: Mapping[str, Any], launch: Mapping[str, Any], *, ask: bool = True) -> None:
    """Refuse a model or dataset on the hub that the run could not load.

    Args:
        trainer: `trainer` of plan.json.
        launch: `launch` of plan.json, which names the scheduler and the environment of its jobs.
        ask: Whether to send a request to the hub.

    Raises:
        SettingError: the run could not load `model.path` or a data source; it says why.
    """
    hub = cache_of_run(launch)
    named = trainer.get("model") or {}  # an incomplete plan is refused where it is read, not here
    model, revision = named.get("path"), named.get("revision")
    if model and _is_hub_name(model):
        _require_model(model, revision, hub, ask and (launch.get("backend") or "local") == "local")
    for number, source in enumerate((trainer.get("data") or {}).get("train") or ()):
        if hub.offline_switch and _is_hub_name(source["path"]) and hub.lacks_dataset(source["path"]):
            message = f"{hub.cache.parent} does not hold this data set, and {_offline_message(hub)}"
            remedy = "Download it where there is a network, and name its files."
            raise SettingError(f"data.train.{number}.path", message, got=source["path"], remedy=remedy)


def _require_model(model: str, revision: str | None, hub: RunCache, ask: bool) -> None:
    """Refuse a model that is neither in the run's cache nor to be had from the hub."""
    missing = hub.describe_missing_files(model, revision)
    if not hub.offline_switch and missing != "" and ask:
        _ask_hub(model, revision, hub.environment)
    if hub.offline_switch and missing:
        cache = shlex.quote(str(hub.here or hub.cache))
        remedy = f"Where there is a network: HF_HUB_CACHE={cache} {download_command(model, revision)}. Or name"
        raise SettingError(SETTING, f"{missing}, and {_offline_message(hub)}", got=model, remedy=f"{remedy} a folder.")


def _offline_message(hub: RunCache) -> str:
    return f"{hub.offline_switch}={hub.environment[hub.offline_switch]} forbids to ask the hub"


def _is_hub_name(path: str) -> bool:
    return not path.startswith(("/", ".", "~")) and not Path(path).exists()


def download_command(model: str, revision: str | None) -> str:
    """Return the shell command that downloads a model into the cache."""
    return shlex.join(["hf", "download", model, *(["--revision", revision] if revision else [])])


def _ask_hub(model: str, revision: str | None, environment: Mapping[str, str]) -> None:
    """Send one HEAD request for the model's config.json. An answer that is not about the model is ignored.

    Raises:
        SettingError: the hub has no such model, denies access, or cannot be reached.
    """
    endpoint = environment.get("HF_ENDPOINT") or "https://huggingface.co"
    request = urllib.request.Request(f"{endpoint}/{model}/resolve/{revision or 'main'}/config.json", method="HEAD")
    if token := _token(environment):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        urllib.request.build_opener(_NoRedirect()).open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code in HTTP_REFUSALS:
            login = "" if error.code == 404 else " Log in: hf auth login, or set HF_TOKEN."
            at_revision = f" at revision {revision}" if revision else ""
            message = f"{HTTP_REFUSALS[error.code]}{at_revision} (HTTP {error.code})"
            raise SettingError(SETTING, message, got=model, remedy=f"See {endpoint}/{model}.{login}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, OSError) and "CERTIFICATE" not in str(error.reason):
            message = f"is not in the cache here, and the hub ({endpoint}) cannot be reached: {error.reason}"
            remedy = f"Name a folder; or, where there is a network: {download_command(model, revision)}."
            raise SettingError(SETTING, message, got=model, remedy=remedy) from None
    except (OSError, ValueError):
        return  # a timeout or a malformed answer: the download itself retries


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Does not follow redirects: one already shows that the file exists, and the token must not go to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _token(environment: Mapping[str, str]) -> str:
    if token := environment.get("HF_TOKEN") or environment.get("HUGGING_FACE_HUB_TOKEN"):
        return token.strip()
    try:
        token_file = environment.get("HF_TOKEN_PATH") or hub_home(environment) / "token"
        return Path(token_file).read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # the file is missing or is not ASCII text
        return ""


def hub_problem(trainer: Mapping[str, Any], launch: Mapping[str, Any]) -> str:
    """Return the message with which `require_hub_files` refuses a plan, without asking the hub; empty if it is fine."""
    try:
        require_hub_files(trainer, launch, ask=False)
    except JobError as error:
        return error.message
    return ""
