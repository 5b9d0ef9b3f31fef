"""GPUs by name: usable memory, matrix rates, links, and prices with their dates.

The catalogue is data (`gpus.json`, with the source of every rate and price). Fit is checked against usable
memory, speed against what large matrix products reach: both are below what the box says.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.errors import JobError
from rundir.quantities import GIB

CATALOGUE = Path(__file__).with_name("gpus.json")
PRICES_VARIABLE = "TUNEYARD_PRICES"
"""Environment variable that names the user's own file of prices."""
MOST_GPUS = 65_536
NOISE = re.compile(
    r"nvidia|tesla|geforce|\bamd\b|instinct|rtx|quadro|graphics|device|corporation|hbm\d?e?|dgx|hgx|generation", re.I
)
"""Words of a spelling that name no model; `RTX` goes too, for `4090` and `RTX 4090` are one."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One model of GPU.

    Attributes:
        name: Name in the catalogue, such as `H100-80`.
        memory_gb: Memory as sold, in GB.
        usable_gib: What torch can have of it, in GiB.
        tflops: Dense TFLOP/s of the data sheet, by number format.
        matmul: TFLOP/s that large matrix products reach (MAMF), by number format.
        matmul_source: Where the reached rates come from.
        hbm_gb_s: Memory bandwidth in GB/s.
        link: Kind of the link between GPUs of one node.
        link_gb_s: Its bandwidth per GPU and direction, GB/s.
        pcie_gb_s: Bandwidth to the host, GB/s.
        nic_gbit: Network per GPU, Gbit/s.
        per_node: GPUs in one node (in one NVLink domain for rack-scale machines).
        price: US dollars per GPU-hour; `None` where no public price was seen.
        price_date: When the price was seen.
        price_source: Where.
    """

    name: str
    memory_gb: int
    usable_gib: float
    tflops: dict[str, float]
    matmul: dict[str, float]
    matmul_source: str
    hbm_gb_s: float
    link: str
    link_gb_s: float
    pcie_gb_s: float
    nic_gbit: float
    per_node: int
    price: float | None
    price_date: str
    price_source: str

    @property
    def usable_bytes(self) -> int:
        """Usable memory in bytes."""
        return int(self.usable_gib * GIB)

    @property
    def is_measured(self) -> bool:
        """Whether somebody measured its matrix rate, or it is taken from GPUs of its generation."""
        return not self.matmul_source.startswith("no published")

    @property
    def half(self) -> str:
        """The 16-bit format of its matrix units: bfloat16, or float16 on GPUs that have none."""
        return "bf16" if "bf16" in self.matmul else "fp16"

    @property
    def cautions(self) -> tuple[str, ...]:
        """What one should know about predictions of its speed."""
        found = []
        if "MAMF" not in self.matmul_source:
            found.append(f"{self.name}: no measured matrix rate is known; {self.matmul_source}")
        if self.half != "bf16":
            words = "has no bfloat16 units; Tuneyard trains there in float32, at a fraction of float16's speed"
            found.append(f"{self.name} {words}")
        return tuple(found)

    def peak_tflops(self, number_format: str) -> float:
        """Data-sheet TFLOP/s of a format; formats that it lacks run in the next wider one."""
        return self.tflops.get(number_format, self.tflops[self.half])


@dataclass(frozen=True, kw_only=True)
class GpuCount:
    """So many GPUs of one model, as `8xH100-80` says it."""

    gpu: Gpu
    count: int


@functools.cache
def _catalogue() -> tuple[dict[str, Gpu], dict[str, str]]:
    """GPUs by name, and every known spelling with the name it stands for."""
    data = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    gpus, spellings = {}, {}
    for entry in data["gpus"]:
        also = entry.pop("also")
        entry["matmul_source"] = data["sources"][entry["matmul_source"]]
        entry["price_source"] = data["sources"].get(entry["price_source"], "")
        gpus[entry["name"]] = Gpu(**entry)
        spellings.update({_key(spelling): entry["name"] for spelling in (entry["name"], *also)})
    return gpus, spellings


def known_gpus() -> tuple[Gpu, ...]:
    """All GPUs of the catalogue."""
    return tuple(_catalogue()[0].values())


def _key(spelling: str) -> str:
    """A spelling without what names no model: letters and digits in lower case, units and form factors dropped."""
    text = NOISE.sub(" ", spelling.lower().replace("_", " "))
    text = re.sub(r"\b(\d+)\s*(gib|gb|g)\b", r"\1", text.replace("-", " "))
    text = re.sub(r"\bsxm\d?\b|\boam\b|tensor core", "", text)
    return re.sub(r"[^a-z0-9]", "", text)


def find_gpu(spelling: str, prices: dict[str, Gpu] | None = None) -> Gpu:
    """The GPU that a spelling means: `h100-80`, `NVIDIA H100 80GB HBM3`, `A100-SXM4-40GB`, `4090`.

    Args:
        spelling: Name as people, drivers and clouds write it.
        prices: GPUs with prices of the user's own, from `with_prices`.

    Raises:
        JobError: no such GPU is known; the nearest names are given.
    """
    gpus, spellings = _catalogue()
    name = spellings.get(_key(spelling)) or spellings.get(_key(re.sub(r"\(.*?\)", "", spelling)))
    if name is None:
        raise JobError(f"unknown GPU {spelling!r}", f"Nearest known: {', '.join(nearest_names(spelling))}.")
    return (prices or gpus)[name]


def known_gpu(spelling: str, prices: dict[str, Gpu] | None = None) -> Gpu | None:
    """The GPU that a spelling means; `None` when no such GPU is known."""
    try:
        return find_gpu(spelling, prices)
    except JobError:
        return None


BEFORE_AMPERE = re.compile(
    r"\b(tesla )?([kmpv]\d{2,3}|t4|t10|t40)\b|\bgtx\b|\b(rtx ?)?20[678]0\b|\btitan\b"
    r"|\bquadro (rtx|[kmpg]?v?\d)|\bt(4|10|12|16|20)00?\b|\bcmp\b",
    re.I,
)
"""Names of NVIDIA's generations before Ampere: Kepler, Maxwell, Pascal, Volta and Turing."""
AMPERE = 8.0


def has_bfloat16(name: str, compute_capability: float | None = None) -> bool:
    """Whether a GPU has bfloat16 units; what is not known and not called like an old one is taken to have them.

    Args:
        name: As drivers, people and clouds write it.
        compute_capability: As the driver tells it, which then decides.
    """
    if compute_capability is not None:
        return compute_capability >= AMPERE
    known = known_gpu(name)
    return known.half == "bf16" if known else not BEFORE_AMPERE.search(name.replace("-", " "))


def nearest_names(spelling: str) -> list[str]:
    """Up to four names of the catalogue that look most like a spelling."""
    spellings = _catalogue()[1]
    near = difflib.get_close_matches(_key(spelling), spellings, n=6, cutoff=0.3) or list(spellings)[:4]
    return list(dict.fromkeys(spellings[entry] for entry in near))[:4]


def parse_gpus(text: str, prices: dict[str, Gpu] | None = None) -> GpuCount:
    """What `8xH100-80`, `8 x H100`, `H100:8` or `H100` means.

    Raises:
        JobError: the GPU is unknown, or the number is no sensible one.
    """
    before = re.fullmatch(r"\s*(-?\d+)\s*[x*]\s*(.+)", text, re.I)
    after = re.fullmatch(r"\s*(.+?)\s*:\s*(-?\d+)\s*", text)
    count, spelling = (1, text)
    if before:
        count, spelling = int(before[1]), before[2]
    elif after:
        count, spelling = int(after[2]), after[1]
    if not 1 <= count <= MOST_GPUS:
        raise JobError(f"--gpus {text}: {count} GPUs", f"Between 1 and {MOST_GPUS:,}, for example 8xH100-80.")
    return GpuCount(gpu=find_gpu(spelling.strip(), prices), count=count)


def with_prices(path: Path | None = None) -> dict[str, Gpu]:
    """The catalogue with the user's own prices, from a YAML or JSON file: `H100-80: 2.10`.

    A value is a number, or a mapping with `price` and, if wanted, `date` and `source`.

    Args:
        path: The file; `None` takes the one that `TUNEYARD_PRICES` names, if any.

    Raises:
        JobError: the file cannot be read, names an unknown GPU, or holds no price.
    """
    gpus = dict(_catalogue()[0])
    where = path or (Path(os.environ[PRICES_VARIABLE]) if os.environ.get(PRICES_VARIABLE) else None)
    if where is None:
        return gpus
    for spelling, value in _read_mapping(where).items():
        gpu = find_gpu(str(spelling))
        gpus[gpu.name] = priced(gpu, value, str(where))
    return gpus


def priced(gpu: Gpu, value: Any, source: str) -> Gpu:
    """The GPU with a price of the user's own.

    Raises:
        JobError: the price is not a number above 0.
    """
    entry = value if isinstance(value, dict) else {"price": value}
    price = entry.get("price")
    if isinstance(price, bool) or not isinstance(price, int | float) or not price > 0:
        raise JobError(f"{source}: price of {gpu.name} must be US dollars per GPU-hour above 0 (got {price!r})")
    return replace(
        gpu, price=float(price), price_date=str(entry.get("date", "")), price_source=str(entry.get("source", source))
    )


def _read_mapping(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror}") from error
    except YAMLError as error:
        raise JobError(f"{path}: neither YAML nor JSON: {error}") from error
    if not isinstance(content, dict):
        raise JobError(f"{path}: must map GPU names to prices, for example `H100-80: 2.10`")
    return content
