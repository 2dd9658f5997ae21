"""The examination of this installation and machine: what was found, and what to do about it."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module, metadata
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

from packaging.requirements import Requirement
from rich.table import Column, Table

from bigbatch_ue import __version__
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.datasets import require_source
from bigbatch_ue.files.paths import hide_home
from bigbatch_ue.runtime.errors import UserError, printable
from bigbatch_ue.runtime.host import available_memory, usable_cores
from bigbatch_ue.runtime.ranks import world_size

_PACKAGE = "bigbatch-ue"
_IMPORTED = ("torch", "torchvision", "timm", "accelerate", "deepspeed", "transformers")
"""Packages that are imported here, because they fail where they do not fit the machine."""
_GIB = 2**30
_LITTLE_DISK, _LITTLE_SHM = 5 * _GIB, _GIB // 4
_OPERATOR = "deepspeed_shm_comm"


class Finding(NamedTuple):
    """One line of the examination.

    Attributes:
        what: what was looked at.
        found: what is there.
        advice: what to do, if anything.
        broken: whether training cannot run with it.
    """

    what: str
    found: str
    advice: str = ""
    broken: bool = False

    @property
    def verdict(self) -> str:
        """The verdict in words: `ok`, or what to do."""
        return f"BROKEN: {self.advice}" if self.broken else self.advice or "ok"


def examine(config: Config) -> list[Finding]:
    """Examine the installation, the machine, and the places that `config` names."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    findings = [*_versions()]
    broken = {finding.what for finding in findings if finding.broken}
    if "torch" not in broken:
        findings += [*_devices(), *_communication()]
    findings += [*_compiler(), *_machine(), *_places(config), _weights()]
    return findings


def findings_table(findings: Iterable[Finding]) -> Table:
    """Make a table of `findings`; what is broken is red."""
    table = Table("what", Column("found", overflow="fold"), Column("verdict", overflow="fold"))
    for finding in findings:
        cells = (finding.what, finding.found, finding.verdict)
        table.add_row(
            *(printable(hide_home(cell)) for cell in cells), style="red" if finding.broken else None
        )
    return table


def _versions() -> Iterator[Finding]:
    yield Finding("Python", platform.python_version())
    yield Finding(_PACKAGE, __version__)
    try:
        lines = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        advice = "not installed, so versions cannot be checked; run: pip install -e ."
        yield Finding("packages", "unknown", advice)
        return
    requirements = [Requirement(line) for line in lines]
    core = [each for each in requirements if each.marker is None]
    yield from _core(core)
    for extra in _extras(requirements):
        environment = {"extra": extra}
        needed = [
            each
            for each in requirements
            if each.name != _PACKAGE and each.marker and each.marker.evaluate(environment)
        ]
        yield extra_finding(extra, needed)


def _extras(requirements: Iterable[Requirement]) -> list[str]:
    """List the extras that a user may want, in the order of their requirements."""
    markers = (str(each.marker) for each in requirements if each.marker)
    names = dict.fromkeys(marker.rpartition("==")[2].strip(" \"'") for marker in markers)
    return [name for name in names if name not in ("all", "dev")]


def _core(requirements: list[Requirement]) -> Iterator[Finding]:
    """Check the packages that are always needed; those that are fine share a line."""
    fine = []
    for requirement in requirements:
        version, fault = _check(requirement)
        if fault:
            again = "--force-reinstall " if version else ""
            fix = f"{fault}; run: pip install {again}'{requirement}'"
            yield Finding(requirement.name, version or "not installed", fix, broken=True)
        elif requirement.name in _IMPORTED:
            yield Finding(requirement.name, version or "")
        else:
            fine.append(requirement.name)
    yield Finding("other packages", f"{len(fine)} installed")


def extra_finding(extra: str, requirements: list[Requirement]) -> Finding:
    """Check the packages of an extra, without which all else works."""
    checked = {each.name: _check(each) for each in requirements}
    found = ", ".join(f"{name} {version}" for name, (version, _) in checked.items() if version)
    faults = [f"{name}: {fault}" for name, (_, fault) in checked.items() if fault]
    if not faults:
        return Finding(f"[{extra}]", found)
    install = f"if you need it: pip install '{_PACKAGE}[{extra}]'"
    reason = f"{'; '.join(faults)}; " if found else ""
    return Finding(f"[{extra}]", found or "not installed", f"optional; {reason}{install}")


def _check(requirement: Requirement) -> tuple[str | None, str]:
    """Return the installed version of a package, and what is wrong with it; empty if nothing is."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return None, "missing"
    if not requirement.specifier.contains(version, prereleases=True):
        return version, f"needs {requirement.specifier}"
    if requirement.name in _IMPORTED:
        try:
            if requirement.name == "deepspeed":
                _choose_deepspeeds_accelerator()
            import_module(requirement.name)
        except Exception as error:
            return version, f"cannot be imported ({' '.join(str(error).split())[:200]})"
    return version, ""


def _choose_deepspeeds_accelerator() -> None:
    """Keep DeepSpeed from warning on standard output that it guesses."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _devices() -> Iterator[Finding]:
    import torch

    from bigbatch_ue.runtime.device import device_name, has_bf16

    driver = _driver()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.device("cuda", index)
            free, total = torch.cuda.mem_get_info(device)
            memory = f"{_gib(free)} of {_gib(total)} GiB free"
            found = f"{device_name(device)}, {memory}, driver {driver}, CUDA {torch.version.cuda}"
            slow = "" if has_bf16(device) else "no bfloat16: compute.precision=float32 is as fast"
            yield Finding(f"GPU {index}", found, slow)
    elif driver:
        advice = (
            f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use it, so training is "
            "slow; update the driver, or install the build of torch that fits it"
        )
        yield Finding("GPU", f"driver {driver}", advice)
    else:
        yield Finding("GPU", "none", "ok; training runs on the CPU, where only small sets are fast")
    cpu = torch.device("cpu")
    bf16 = "with" if has_bf16(cpu) else "without"
    yield Finding("CPU", f"{device_name(cpu)}, {bf16} bfloat16 multiplication")


def _driver() -> str:
    """Return the version of the NVIDIA driver; empty if there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""


def _communication() -> Iterator[Finding]:
    import torch
    import torch.distributed as dist

    try:
        ranks = world_size()
        yield Finding("ranks", f"{ranks}, as launched")
    except UserError as error:
        yield Finding("ranks", "unclear", str(error), broken=True)
    if not dist.is_available() or not dist.is_gloo_available():
        yield Finding("gloo", "missing", "ranks without a GPU need it; install PyPI's torch")
    else:
        yield _group("gloo", "cpu", "works")
    if not dist.is_available() or not dist.is_nccl_available():
        yield Finding("NCCL", "missing", "several GPUs need it; install torch's CUDA build")
    else:
        version = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        if torch.cuda.is_available():
            yield _group("NCCL", "cuda", f"{version}, works")
        else:
            yield Finding("NCCL", version, "ok; not used without GPUs")


def _group(backend: str, device: str, works: str) -> Finding:
    """Add up a number over a group of this process alone, which starts the network."""
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    if dist.is_initialized():
        return Finding(backend, works)
    try:
        dist.init_process_group(backend.lower(), store=HashStore(), rank=0, world_size=1)
        try:
            dist.all_reduce(torch.ones(1, device=device))
        finally:
            dist.destroy_process_group()
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200]
        advice = "several ranks cannot communicate; name their network: {}_SOCKET_IFNAME=..."
        return Finding(backend, f"fails: {reason}", advice.format(backend.upper()))
    return Finding(backend, works)


def _compiler() -> Iterator[Finding]:
    """Look for what DeepSpeed compiles its operator with, and for the operator."""
    name = os.environ.get("CXX", "c++")
    tools = {tool: shutil.which(tool) for tool in (name, "ninja")}
    missing = [tool for tool, path in tools.items() if path is None]
    built = _operator()
    need = (
        f"DeepSpeed without GPUs cannot start: install {' and '.join(missing)}, or put "
        f"{'it' if len(missing) == 1 else 'them'} on PATH"
    )
    for tool, path in tools.items():
        yield Finding(tool, path or "missing", need if path is None and not built else "")
    if built:
        yield Finding("DeepSpeed's operator", str(built))
    else:
        yield Finding(
            "DeepSpeed's operator", "not compiled", "ok; the first start takes a minute longer"
        )


def _operator() -> Path | None:
    """Return the file of the operator that DeepSpeed compiles, if it is there."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    try:
        if root is None:
            from torch.utils import cpp_extension

            default = Path(cpp_extension.get_default_build_root())
            python = f"py{sys.version_info.major}{sys.version_info.minor}{sys.abiflags}_*"
            files = sorted(default.glob(f"{python}/{_OPERATOR}/{_OPERATOR}.so"))
        else:
            files = [Path(root, _OPERATOR, f"{_OPERATOR}.so")]
        return next((file for file in files if file.exists()), None)
    except Exception:  # a torch that cannot be imported has a line of its own
        return None


def _machine() -> Iterator[Finding]:
    yield Finding("cores", str(usable_cores()))
    memory = available_memory()
    little = "little: lower batch.micro, generator.width or data.size" if memory < 2 * _GIB else ""
    yield Finding("memory", f"{_gib(memory)} GiB available", little)
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).free
        few = "ranks of one machine need it; in Docker, add --shm-size 1g"
        free = f"{_gib(size)} GiB free"
        yield Finding(str(shared), free, few if size < _LITTLE_SHM else "")


def _places(config: Config) -> Iterator[Finding]:
    yield _place("data.root", config.data.root)
    yield _place("runs" if config.output is None else "output", config.output or Path("runs"))
    try:
        require_source(config.data)
    except UserError as error:
        yield Finding("images", hide_home(config.data.name), str(error))
    else:
        yield Finding("images", f"{config.data.name}: present")


def _place(what: str, folder: Path) -> Finding:
    """Check that files can be written into `folder`, which need not exist."""
    whole = folder.absolute()
    existing = next(each for each in (whole, *whole.parents) if each.exists())
    made = "" if existing == whole else ", to be made"
    try:
        with TemporaryFile(dir=existing) as file:
            file.write(bytes(1))
    except OSError as error:
        advice = f"cannot be written ({error.strerror}); choose another place"
        return Finding(what, f"{whole}{made}", advice, broken=True)
    free = shutil.disk_usage(existing).free
    little = "little: decoded images and checkpoints may not fit" if free < _LITTLE_DISK else ""
    return Finding(what, f"{whole}{made}, {_gib(free)} GiB free", little)


def _weights() -> Finding:
    """Say which pretrained networks are on this machine; others are fetched from the network."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    count = len([*hub.glob("models--*")]) if hub.is_dir() else 0
    advice = "" if count else "ok; surrogate.weights=pretrained fetches them from the network"
    return Finding("pretrained weights", f"{count} in {hub}", advice)


def _gib(size: float) -> str:
    return f"{size / _GIB:,.1f}"
