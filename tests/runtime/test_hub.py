"""Weights by their name on the hub: fetched once, used without a network, and refused in one sentence."""

import sys
import types
from pathlib import Path

import pytest

from cogvideo_jax import load
from cogvideo_jax.cli.main import main
from cogvideo_jax.errors import UserError
from cogvideo_jax.models import registry
from cogvideo_jax.runtime import hub

NAME = "THUDM/CogVideoX-2b"


class FakeHub:
    """Stands for the library: what was asked of it, and what it has.

    Attributes:
      cached: the snapshot is in the cache.
      failure: what the network does.
    """

    def __init__(self, cache: Path):
        self.folder = cache / "models--THUDM--CogVideoX-2b" / "snapshots" / "1a2b"
        self.blobs = self.folder.parent.parent / "blobs"
        self.cached, self.failure, self.calls = False, None, []
        for folder in (self.folder, self.blobs):
            folder.mkdir(parents=True)

    def snapshot_download(self, name: str, **how) -> str:
        self.calls.append((name, how))
        if how.get("local_files_only"):
            if not self.cached:
                raise FileNotFoundError("not in the cache")
        elif self.failure is not None:
            raise self.failure
        return str(self.folder)

    @property
    def fetched(self) -> list[str]:
        """Names that were asked of the network."""
        return [name for name, how in self.calls if not how.get("local_files_only")]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    found = FakeHub(tmp_path / "cache")
    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = found.snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture
def grey(fake, monkeypatch):
    """The snapshot is weights of the fake family."""
    monkeypatch.setitem(registry.FAMILIES, "grey", "tests.fake_family")
    (fake.folder / "pipeline.json").write_text('{"family": "grey"}')
    return fake


def refused(name: str) -> str:
    with pytest.raises(UserError) as caught:
        load(name)
    said = str(caught.value)
    assert said.isprintable() and len(said) < 400, said
    return said


def test_a_snapshot_is_fetched_without_pickles_and_code(fake):
    assert registry.folder_of(NAME) == fake.folder and fake.fetched == [NAME]
    assert all(how["allow_patterns"] == ["*.json", "*.safetensors", "*.model"] for _, how in fake.calls)


def test_what_was_fetched_before_needs_no_network(fake):
    fake.cached, fake.failure = True, ConnectionError("no network")
    assert registry.folder_of(NAME) == fake.folder and not fake.fetched


def test_a_fetch_that_was_cut_short_goes_on(fake):
    fake.cached = True
    (fake.blobs / "0123.incomplete").touch()
    assert registry.folder_of(NAME) == fake.folder and fake.fetched == [NAME]


def test_a_folder_of_that_name_goes_first(fake, tmp_path):
    (tmp_path / "THUDM" / "CogVideoX-2b").mkdir(parents=True)
    assert registry.folder_of(NAME) == Path(NAME) and not fake.calls


def test_a_path_is_never_a_name(fake):
    assert registry.folder_of(Path(NAME)) == Path(NAME) and not fake.calls
    assert registry.folder_of(None) == registry.demo_folder()


@pytest.mark.parametrize("text", [
    "", "a", "a/b/c", "/a/b", "a/", "/b", "../b", "a/..", "./b", "~/b", "a/b ", " a/b", "a b/c", "a/b\n", "a\n/b",
    "a/b\0", "a--b/c", "a/b..c", "a/b.git", "-a/b", "a/.b", "a/b.", "a/b-", "é/b", "a/红", "a\\b", "a/b?x=1",
    "a/b#c", "a/b@main", "a%2f/b",
    "https://huggingface.co/a/b", "a/" + "b" * 97, "a" * 97 + "/b", "a/*", "$HOME/b",
])  # fmt: skip
def test_nothing_else_is_a_name(fake, text):
    assert not hub.is_name(text)
    assert registry.folder_of(text) == Path(text) and not fake.calls
    with pytest.raises(UserError, match="is no name of a hub"):
        hub.fetch(text)
    assert not fake.calls


@pytest.mark.parametrize("text", [NAME, "zai-org/CogVideoX1.5-5B-I2V", "a/b", "_a/b_c.d-e", "a/" + "b" * 96])
def test_these_are_names(text):
    assert hub.is_name(text)


def test_without_the_library_a_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    said = refused(NAME)
    assert NAME in said and "is no folder here" in said and '".[hub]"' in said


FAILURES = [
    ConnectionError("no network"),
    OSError(28, "No space left on device"),
    ValueError("odd"),
    RuntimeError("x" * 9999),
    type("RepositoryNotFoundError", (Exception,), {})("404 Client Error.\n\nRepository Not Found"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=[type(failure).__name__ for failure in FAILURES])
def test_a_fetch_that_fails_ends_in_a_sentence(fake, failure):
    fake.failure = failure
    said = refused(NAME)
    assert NAME in said and "check the name and the network" in said


def test_load_and_every_command_take_a_name(grey, tmp_path, capsys):
    assert load(NAME)("a cloud", seed=7).frames.shape == (4, 16, 16, 3)
    (tmp_path / "prompts.txt").write_text("a cloud\n")
    out = ["--out", str(tmp_path / "out"), "--weights", NAME]
    assert main(["generate", "--prompts", str(tmp_path / "prompts.txt"), *out]) == 0
    assert main(["plan", "generate", "a cloud", "--weights", NAME]) == 0
    assert main(["bench", "--family", "grey", "pipeline", "--weights", NAME]) == 0
    assert len([*(tmp_path / "out").glob("*.mp4")]) == 1
    assert {name for name, _ in grey.calls} == {NAME}
    capsys.readouterr()


def test_a_command_says_in_one_line_that_the_network_is_missing(fake, tmp_path, capsys):
    fake.failure = ConnectionError("no network")
    assert main(["generate", "a cloud", "--weights", NAME, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "cannot be fetched from the hub (no network)" in said and "Traceback" not in said


def test_a_fetched_snapshot_that_is_damaged_is_named(fake):
    (fake.folder / "model_index.json").write_text('{"_class_name": "CogVideoXPipeline"}')
    assert "scheduler_config.json does not exist" in refused(NAME)
