"""The Kubernetes API through its official client, which is imported when the first question is asked.

Answers are plain JSON: what they mean is said in `facts`, which needs no client.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from cluster.errors import ClusterError
from cluster.kubernetes.client.errors import KubernetesError, refusal, unreachable
from cluster.submitting.installing import install_line

_SECONDS = (5.0, 30.0)
"""To connect, and for an answer."""
_RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0)
_WATCH_SECONDS = 10.0
_WAIT_SECONDS = 2.0
_AGAIN = ("unreachable", "busy")
JOBSET = ("jobset.x-k8s.io", "v1alpha2")
KUEUE = ("kueue.x-k8s.io", "v1beta1")

Json = dict[str, Any]
Answer = TypeVar("Answer")


class Api:
    """One namespace of one cluster, as the user's kubeconfig reaches it."""

    def __init__(self, context: str = "", namespace: str = "", retry_seconds: Sequence[float] = _RETRY_SECONDS) -> None:
        self._context, self._named, self._retry = context, namespace, retry_seconds
        self._client: Any = None
        self._served: dict[tuple[str, str], frozenset[str]] = {}

    @property
    def namespace(self) -> str:
        """The profile's namespace, else the context's."""
        return self._named or self._context_namespace()

    def listed(self, kind: str, selector: str = "", fields: str = "") -> list[Json]:
        """Objects of a kind: pods, events, resource_quota, limit_range, persistent_volume_claim."""
        group = "Core" if kind != "job" else "Batch"
        found = self._ask(
            f"list {kind}s",
            group,
            f"list_namespaced_{kind}",
            self.namespace,
            label_selector=selector or None,
            field_selector=fields or None,
        )
        return list(found.get("items") or [])

    def read(self, kind: str, name: str) -> Json | None:
        """One object; None when it is not there."""
        group = "Core" if kind not in ("job",) else "Batch"
        return self._or_none(
            lambda: self._ask(f"get {kind} {name}", group, f"read_namespaced_{kind}", name, self.namespace)
        )

    def listed_custom(self, kind: tuple[str, str], plural: str, selector: str = "") -> list[Json] | None:
        """Objects of an extension; None when it is not there."""
        arguments = (*kind, self.namespace, plural)
        found = self._or_none(
            lambda: self._ask(
                f"list {plural}.{kind[0]}",
                "CustomObjects",
                "list_namespaced_custom_object",
                *arguments,
                label_selector=selector or None,
            )
        )
        return None if found is None else list(found.get("items") or [])

    def serves(self, kind: tuple[str, str], plural: str) -> bool:
        """Whether an extension is installed."""
        if kind not in self._served:
            what = f"ask for {kind[0]}"
            found = self._or_none(lambda: self._ask(what, "CustomObjects", "get_api_resources", *kind)) or {}
            self._served[kind] = frozenset(str(one.get("name")) for one in found.get("resources") or [])
        return plural in self._served[kind]

    def may(self, verb: str, resource: str, group: str = "", subresource: str = "") -> bool:
        """Whether this user may do that in the namespace."""
        wanted = {"namespace": self.namespace, "verb": verb, "resource": resource, "group": group}
        review = {"spec": {"resourceAttributes": wanted | ({"subresource": subresource} if subresource else {})}}
        found = self._ask("ask what you may do", "Authorization", "create_self_subject_access_review", review)
        return bool((found.get("status") or {}).get("allowed"))

    def version(self) -> str:
        """The API server's version, `v1.36.3`."""
        return str(self._ask("ask for the version", "Version", "get_code").get("gitVersion", ""))

    def cluster(self, kind: str, name: str = "") -> list[Json] | None:
        """Objects that belong to no namespace (node, namespace); None when this user may not see them."""
        try:
            if name:
                return [self._ask(f"get {kind} {name}", "Core", f"read_{kind}", name)]
            return list(self._ask(f"list {kind}s", "Core", f"list_{kind}").get("items") or [])
        except KubernetesError as error:
            if error.kind in ("forbidden", "not_found"):
                return None
            raise

    def try_to_create(self, manifest: Mapping[str, Any]) -> None:
        """Lets the API check an object as if it were made: admission, quota, rights. Nothing is made.

        Raises:
            KubernetesError: what `submit` would be told.
        """
        group, function, arguments = _creation(manifest)
        what = f"{manifest['kind']} {manifest['metadata'].get('name', '')}"
        self._ask(what, group, function, *arguments, self.namespace, *_plural(manifest), dict(manifest), dry_run="All")

    @staticmethod
    def manifests(text: str) -> Iterator[Json]:
        """The objects in rendered manifests; hooks, which are made when somebody asks for them, are left out."""
        import yaml  # the client brings it along

        for found in yaml.safe_load_all(text):
            if found and "helm.sh/hook" not in ((found.get("metadata") or {}).get("annotations") or {}):
                yield found

    def create_pod(self, manifest: Mapping[str, Any]) -> None:
        """Makes a pod."""
        self._ask("create a pod", "Core", "create_namespaced_pod", self.namespace, dict(manifest))

    def delete_pod(self, name: str) -> None:
        """Removes a pod at once, if it is there."""
        self._or_none(
            lambda: self._ask(
                f"delete pod {name}", "Core", "delete_namespaced_pod", name, self.namespace, grace_period_seconds=0
            )
        )

    def pod_log(self, pod: str, container: str, last_lines: int) -> str:
        """The end of what a container printed; empty when nobody keeps it any more."""
        try:
            return self._text(
                f"logs of pod {pod}",
                "read_namespaced_pod_log",
                pod,
                self.namespace,
                container=container,
                tail_lines=last_lines,
            )
        except KubernetesError as error:
            if error.kind in ("not_found", "invalid"):
                return ""
            raise

    def execute(self, pod: str, container: str, command: Sequence[str], seconds: float = 60.0) -> tuple[str, str, int]:
        """Runs a command in a container: what it printed, what it said on standard error, and its exit code."""
        return self._again(f"exec in pod {pod}", lambda: self._execute(pod, container, command, seconds))

    def changes(self, selector: str, seconds: float) -> Iterator[str]:
        """Gives the name of each pod that changes, for so long. An API that restarts or forgets is asked anew."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                yield from self._watch(selector, min(left, _WATCH_SECONDS))
            except KubernetesError as error:
                if error.kind not in (*_AGAIN, "gone"):
                    raise
                time.sleep(min(_WAIT_SECONDS, max(0.0, deadline - time.monotonic())))
            yield ""  # nothing was heard, or something was missed: look

    def _watch(self, selector: str, seconds: float) -> Iterator[str]:
        from kubernetes import watch
        from kubernetes.client.exceptions import ApiException

        untyped: Any = watch
        options = {"timeout_seconds": max(1, round(seconds)), "_request_timeout": (_SECONDS[0], seconds + _SECONDS[1])}
        list_pods = self._group(self._connected(), "Core").list_namespaced_pod
        watcher: Any = untyped.Watch()
        lost: tuple[type[Exception], ...] = (*self._network_errors(), ValueError)  # a line that is cut off is no JSON
        try:
            for event in watcher.stream(list_pods, self.namespace, label_selector=selector, **options):
                yield str(event["object"].metadata.name)
        except ApiException as error:
            raise refusal("watch pods", error.status or 0, str(error.body or error.reason or "")) from None
        except lost as error:
            raise unreachable("watch pods", self._context, str(error)) from None

    def _execute(self, pod: str, container: str, command: Sequence[str], seconds: float) -> tuple[str, str, int]:
        from kubernetes import stream
        from kubernetes.client.exceptions import ApiException

        client = self._new_client()  # the stream turns the client it is given into one of web sockets
        function = self._group(client, "Core").connect_get_namespaced_pod_exec
        try:
            opened = stream.stream(
                function,
                pod,
                self.namespace,
                command=list(command),
                container=container,
                stdin=False,
                stdout=True,
                stderr=True,
                tty=False,
                _preload_content=False,
            )
        except ApiException as error:
            raise _of_stream(f"exec in pod {pod}", error, self._context) from None
        try:
            opened.run_forever(timeout=seconds)
            return opened.read_stdout(timeout=0) or "", opened.read_stderr(timeout=0) or "", _exit_code(opened)
        except self._network_errors() as error:
            raise unreachable(f"exec in pod {pod}", self._context, str(error)) from None
        finally:
            opened.close()

    def _ask(self, what: str, group: str, function: str, *arguments: Any, **options: Any) -> Json:
        """A question that is asked again while the API server is away."""
        return self._again(what, lambda: _parsed(self._call(what, group, function, *arguments, **options).data))

    def _text(self, what: str, function: str, *arguments: Any, **options: Any) -> str:
        data: bytes = self._again(what, lambda: self._call(what, "Core", function, *arguments, **options).data)
        return data.decode(errors="replace")

    def _call(self, what: str, group: str, function: str, *arguments: Any, **options: Any) -> Any:
        from kubernetes.client.exceptions import ApiException

        given = {"_request_timeout": _SECONDS, **{name: one for name, one in options.items() if one is not None}}
        try:
            response = getattr(self._group(self._connected(), group), function)(
                *arguments, **given, _preload_content=False
            )
        except ApiException as error:
            raise refusal(what, error.status or 0, str(error.body or error.reason or "")) from None
        except self._network_errors() as error:
            raise unreachable(what, self._context, str(error)) from None
        if not 200 <= response.status < 300:
            raise refusal(what, response.status, response.data.decode(errors="replace"))
        return response

    def _again(self, what: str, ask: Callable[[], Answer]) -> Answer:
        for pause in self._retry:
            try:
                return ask()
            except KubernetesError as error:
                if error.kind not in (*_AGAIN, "unauthorised"):
                    raise
                if error.kind == "unauthorised":
                    self._client = None  # a token may have been renewed on disk since it was read
                    break
                time.sleep(pause)
        return ask()

    def _or_none(self, ask: Callable[[], Json]) -> Json | None:
        try:
            return ask()
        except KubernetesError as error:
            if error.kind == "not_found":
                return None
            raise

    def _connected(self) -> Any:
        if self._client is None:
            self._client = self._new_client()
        return self._client

    def _new_client(self) -> Any:
        try:
            from kubernetes import config
        except ImportError:
            raise ClusterError("submitting to Kubernetes needs its Python client", install_line("kubernetes")) from None
        try:
            untyped: Any = config
            return untyped.new_client_from_config(_kubeconfig(), context=self._context or None)
        except (config.ConfigException, OSError, TypeError) as error:
            remedy = (
                "set KUBECONFIG, or correct `context` in the site profile; `kubectl config get-contexts` lists them"
            )
            raise ClusterError(f"no way to a cluster: {error}", remedy) from None

    def _context_namespace(self) -> str:
        from kubernetes import config

        try:
            untyped: Any = config
            contexts, current = untyped.list_kube_config_contexts(_kubeconfig())
        except (config.ConfigException, OSError):
            return "default"
        chosen = [one for one in contexts if one["name"] == self._context] if self._context else [current]
        return str((chosen[0]["context"].get("namespace") if chosen else "") or "default")

    @staticmethod
    def _group(client: Any, group: str) -> Any:
        from kubernetes import client as apis

        name = {"Core": "CoreV1Api", "Batch": "BatchV1Api", "Networking": "NetworkingV1Api", "Apps": "AppsV1Api"}.get(
            group
        )
        name = name or {
            "Rbac": "RbacAuthorizationV1Api",
            "Authorization": "AuthorizationV1Api",
            "Version": "VersionApi",
        }.get(group, f"{group}Api")
        return getattr(apis, name)(client)

    @staticmethod
    def _network_errors() -> tuple[type[Exception], ...]:
        from urllib3.exceptions import HTTPError
        from websocket import WebSocketException

        return (HTTPError, OSError, WebSocketException)


_CREATIONS = {
    "ConfigMap": ("Core", "config_map"),
    "Service": ("Core", "service"),
    "ServiceAccount": ("Core", "service_account"),
    "PersistentVolumeClaim": ("Core", "persistent_volume_claim"),
    "Pod": ("Core", "pod"),
    "Job": ("Batch", "job"),
    "Deployment": ("Apps", "deployment"),
    "NetworkPolicy": ("Networking", "network_policy"),
    "Role": ("Rbac", "role"),
    "RoleBinding": ("Rbac", "role_binding"),
}


def _kubeconfig() -> str | None:
    """The user's choice of now; the client keeps the one from when it was imported."""
    return os.environ.get("KUBECONFIG") or None


def _creation(manifest: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    kind = manifest["kind"]
    if kind in _CREATIONS:
        group, name = _CREATIONS[kind]
        return group, f"create_namespaced_{name}", ()
    api, _, version = str(manifest["apiVersion"]).partition("/")
    return "CustomObjects", "create_namespaced_custom_object", (api, version)


def _plural(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    return () if manifest["kind"] in _CREATIONS else (f"{manifest['kind'].lower()}s",)


def _parsed(data: bytes) -> Json:
    found = json.loads(data)
    return found if isinstance(found, dict) else {}


def _exit_code(stream: Any) -> int:
    """Of a command that was run in a pod; -1 where it did not come to its end, as in a container that has just gone."""
    try:
        code = None if stream.is_open() else stream.returncode
    except (AttributeError, KeyError, TypeError, ValueError):  # the client takes whatever ended it for a number
        return -1
    return -1 if code is None else int(code)


def _of_stream(what: str, error: Any, context: str) -> KubernetesError:
    """A web socket that cannot be opened has the answer's status in its words, if there was an answer."""
    words = str(error.reason or error.body or error)
    found = [code for code in (401, 403, 404, 500, 503) if f"status {code}" in words or f"{code} " in words[:60]]
    return refusal(what, found[0], words) if found else unreachable(what, context, words)
