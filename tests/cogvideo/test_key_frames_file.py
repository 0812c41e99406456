"""Key frames on disk: what goes in comes out; what stage 2 cannot go on from is refused."""

import numpy as np
import pytest

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.key_frames_file import read_key_frames, write_key_frames
from cogvideo_jax.runtime.weights import save_weights

TOKENIZER, CODES = "0123456789abcdef", 80
IDS = np.arange(80).reshape(5, 16)


def test_key_frames_survive_the_round_trip(tmp_path):
    [path] = write_key_frames(tmp_path / "a.mp4", IDS, prompt="红球", fps=1, tokenizer=TOKENIZER)
    found = read_key_frames(path, tokenizer=TOKENIZER, codes=CODES)
    np.testing.assert_array_equal(found.ids, IDS)
    assert path.name == "a.keyframes" and (found.prompt, found.fps) == ("红球", 1.0) and found.ids.dtype == np.int32


@pytest.mark.parametrize(
    "ids, words",
    [
        (IDS + 1, "ids are 1..80; these weights have the codes 0..79"),
        (IDS - 1, "ids are -1..78"),
        (IDS[:4], "4 frames; interpolation needs an odd number"),
        (IDS[:1], "1 frames"),
        (IDS[:, :15], "15 tokens a frame, which do not form a square grid"),
        (IDS[:, :0], "0 tokens"),
        (IDS[0], "of shape"),
    ],
)
def test_ids_that_no_stage_1_writes_are_refused(tmp_path, unchecked_annotations, ids, words):
    [path] = write_key_frames(tmp_path / "a.mp4", ids, prompt="a", fps=1, tokenizer=TOKENIZER)
    with pytest.raises(UserError, match=words):
        read_key_frames(path, tokenizer=TOKENIZER, codes=CODES)


def test_other_files_and_other_tokenizers_are_refused(tmp_path):
    [path] = write_key_frames(tmp_path / "a.mp4", IDS, prompt="a", fps=1, tokenizer=TOKENIZER)
    with pytest.raises(UserError, match="another tokenizer"):
        read_key_frames(path, tokenizer="0" * 16, codes=CODES)
    description = {"kind": "keyframes", "prompt": "a", "fps": 1.0, "tokenizer": TOKENIZER}
    save_weights(path, {"ids": IDS.astype(np.float32)}, description, replace=True)
    with pytest.raises(UserError, match="ids are float32"):
        read_key_frames(path, tokenizer=TOKENIZER, codes=CODES)
    save_weights(path, {"codes": IDS.astype(np.int32)}, description, replace=True)
    with pytest.raises(UserError, match="has no key frames"):
        read_key_frames(path, tokenizer=TOKENIZER, codes=CODES)
    save_weights(path, {"ids": IDS.astype(np.int32)}, description | {"kind": "base"}, replace=True)
    with pytest.raises(UserError, match="kind is 'base'; it should be 'keyframes'"):
        read_key_frames(path, tokenizer=TOKENIZER, codes=CODES)
