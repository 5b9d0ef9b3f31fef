"""GPUs: spellings of people, drivers and clouds; refusals with the nearest name; prices and their dates."""

import json
from pathlib import Path

import pytest

from launcher.errors import JobError
from launcher.sizing.gpus import CATALOGUE, find_gpu, known_gpus, nearest_names, parse_gpus, with_prices

SPELLINGS = {
    "H100-80": ("h100-80", "NVIDIA H100 80GB HBM3", "H100", "H100 SXM", "h100_80gb", "DGX-H100", "H100-80 SXM"),
    "H100-80-PCIe": ("NVIDIA H100 PCIe", "H100 PCIe"),
    "H200-141": ("NVIDIA H200", "H200 141GB"),
    "A100-40": ("A100-SXM4-40GB", "a100_40gb", "NVIDIA A100-SXM4-40GB"),
    "A100-40-PCIe": ("NVIDIA A100-PCIE-40GB",),
    "A100-64": ("NVIDIA A100-SXM-64GB",),
    "A100-80": ("A100", "NVIDIA A100-SXM4-80GB", "a100_80gb"),
    "A100-80-PCIe": ("NVIDIA A100 80GB PCIe",),
    "RTX4090-24": ("4090", "RTX 4090", "NVIDIA GeForce RTX 4090", "RTX4090"),
    "RTX3090-24": ("3090", "RTX3090"),
    "A10G-24": ("NVIDIA A10G", "a10g"),
    "A10-24": ("A10",),
    "L40S-48": ("NVIDIA L40S",),
    "T4-16": ("Tesla T4", "t4"),
    "V100-32": ("V100-SXM2-32GB", "V100"),
    "V100-16-PCIe": ("Tesla V100-PCIE-16GB",),
    "H100-94": ("NVIDIA H100 NVL",),
    "GH200-96": ("NVIDIA GH200 480GB",),
    "H20-96": ("NVIDIA H20",),
    "L40-48": ("NVIDIA L40",),
    "RTXPRO6000-96": ("NVIDIA RTX PRO 6000 Blackwell Server Edition",),
    "RTX4070TiSuper-16": ("NVIDIA GeForce RTX 4070 Ti SUPER",),
    "RTX2080Ti-11": ("NVIDIA GeForce RTX 2080 Ti",),
    "QuadroRTX8000-48": ("Quadro RTX 8000",),
    "GB300-288": ("DGX-GB300",),
    "MI300X-192": ("AMD Instinct MI300X",),
    "A6000-48": ("NVIDIA RTX A6000",),
    "RTX6000Ada-48": ("RTX 6000 Ada", "NVIDIA RTX 6000 Ada Generation"),
    "QuadroRTX6000-24": ("Quadro RTX 6000",),
}


@pytest.mark.parametrize(("name", "spelling"), [(n, s) for n, group in SPELLINGS.items() for s in (n, *group)])
def test_spellings(name: str, spelling: str) -> None:
    assert find_gpu(spelling).name == name


def test_no_spelling_means_two_gpus() -> None:
    """A spelling of one that is another's, too, would hide it: the last one read is found."""
    listed = json.loads(CATALOGUE.read_text())["gpus"]
    found = {(spelling, entry["name"]) for entry in listed for spelling in (entry["name"], *entry["also"])}
    assert [(spelling, name) for spelling, name in found if find_gpu(spelling).name != name] == []


def test_every_gpu_is_found_by_its_own_name_and_makes_sense() -> None:
    for gpu in known_gpus():
        assert find_gpu(gpu.name) == gpu
        assert gpu.usable_gib < gpu.memory_gb
        assert all(rate < gpu.tflops[number_format] for number_format, rate in gpu.matmul.items()), gpu.name
        assert bool(gpu.price) == bool(gpu.price_date) == bool(gpu.price_source), gpu.name


@pytest.mark.parametrize("text", ["8xH100-80", "8 x h100", "H100:8", "8*NVIDIA H100 80GB HBM3"])
def test_counts(text: str) -> None:
    found = parse_gpus(text)
    assert (found.count, found.gpu.name) == (8, "H100-80")


def test_unknown_gpu_names_the_nearest() -> None:
    with pytest.raises(JobError, match="unknown GPU 'H10O'") as error:
        find_gpu("H10O")
    assert "H100-80" in error.value.remedy
    assert nearest_names("rtx 4091")[0] == "RTX4090-24"


@pytest.mark.parametrize("text", ["0xH100", "-4xH100", "99999999xH100"])
def test_absurd_counts_are_refused(text: str) -> None:
    with pytest.raises(JobError, match="GPUs"):
        parse_gpus(text)


def test_prices_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("h100-80: 2.1\nNVIDIA L40S: {price: 0.9, date: 2026-11-01, source: our cluster}\n")
    gpus = with_prices(prices)
    assert gpus["H100-80"].price == 2.1
    assert (gpus["L40S-48"].price_date, gpus["L40S-48"].price_source) == ("2026-11-01", "our cluster")
    assert with_prices()["H100-80"].price != 2.1
    monkeypatch.setenv("TUNEYARD_PRICES", str(prices))
    assert find_gpu("H100", with_prices()).price == 2.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("H100-80: cheap", "above 0"),
        ("H100-80: -1", "above 0"),
        ("Z9: 1", "unknown GPU"),
        ("[1]", "map"),
        ("a: [", "YAML"),
    ],
)
def test_bad_prices_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(JobError, match=message):
        with_prices(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be read"):
        with_prices(tmp_path / "none.yaml")
