"""The testbed as a whole: boot it, break it, tear it down."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tests.cluster.kubernetes.testbed import addons, images
from tests.cluster.kubernetes.testbed.cluster import CLAIM, Cluster, claim_with
from tests.cluster.kubernetes.testbed.config import CONTROL, PEOPLE, Settings, Users
from tests.cluster.kubernetes.testbed.control import ControlPlane
from tests.cluster.kubernetes.testbed.host import TestbedError, require_machine, wait_until
from tests.cluster.kubernetes.testbed.machine import Machine, names_of_running
from tests.cluster.kubernetes.testbed.network import connect_control, pull_cable
from tests.cluster.kubernetes.testbed.node import Node, remove_cgroups
from tests.cluster.kubernetes.testbed.places import PLACES, Place, taken_place

_BOOT_SECONDS = 60.0
_NOTICE_SECONDS = 60.0
_SOCKET_BYTES = 107
"""The longest path of a Unix socket."""
_MARK = "tuneyard-kubernetes-testbed"


class Testbed(Cluster):
    """A Kubernetes of its own in `directory`. An `owned` one counts as abandoned when this process is gone."""

    __test__ = False  # not a test class

    def __init__(self, directory: Path, settings: Settings | None = None, owned: bool = False) -> None:
        self.directory = directory.resolve()
        self.settings = settings or Settings()
        self.owned = owned
        users = self.directory / "users"
        super().__init__(users / "admin.kubeconfig", users)

    @property
    def shared_storage(self) -> Path:
        """A folder that all nodes see; volumes of pods are folders in it."""
        return self.directory / "shared"

    @property
    def node_names(self) -> list[str]:
        """The nodes that it was booted with."""
        return sorted(path.name for path in self.directory.glob("n[0-9]*"))

    def up(self) -> bool:
        """Boots; False when it is up already. What a killed testbed has left is removed first."""
        require_machine()
        self._require_short_paths()
        if self.is_up():
            return False
        self._clear_away_the_abandoned()
        self.down()
        with taken_place() as (place, lock):
            place.note_holder(lock, self.directory, owned=True)
            try:
                self._boot(place, lock)
            except BaseException:
                self.down()
                raise
            place.note_holder(lock, self.directory, self.owned)
        return True

    def down(self) -> bool:
        """Ends every process of the testbed and removes all that it made; False when there was none."""
        with self.place.clearing():
            return self._take_down()

    def _require_short_paths(self) -> None:
        longest = self.directory / self.settings.node_names[-1] / "kubelet" / "device-plugins" / "kubelet.sock"
        if (excess := len(os.fsencode(longest)) - _SOCKET_BYTES) > 0:
            words = f"{self.directory} is {excess} characters too long: sockets lie below it"
            raise TestbedError(f"{words}\nname a shorter folder with --dir")

    def _take_down(self) -> bool:
        running = names_of_running(self.directory)
        if not running and not self.directory.exists():
            return False
        if self.directory.exists() and not (self.directory / _MARK).exists():
            raise TestbedError(f"{self.directory} is not a testbed's folder; name another one with --dir")
        for name in [name for name in running if name != CONTROL]:
            self._machine(name).power_off()
        with self.place.locked() as lock:
            if lock is not None or CONTROL in running:  # else another testbed has the place by now
                pull_cable(self.place)
                remove_cgroups(self.place)
        self._machine(CONTROL).power_off()  # last, as it holds the lock
        shutil.rmtree(self.directory, ignore_errors=not self.directory.exists())
        return True

    def is_up(self) -> bool:
        """Whether the API server answers."""
        return self.directory.exists() and self._plane.is_ready()

    def kubeconfig_for(self, who: str) -> Path:
        """A kubeconfig for `alice` or `bob`, who may do nothing yet, or for a service account as `NAMESPACE:NAME`."""
        return self._users.kubeconfig(who) if who in PEOPLE else super().kubeconfig_for(who)

    def make_volume(self, namespace: str) -> None:
        """Makes a folder that everyone may write to, and the volume that gives it to the namespace's claim."""
        folder = self.runs(namespace)
        folder.mkdir()
        folder.chmod(0o777)
        bound = {"namespace": namespace, "name": CLAIM}
        spec = {"accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"}, "claimRef": bound}
        spec |= {"storageClassName": "", "persistentVolumeReclaimPolicy": "Retain"}
        spec |= {"hostPath": {"path": str(folder), "type": "Directory"}}
        name = f"{CLAIM}-{namespace}"
        self.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})

    def remove_volume(self, namespace: str) -> None:
        """Removes volume and folder."""
        self.kubectl("delete", "persistentvolume", f"{CLAIM}-{namespace}", "--wait=false")
        folder = self.runs(namespace)

        def removed() -> bool:  # a process that has just been killed may still have written
            shutil.rmtree(folder, ignore_errors=True)
            return not folder.exists()

        wait_until(removed, _NOTICE_SECONDS, f"{folder} cannot be removed")

    def claim(self, namespace: str) -> dict[str, Any]:
        """The claim on the volume that was made for the namespace."""
        return claim_with({"storageClassName": "", "volumeName": f"{CLAIM}-{namespace}"})

    def runs(self, namespace: str) -> Path:
        """What pods of the namespace see in the claim `runs`."""
        return self.shared_storage / namespace

    def kill_node(self, name: str, wait: bool = True) -> None:
        """Ends everything on a node at once, as a power cut would; waits until the cluster has seen it."""
        self._node(name).stop(self._machine(CONTROL))
        if wait:
            seen = lambda: self.node_states().get(name) != "True"  # noqa: E731
            wait_until(seen, _NOTICE_SECONDS, f"the cluster still calls {name} ready")

    def restart_node(self, name: str) -> None:
        """Switches a node on again, and waits until it is ready."""
        node = self._node(name)
        node.stop(self._machine(CONTROL))
        node.start(self._machine(CONTROL), [])
        self._wait_for_nodes([name])

    def stop_api_server(self) -> None:
        """Kills the API server; nodes and pods go on without it."""
        self._plane.stop_api_server()

    def start_api_server(self) -> None:
        """Starts the API server again on its saved state."""
        self._plane.start_api_server()

    def restart_api_server(self) -> None:
        """Kills the API server and starts it again."""
        self.stop_api_server()
        self.start_api_server()

    def mend(self) -> None:
        """Brings back what a test has switched off."""
        if not self.is_up():
            self.restart_api_server()
        states = self.node_states()
        for name in self.node_names:
            if self._node(name).machine.pid is None:
                self.restart_node(name)
        self._wait_for_nodes([name for name in self.node_names if states.get(name) != "True"])

    def install_jobset(self) -> None:
        """Installs the JobSet controller with its own chart; on the first node, so kill another one."""
        addons.install_jobset(self)

    def install_kueue(self) -> None:
        """Installs Kueue with its own chart; on the first node, so kill another one."""
        addons.install_kueue(self)

    def import_image(self, archive: Path) -> None:
        """Makes an image known on all nodes."""
        for name in self.node_names:
            self._node(name).import_image(archive)

    def _clear_away_the_abandoned(self) -> None:
        """Takes down testbeds whose owners died, or most of which is gone."""
        for place in PLACES:
            if (holder := place.holder) is None:
                continue
            if not holder.is_someone:
                Testbed(Path(holder.directory))._clear_away_unless_up(place)
            elif Path(holder.directory) == self.directory and place.is_taken:
                raise TestbedError(f"{holder} is being booted or ended by another process")

    def _clear_away_unless_up(self, place: Place) -> None:
        with place.clearing():
            if self.place == place and (self.directory / _MARK).exists() and not self._is_kept_up(place):
                self._take_down()

    def _is_kept_up(self, place: Place) -> bool:
        holder = place.holder  # asked again: another process may have cleared it away, and booted its own
        theirs = holder is not None and (Path(holder.directory) != self.directory or holder.is_someone)
        return theirs or (not (holder and holder.is_abandoned) and self.is_up())

    def _boot(self, place: Place, lock: int) -> None:
        self._make_folders(place)
        control = self._machine(CONTROL)
        control.power_on(lock)
        connect_control(control)
        self._plane.start()
        self._users.kubeconfig("admin")
        for name in self.settings.node_names:
            self._node(name).start(control, sorted(self.directory.glob("images/*.tar")))
        self._wait_for_nodes(self.settings.node_names)

    def _make_folders(self, place: Place) -> None:
        self.directory.mkdir(parents=True)
        self.directory.chmod(0o755)  # pods of any user reach their volumes
        (self.directory / _MARK).write_text(str(place.number))
        for folder in (self.folder, self.shared_storage, self.directory / "images"):
            folder.mkdir()
        self.folder.chmod(0o700)
        self.shared_storage.chmod(0o755)
        images.write_pause_image(self.directory / "images" / "pause.tar")
        images.write_trainer_image(self.directory / "images" / "trainer.tar")
        images.write_runtime_spec(self._runtime_spec)

    def _wait_for_nodes(self, names: list[str]) -> None:
        def ready() -> bool:
            states = self.node_states()
            return all(states.get(name) == "True" for name in names)

        wait_until(ready, _BOOT_SECONDS, lambda: f"nodes: {self.node_states()}; {self._words_of(names)}")
        capacity = {"status": {"capacity": {"nvidia.com/gpu": str(self.settings.gpus_per_node)}}}
        for name in names:
            self.kubectl("patch", "node", name, "--subresource=status", f"--patch={json.dumps(capacity)}")

    def _words_of(self, names: list[str]) -> str:
        return "; ".join(f"{name}: {self._node(name).machine.last_words('kubelet')}" for name in names)

    @property
    def _runtime_spec(self) -> Path:
        return self.directory / "runtime-spec.json"

    @property
    def place(self) -> Place:
        """What it has of this machine for itself."""
        mark = self.directory / _MARK
        return Place(int(mark.read_text() or 0)) if mark.exists() else Place()

    @property
    def _users(self) -> Users:
        return Users(self.folder, f"https://{self.place.address(CONTROL)}:6443")

    @property
    def _plane(self) -> ControlPlane:
        return ControlPlane(self._machine(CONTROL), self._users, self.settings)

    def _machine(self, name: str) -> Machine:
        return Machine(name, self.directory / name, self.place)

    def _node(self, name: str) -> Node:
        return Node(self._machine(name), self._users, self._runtime_spec)
