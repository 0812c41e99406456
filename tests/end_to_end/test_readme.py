"""The commands and Python lines of the READMEs: run on small checkpoints, or at least with options that exist."""

import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from PIL import Image

from cogvideo_jax.cli.main import main
from cogvideo_jax.runtime.media import read_video
from tests.cogvideo.convert.checkpoints import official, tensors, write_sat, write_zip
from tests.cogvideox.snapshots import write_snapshot
from tests.parity.goldens import FOLDER, load

ROOT = Path(__file__).parents[2]
README, COGVIDEO = ROOT / "README.md", ROOT / "cogvideo_jax" / "models" / "cogvideo" / "README.md"
READMES = sorted(
    path for place in (".", "configs", "launch", "cogvideo_jax/**") for path in ROOT.glob(place + "/README.md")
)
SENTENCES = ["一只猫在跑", "4.0秒 2.0秒 1.0秒 0.5秒", "视频 高清摄影"]


def commands() -> list[list[str]]:
    """The first block of commands in the section about released weights."""
    section = COGVIDEO.read_text(encoding="utf-8").split("## With the released weights")[1]
    return [shlex.split(line) for line in re.search(r"```bash\n(.*?)```", section, re.DOTALL).group(1).splitlines()]


def text_model() -> bytes:
    """Few pieces, for the golden weights have 128 rows behind their image codes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(SENTENCES * 10),
        model_writer=model,
        model_type="char",
        vocab_size=60,
        hard_vocab_limit=False,
        user_defined_symbols=["<pad>", "<n>"],
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """A folder with the released files, small."""
    monkeypatch.chdir(tmp_path)
    golden, arrays = load(FOLDER / "f_pipeline_greedy.npz")
    made = {
        "cogvideo-stage1": official("f_pipeline_greedy", "param:stage1.", cogvideo_stage=1, window_size=-1),
        "cogvideo-stage2": official("f_pipeline_greedy", "param:stage2.", cogvideo_stage=2, window_size=10),
        "cogview2-dsr": official("f_pipeline_greedy", "param:dsr.", layout=golden["dsr_layout"]),
    }
    for name, part in made.items():
        write_zip(Path(f"{name}.zip"), write_sat(Path("sat") / name, [part.arrays], part.settings))
    torch.save(tensors(official("a_vqvae").arrays), "ice_image.pt")
    Path("ice_text.model").write_bytes(text_model())
    np.save("cluster_label2.npy", arrays["cluster_labels"])


@pytest.mark.slow
def test_the_commands_for_released_weights_give_a_video_of_480_pixels(downloads, capsys, some_optimisation):
    for words in commands():
        assert words[0] == "cogvideo" and main(words[1:]) == 0, words
    [video] = Path().glob("*.mp4")
    assert read_video(video, fps=8.0, max_seconds=60).shape == (33, 480, 480, 3)
    assert str(video) in capsys.readouterr().out


@pytest.mark.slow
def test_the_python_lines_of_the_readme_run_as_they_stand(tmp_path, monkeypatch, some_optimisation):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec("\n".join(blocks), {})
    assert read_video("ball.mp4", fps=8.0, max_seconds=60).shape == (33, 384, 384, 3)
    assert read_video("demo.webp", fps=8.0, max_seconds=60).shape == (33, 192, 4 * 194, 3)


@pytest.mark.slow
def test_the_commands_for_cogvideox_give_videos(tmp_path, monkeypatch, some_optimisation):
    monkeypatch.chdir(tmp_path)
    for name, golden in {"2b": "t2v_2b", "5b": "t2v", "5b-I2V": "i2v"}.items():
        write_snapshot(Path(f"CogVideoX-{name}"), f"x_pipeline_{golden}")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)).save("dogs.png")
    section = README.read_text(encoding="utf-8").split("## CogVideoX")[1]
    for line in re.search(r"```bash\n(.*?)```", section, re.DOTALL).group(1).splitlines():
        words = shlex.split(line)
        assert words[0] == "cogvideo" and main(words[1:]) == 0, words
        assert len(read_video(words[-1], fps=8.0, max_seconds=60)) == 9


def options_of(command: tuple[str, ...], capsys) -> set[str]:
    """The options that `--help` shows."""
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return set(re.findall(r"--[\w-]+", capsys.readouterr().out))


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_of_a_readme_have_options_that_exist(path, capsys):
    for line in re.findall(
        r"(?:^|`|&& )cogvideo (\w+ [^`\n|]*)(?=`|$)", path.read_text(encoding="utf-8"), re.MULTILINE
    ):
        words = shlex.split(line)
        family = words[1:3] if words[1] == "--family" else []
        command = (words[0], *family, *words[1 + len(family) : 2 + len(family)][: words[0] in ("bench", "plan")])
        given = {word.split("=")[0] for word in words if word.startswith("--") and not word.startswith("--config.")}
        assert given - {"--family"} <= options_of(command, capsys), line
