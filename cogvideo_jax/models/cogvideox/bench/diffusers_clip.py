"""Makes a clip with diffusers, to compare with: a process of its own, which imports nothing of JAX."""

import argparse
from pathlib import Path

import av
import numpy as np
import sentencepiece
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from transformers import T5EncoderModel


def main() -> None:
    """From the command line's prompt to its file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("prompt")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--size")
    parser.add_argument("--out")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    pipe = _opened(options.weights)
    encoded = [_states(pipe, options.weights, text) for text in (options.prompt, "")]
    how = dict(num_inference_steps=options.steps, num_frames=options.frames, height=height, width=width)
    found = pipe(prompt_embeds=encoded[0], negative_prompt_embeds=encoded[1], output_type="np", **how).frames[0]
    _write(options.out, np.rint(found * 255).astype(np.uint8))


def _opened(folder: Path) -> CogVideoXPipeline:
    return CogVideoXPipeline(
        tokenizer=None,
        text_encoder=T5EncoderModel.from_pretrained(folder / "text_encoder"),
        vae=AutoencoderKLCogVideoX.from_pretrained(folder / "vae"),
        transformer=CogVideoXTransformer3DModel.from_pretrained(folder / "transformer"),
        scheduler=CogVideoXDDIMScheduler.from_pretrained(folder / "scheduler"),
    )


@torch.no_grad()
def _states(pipe: CogVideoXPipeline, folder: Path, text: str) -> torch.Tensor:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer" / "spiece.model"))
    length = pipe.transformer.config.max_text_seq_length
    ids = [*pieces.encode(text), pieces.eos_id()]
    return pipe.text_encoder(torch.tensor([ids + [0] * (length - len(ids))]))[0]


def _write(path: str, frames: np.ndarray) -> None:
    with av.open(path, "w") as file:
        stream = file.add_stream("h264", rate=8)
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        file.mux(stream.encode(None))


if __name__ == "__main__":
    main()
