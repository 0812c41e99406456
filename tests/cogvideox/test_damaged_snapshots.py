"""A damaged or wrong snapshot is refused in one sentence that names the file, before a tensor is read or compiled."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from jax._src import compiler
from pydantic import TypeAdapter

import cogvideo_jax
from cogvideo_jax.cli.main import main
from cogvideo_jax.convert.shards import Shards
from cogvideo_jax.convert.torch_part import TorchPart
from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Lora
from cogvideo_jax.models.cogvideox.config import TransformerConfig
from cogvideo_jax.models.cogvideox.snapshot import SchedulerConfig
from cogvideo_jax.models.cogvideox.vae_config import VaeConfig
from cogvideo_jax.nn.t5 import T5Config
from tests.cogvideox.damaged_snapshots import CASES, DAMAGED, IMAGE, VARIANT
from tests.cogvideox.snapshot_damages import (
    POINTER,
    QUERY,
    SCHEDULER,
    SHARDS,
    SPIECE,
    T5_FILE,
    VAE_FILE,
    config,
    cut,
    edit,
    remove,
    shard,
    tensors,
    transformer,
    write,
)
from tests.cogvideox.snapshots import write_snapshot

LONGEST = 400  # characters of a sentence


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    """Golden pipeline -> its snapshot, which no test changes."""
    goldens = ("x_pipeline_t2v", VARIANT, IMAGE)
    found = {golden: write_snapshot(tmp_path_factory.mktemp(golden), golden) for golden in goldens}
    assert (found["x_pipeline_t2v"] / shard(SHARDS)).exists()
    return found


@pytest.fixture
def folder(snapshots, tmp_path):
    """A snapshot to damage."""
    return shutil.copytree(snapshots["x_pipeline_t2v"], tmp_path / "snapshot")


@pytest.fixture
def no_work(monkeypatch):
    """Fails a test that reads a tensor or compiles a program."""

    def work(*_, **__):
        pytest.fail("work was done before the snapshot was refused")

    monkeypatch.setattr(TorchPart, "load", work)
    monkeypatch.setattr(Shards, "read", work)
    monkeypatch.setattr(compiler, "compile_or_get_cached", work)


def refused(run: Callable[[], object]) -> str:
    """The sentence with which something is refused."""
    with pytest.raises(UserError) as caught:
        run()
    said = str(caught.value)
    assert said.isprintable() and len(said) < LONGEST, said
    return said


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_it_is_refused_in_a_sentence_before_any_work(snapshots, tmp_path, no_work, case):
    folder = shutil.copytree(snapshots[case.golden], tmp_path / "snapshot")
    case.damage(folder)
    said = refused(lambda: cogvideo_jax.load(folder))
    assert str(folder) in said and re.search(case.said, said), said


def test_the_table_is_long_and_each_case_has_its_name():
    assert len(CASES) >= 60 and len({case.name for case in CASES}) == len(CASES)


def test_a_whole_snapshot_opens_without_any_work(snapshots, no_work):
    for folder in snapshots.values():
        cogvideo_jax.load(folder)


# The ends of every range --------------------------------------------------------------------------------


SCHEMAS = {
    "transformer/config.json": TransformerConfig,
    "vae/config.json": VaeConfig,
    "text_encoder/config.json": T5Config,
    SCHEDULER: SchedulerConfig,
}


def ends() -> list[tuple[str, str, float]]:
    """(file, key, value) for the least and the most that the schemas allow of every number."""
    found = []
    for file, schema in SCHEMAS.items():
        for key, told in TypeAdapter(schema).json_schema()["properties"].items():
            told = next((one for one in told.get("anyOf", ()) if one.get("type") != "null"), told)
            if told.get("type") in ("integer", "number"):
                step = 1 if told["type"] == "integer" else 1e-9
                least = told.get("minimum", told.get("exclusiveMinimum", 0) + step)
                most = told.get("maximum", told.get("exclusiveMaximum", 0) - step)
                found += [(file, key, least), (file, key, most)]
    assert len(found) > 60
    return found


@pytest.mark.parametrize("file, key, value", ends())
def test_the_ends_of_every_range_open_or_are_refused_in_a_sentence(folder, no_work, file, key, value):
    edit(file, **{key: value})(folder)
    try:
        pipe = cogvideo_jax.load(folder)
        pipe.check(pipe.request("a red ball", frames=9, size=(48, 64), steps=2))
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < LONGEST


# LoRA -----------------------------------------------------------------------------------------------------


def factors(**change) -> dict[str, np.ndarray]:
    """The two factors of a change of a query's matrix."""
    key = f"transformer.{QUERY.removesuffix('.weight')}.lora_"
    width = 64
    found = {"A": np.ones((2, width), np.float32), "B": np.ones((width, 2), np.float32)} | change
    return {f"{key}{name}.weight": array for name, array in found.items() if array is not None}


LORAS = [
    ("width", factors(A=np.ones((2, 32), np.float32)), r"has the shape \(2, 32\); expected \(2, 64\)"),
    ("rank", factors(B=np.ones((64, 3), np.float32)), r"has the shape \(64, 3\); expected \(64, 2\)"),
    ("key", factors() | {"unet.a.lora_A.weight": np.ones(1, np.float32)}, "has the unknown key 'unet.a.lora_A.weight'"),
    ("matrix", {"transformer.a.lora_A.weight": np.ones((2, 64), np.float32)}, "changes 'a.weight', which is no matrix"),
    ("half", factors(B=None), "is incomplete: .*lora_A.weight' has no B beside it"),
    ("integers", factors(A=np.ones((2, 64), np.int32)), "is int32; expected float16"),
    ("nothing", {}, "is empty; expected keys such as"),
]


@pytest.mark.parametrize("name, tensors, said", LORAS, ids=[name for name, *_ in LORAS])
def test_a_lora_that_does_not_fit_is_refused_before_any_work(snapshots, tmp_path, no_work, name, tensors, said):
    path = tmp_path / f"{name}.safetensors"
    safetensors.numpy.save_file(tensors, path)
    assert re.search(f"{name}.safetensors.*{said}", refused_lora(snapshots, path))


@pytest.mark.parametrize("content, said", [(POINTER, "git lfs pull"), (b"PK", DAMAGED), (None, "does not exist")])
def test_a_lora_that_cannot_be_read_is_refused_before_any_work(snapshots, tmp_path, no_work, content, said):
    path = tmp_path / "style.safetensors"
    if content is not None:
        path.write_bytes(content)
    assert re.search(f"style.safetensors.*{said}", refused_lora(snapshots, path))


def refused_lora(snapshots, path: Path) -> str:
    opened = cogvideo_jax.load(snapshots["x_pipeline_t2v"])
    wish = opened.request("a red ball", frames=9, size=(48, 64), loras=(Lora(path=str(path)),))
    return refused(lambda: opened.check(wish))


# Numbers that are none ----------------------------------------------------------------------------------------


def with_nan(found: dict) -> None:
    name = max(found)
    found[name] = np.full_like(found[name], np.nan)


NANS = {
    "transformer": transformer(with_nan),
    "vae": tensors(VAE_FILE, with_nan),
    "text_encoder": tensors(T5_FILE, with_nan),
}


@pytest.mark.parametrize("part", NANS)
def test_tensors_that_are_not_finite_are_refused_when_they_are_loaded(folder, part):
    NANS[part](folder)
    opened = cogvideo_jax.load(folder)
    said = refused(lambda: opened.sampler.weights.params(part))
    assert re.search(f"{part}/.*safetensors is damaged: .* has numbers that are NaN or infinite", said)


def test_a_lora_that_is_not_finite_is_refused_when_it_is_loaded(snapshots, tmp_path):
    path = tmp_path / "nan.safetensors"
    safetensors.numpy.save_file(factors(A=np.full((2, 64), np.inf, np.float32)), path)
    opened = cogvideo_jax.load(snapshots["x_pipeline_t2v"])
    said = refused(lambda: opened.sampler.weights.params("transformer", (Lora(path=str(path)),)))
    assert "nan.safetensors is damaged" in said


# cogvideo verify ------------------------------------------------------------------------------------------------


@pytest.fixture
def verify(folder, capsys):
    """() -> what `cogvideo verify` prints about the damaged snapshot."""

    def lines() -> list[str]:
        status = main(["verify", str(folder)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err, printed.err
        found = printed.out.splitlines()
        assert status == (0 if found[0].endswith(", whole") else 2)
        return [] if status == 0 else found

    return lines


def test_a_whole_snapshot_has_no_damage(verify):
    assert verify() == []


@pytest.mark.parametrize("part", NANS)
def test_verify_finds_tensors_that_are_not_finite(folder, verify, part):
    NANS[part](folder)
    [line] = verify()
    assert f"{part}/" in line and "NaN or infinite" in line


def test_verify_has_a_line_for_each_damaged_file(folder, verify):
    remove(shard(2))(folder)
    cut(shard(3), lambda size: size - 1)(folder)
    tensors(VAE_FILE, with_nan)(folder)
    config("text_encoder", feed_forward_proj="relu")(folder)
    edit(SCHEDULER, prediction_type="epsilon")(folder)
    write(SPIECE, b"")(folder)
    said = verify()
    places = ("scheduler_config.json", "spiece.model", "text_encoder/config.json", "00002-of-", "00003-of-", "vae/")
    assert len(said) == len(places)
    for line, place in zip(said, places):
        assert place in line


@pytest.mark.parametrize("case", CASES[::9], ids=[case.name for case in CASES[::9]])
def test_verify_finds_what_opening_refuses(snapshots, folder, verify, case):
    shutil.rmtree(folder)
    shutil.copytree(snapshots[case.golden], folder)
    case.damage(folder)
    if not (folder / "model_index.json").exists():
        assert main(["verify", str(folder)]) == 2
        return
    said = verify()
    assert any(re.search(case.said, line) for line in said) and len(said) <= 2, said


def test_verify_compares_files_of_the_hubs_cache_with_their_digests(folder, verify, tmp_path):
    path, blobs = folder / VAE_FILE, tmp_path / "blobs"
    blobs.mkdir()
    blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
    path.rename(blob)
    path.symlink_to(blob)
    assert verify() == []
    content = bytearray(blob.read_bytes())
    content[-3] ^= 1
    blob.write_bytes(content)
    [line] = verify()
    assert VAE_FILE in line and "has changed since it was fetched" in line


def test_a_folder_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "loop", "none", "a" * 256):
        assert "is no folder of weights" in refused(lambda name=name: cogvideo_jax.load(Path(name)))


def test_the_command_says_it_in_one_line_and_makes_nothing(folder, tmp_path, capsys):
    config("vae", use_quant_conv=True)(folder)
    command = ["generate", "a red ball", "--weights", str(folder), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "use_quant_conv is True" in said.err and not said.out
    assert not [*tmp_path.glob("out/*")]
