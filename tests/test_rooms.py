"""The arrows of DESIGN: which room may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cogvideo_jax

PACKAGE = Path(cogvideo_jax.__file__).parent
EVERYONE = {"notation", "runtime"}
ARROWS = {
    "notation": set(),
    "runtime": set(),
    "tokens": set(),
    "data": {"tokens"},
    "model": {"tokens.sequence", "tokens.vocab"},
    "sampling": {"tokens", "model"},
    "superres": {"tokens", "model", "sampling.logits"},
    "training": {"tokens", "data", "model", "superres.config", "superres.models"},
    "sampling_config": {"tokens.text", "sampling.logits", "superres.sample"},
    "weights_folder": {"tokens", "model", "superres", "sampling_config"},
    "text_to_video": {"tokens", "model", "sampling", "superres", "sampling_config", "weights_folder"},
    "plan": {"model", "sampling", "superres", "weights_folder", "text_to_video"},
    "generate": {"text_to_video"},
    "assemble": {"text_to_video", "tokens", "model", "sampling_config", "weights_folder"},
    "evaluation": {"tokens", "data", "text_to_video"},
    "convert": {"tokens", "model", "superres"},
    "bench": {
        "tokens",
        "model",
        "sampling",
        "superres",
        "training",
        "sampling_config",
        "weights_folder",
        "text_to_video",
        "plan",
    },
}
FREE = {"cli", "commands", "__main__", "__init__"}


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, dotted, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cogvideo_jax"):
            module = node.module.removeprefix("cogvideo_jax").lstrip(".")
            found |= {module} if module else {alias.name for alias in node.names}
            if module:
                found |= {f"{module}.{alias.name}" for alias in node.names if is_module(f"{module}.{alias.name}")}
        elif isinstance(node, ast.Import):
            names = {alias.name for alias in node.names if alias.name.startswith("cogvideo_jax.")}
            found |= {name.removeprefix("cogvideo_jax.") for name in names}
    return found


def is_module(dotted: str) -> bool:
    path = PACKAGE.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if room(path) not in FREE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_its_arrows_allow(path):
    own = room(path)
    assert own in ARROWS, f"{own} has no arrows; add it to the design first"
    allowed = ARROWS[own] | {own} | (EVERYONE - {own} if own != "notation" else set())
    for module in imports(path):
        assert any(module == a or module.startswith(a + ".") for a in allowed), f"{own} may not import {module}"


def loaded_by(modules: str, suspects: tuple[str, ...]) -> list[str]:
    """Which of the suspects a fresh interpreter has loaded after importing `modules`."""
    code = f"import sys, {modules}; print(*[name for name in {suspects} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("cogvideo_jax", ("jax", "flax", "tensorflow", "torch")) == []


def test_generation_needs_no_training_library():
    heavy = ("grain", "tensorflow_datasets", "ml_collections", "optax", "orbax", "torch", "av")
    assert loaded_by("cogvideo_jax.models.cogvideo.pipeline, cogvideo_jax.jobs", heavy) == []
