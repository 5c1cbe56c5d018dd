"""`feynkac doctor`: what is installed, what the machine has, and whether small runs come out right."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable
from importlib import metadata

import typer
from packaging.requirements import Requirement

from feynkac import __version__

EXTRAS = {
    "demo": "the demo's model and its reward",
    "plot": "pictures of results",
    "pandas": "results as data frames",
    "diffusion": "pipelines of diffusers",
    "digits": "the classifier of the diffusion demo",
    "served": "models that somebody else serves",
    "serving": "`transformers serve` on this machine",
    "types": "Python classes as JSON schemas",
    "programs": "syllables by a dictionary",
    "molecules": "molecules scored and drawn",
    "adapters": "adapters of peft in memory",
    "quantised": "models with weights of 8 and 4 bits",
    "kernels": "kernels for CUDA devices",
    "ray": "runs on many machines",
}
"""What each extra is for."""


def doctor() -> None:
    """Say what is installed, what the machine has, and whether small runs of known answer come out right."""
    typer.echo(f"feynkac {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    well = _tell_packages()
    _tell_extras()
    devices = _tell_machine()
    well = _tell_cache() and well
    well = _tell_checks(devices) and well
    typer.secho("all is well" if well else "something is wrong: see above", fg=None if well else typer.colors.RED)
    if not well:
        raise typer.Exit(1)


def _tell_packages() -> bool:
    """The packages that everybody needs; whether all are there, and new enough."""
    listed = [_describe(each) for each in list_requirements("feynkac")]
    typer.echo(f"packages    {', '.join(said for said, _ in listed)}")
    return all(well for _, well in listed)


def _tell_extras() -> None:
    """What each extra brings, or how to get it; that one is missing is no fault."""
    for extra, purpose in EXTRAS.items():
        wanted = list_requirements("feynkac", extra)
        listed = [_describe(each) for each in wanted]
        if not wanted:
            said = "not for this platform"
        elif all(well for _, well in listed):
            said = ", ".join(said for said, _ in listed)
        else:
            said = f"missing: pip install 'feynkac[{extra}]'"
        typer.echo(f"  {extra:<10}{purpose}: {said}")


def _describe(wanted: Requirement) -> tuple[str, bool]:
    """A package with its version, or what is wrong with it; whether nothing is."""
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name} MISSING", False
    inner = [each for extra in sorted(wanted.extras) for each in list_requirements(wanted.name, extra)]
    if not all(_describe(each)[1] for each in inner):
        return f"{wanted} MISSING", False
    if not wanted.specifier.contains(version, prereleases=True):
        return f"{wanted.name} {version} (NEEDED: {wanted.specifier})", False
    return f"{wanted.name} {version}", True


def list_requirements(package: str, extra: str = "") -> list[Requirement]:
    """What an installed `package` needs on this platform: of everybody, or for its `extra` alone."""
    try:
        wanted = [Requirement(each) for each in metadata.requires(package) or []]
    except metadata.PackageNotFoundError:
        return []
    always = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    return [each for each in wanted if each not in always and each.marker and each.marker.evaluate({"extra": extra})]


def _tell_machine() -> list[str]:
    """Cores, threads, memory and devices; the devices that the checks run on."""
    try:
        import torch
    except Exception as error:  # one that is broken in whatever way
        typer.echo(f"processor   {os.cpu_count()} cores; torch CANNOT BE IMPORTED: {error}")
        return ["cpu"]
    threads = os.environ.get("OMP_NUM_THREADS")
    asked = f" (OMP_NUM_THREADS={threads})" if threads else ""
    typer.echo(f"processor   {os.cpu_count()} cores; torch uses {torch.get_num_threads()} threads{asked}")
    typer.echo(f"memory      {_describe_memory()}")
    devices = ["cpu"]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(i)
        typer.echo(f"device      cuda:{i}, {about.name}, {about.total_memory / 2**30:.1f} GiB")
        devices.append(f"cuda:{i}")
    if len(devices) == 1:
        typer.echo("device      the processor alone: torch sees no CUDA device")
    return devices


def _describe_memory() -> str:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = (page * os.sysconf(name) / 2**30 for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not on Windows, the last one not on macOS
        return "unknown on this platform"
    return f"{total:.1f} GiB, of which {free:.1f} unused"


def _tell_cache() -> bool:
    """Where converted models are kept; whether something can be written there."""
    from feynkac.models.language.demo import cache_folder

    folder = cache_folder()
    there = next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))
    if not os.path.isdir(there) or not os.access(there, os.W_OK):
        typer.echo(f"cache       {folder} CANNOT BE WRITTEN; set FEYNKAC_CACHE to a folder that can")
        return False
    size = sum(each.stat().st_size for each in folder.rglob("*") if os.path.isfile(each))
    typer.echo(f"cache       {folder}, {size / 2**20:,.0f} MiB")
    return True


def _tell_checks(devices: Iterable[str]) -> bool:
    """Run the small runs; whether all came out right."""
    from feynkac.commands.selftest import check_engine, check_language

    checks: list[tuple[str, Callable[[], None]]] = [("the engine, summed over all its runs", check_engine)]
    checks += [(f"a random language model on {each}", lambda each=each: check_language(each)) for each in devices]
    return all([_tell_check(name, check) for name, check in checks])  # each is run, whatever the others say


def _tell_check(name: str, check: Callable[[], None]) -> bool:
    start = time.perf_counter()
    try:
        check()
    except Exception as error:  # whatever is wrong with the installation
        typer.echo(f"self-test   {name}: WRONG, {type(error).__name__}: {error}")
        return False
    typer.echo(f"self-test   {name}: right ({time.perf_counter() - start:.1f} s)")
    return True
