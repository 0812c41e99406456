"""The arrows of the package docstring: which room may import which."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cogvideo_jax

PACKAGE = Path(cogvideo_jax.__file__).parent
GROUND = {"notation", "errors", "interface", "runtime"}  # what every room stands on; imports no room
ARROWS = {
    **{name: set() for name in GROUND},
    "chain": set(),
    "chain_report": {"chain"},
    "nn": set(),
    "diffusion": {"nn"},
    "data": set(),
    "convert": set(),
    "bench": {"chain"},
    "training": {"data"},
    "models.cogvideo": {"nn", "data", "training", "convert", "bench", "chain"},
    "models.cogvideox": {"nn", "diffusion", "data", "training", "convert", "bench", "chain"},
    "models.registry": set(),  # it imports families by their names
    "text_to_video": {"models.registry", "chain"},
    "jobs": {"text_to_video"},
    "evaluation": {"data", "text_to_video"},
    "cli": {"jobs", "text_to_video", "models.registry", "training", "evaluation", "data", "chain", "bench"}
    | {"chain_report"},
}
MOST_ROOMS, MOST_ARROWS = 20, 50
FREE = {"__main__", "__init__", "models.__init__"}


def room(parts: tuple[str, ...]) -> str:
    """The room of a module: a file or folder of the package; of models/ a file or folder in it."""
    names = [part.removesuffix(".py") for part in parts]
    return ".".join(names[:2]) if names[0] == "models" and names[1:] else names[0]


def imported(path: Path) -> Iterator[str]:
    """Rooms that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cogvideo_jax":
            for alias in node.names:
                yield room((*node.module.split(".")[1:], alias.name))
        elif isinstance(node, ast.Import):
            names = (alias.name.split(".") for alias in node.names)
            yield from (room(tuple(name[1:])) for name in names if name[0] == "cogvideo_jax" and name[1:])


FILES = sorted(path for path in PACKAGE.rglob("*.py") if room(path.relative_to(PACKAGE).parts) not in FREE)


def arrows() -> set[tuple[str, str]]:
    """(a, b) for every room that imports another."""
    pairs = ((room(path.relative_to(PACKAGE).parts), other) for path in FILES for other in imported(path))
    return {(own, other) for own, other in pairs if own != other}


@pytest.mark.parametrize("own", sorted(ARROWS))
def test_a_room_imports_only_what_its_arrows_allow(own):
    found = {other for a, other in arrows() if a == own}
    allowed = ARROWS[own] | (GROUND if own not in ("notation", "errors") else set())
    assert found <= allowed, f"{own} may not import {', '.join(sorted(found - allowed))}"


def test_every_room_has_its_arrows_and_they_stay_few():
    rooms = {room(path.relative_to(PACKAGE).parts) for path in FILES}
    assert rooms == set(ARROWS)
    between = {(own, other) for own, other in arrows() if other not in GROUND}
    print(f"{len(rooms)} rooms, {len(between)} arrows between them, {len(arrows())} with those to the ground")
    assert len(rooms) <= MOST_ROOMS and len(between) <= MOST_ARROWS


def test_families_do_not_know_each_other():
    families = {other for _, other in arrows() if other.startswith("models.")} - {"models.registry"}
    assert not families, f"only the registry opens a family, and by its name: {families}"


def loaded_by(modules: str, suspects: tuple[str, ...]) -> list[str]:
    """Which of the suspects a fresh interpreter has loaded after importing `modules`."""
    code = f"import sys, {modules}; print(*[name for name in {suspects} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("cogvideo_jax", ("jax", "flax", "tensorflow", "torch")) == []


def test_generation_needs_no_training_library():
    heavy = ("grain", "tensorflow_datasets", "array_record", "ml_collections", "optax", "orbax", "torch", "av")
    modules = "cogvideo_jax.jobs, cogvideo_jax.models.cogvideo.pipeline, cogvideo_jax.cli.generate"
    assert loaded_by(modules, heavy) == []
