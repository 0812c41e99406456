"""CogVideoX as a sampler: text to video, image to video, video to video.

The folder's `model_index.json` tells which: image-to-video weights need a first picture, and the others may go on from
a start video, of which `strength` says how much is made anew.
"""

from collections.abc import Mapping

import numpy as np

from cogvideo_jax.diffusion.guidance import constant_scales, dynamic_scales
from cogvideo_jax.diffusion.samplers import SAMPLERS, StepTable
from cogvideo_jax.diffusion.schedules import step_warnings
from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Request, Sampler, Step
from cogvideo_jax.models.cogvideox import clip, steps
from cogvideo_jax.models.cogvideox.snapshot import FROM_IMAGE, Snapshot
from cogvideo_jax.notation import Float

STEPS, GUIDANCE, STRENGTH = 50, 6.0, 0.8  # as diffusers has them
MOST_STEPS = 1000


class CogVideoXSampler(Sampler):
    """Opened weights of CogVideoX."""

    lowers_anywhere = True
    takes = frozenset(
        {
            "frames",
            "size",
            "steps",
            "guidance",
            "first_image",
            "start",
            "strength",
            "sampler",
            "dynamic_guidance",
            "negative_prompt",
            "loras",
        }
    )

    def __init__(self, weights: Snapshot):
        self.weights = weights
        self.published = clip.published(weights.transformer.config)

    # The request ----------------------------------------------------------------------------------------

    def check_fields(self, request: Request) -> None:
        super().check_fields(request)
        self._check_task(request)
        config = self.weights.transformer.config
        clip.require_frames(config, self.frames(request))
        clip.require_size(config, self.size(request))
        if (request.steps or STEPS) > MOST_STEPS:
            raise UserError(f"at most {MOST_STEPS} steps can be taken, not {request.steps}")
        self.table(request)
        for lora in request.loras:
            self.weights.lora(lora)

    def check_prompts(self, request: Request) -> list[str]:
        config = self.weights.transformer.config
        found = clip.size_warnings(config, self.size(request))
        found += step_warnings(self.weights.schedule, request.steps or STEPS)
        for prompt in (*request.prompts, request.negative_prompt or ""):
            lost = self.weights.text.cut(prompt, config.max_text_seq_length)
            if lost:
                found.append(f"the last {lost} tokens of {prompt[:40]!r}... are not read; these weights read the first "
                             f"{config.max_text_seq_length}")  # fmt: skip
        return found

    def _check_task(self, request: Request) -> None:
        from_image = self.weights.task == FROM_IMAGE
        if from_image and request.first_image is None:
            raise UserError("these weights make videos of a picture; give one with --first-frame IMAGE")
        if not from_image and request.first_image is not None:
            raise UserError("these weights make videos of text alone; leave --first-frame out, or take I2V weights")
        if from_image and request.start is not None:
            raise UserError("image-to-video weights cannot go on from a video; leave --from-video out")
        if request.strength is not None and request.start is None:
            raise UserError("strength says how much of a start video is made anew; give one with --from-video FILE")
        if self.guidance(request) <= 1 and (request.negative_prompt or request.dynamic_guidance):
            raise UserError(
                "guidance of 1 or less leads away from nothing; leave negative_prompt, dynamic_guidance out"
            )
        if request.start is not None and request.start.frames.ndim != 4:
            raise UserError("these weights go on from the frames of a video, not from key frames of another model")

    def fps(self, request: Request) -> float:
        return self.published.fps

    def frames(self, request: Request) -> int:
        """Frames of the result; of a start video, as many as it has."""
        if request.frames is not None or request.start is None:
            frames = request.frames or self.published.frames
        else:
            there, every = min(len(request.start.frames), self.published.most), self.published.every
            frames = (there - 1) // every * every + 1
        if request.start is not None and len(request.start.frames) < frames:
            raise UserError(f"the start video has {len(request.start.frames)} frames, but {frames} are asked for")
        return frames

    def size(self, request: Request) -> tuple[int, int]:
        """Height and width of the result in pixels."""
        return request.size or self.published.size

    def start_fps(self, fps: float | None, given: float | None) -> float:
        return self.published.fps

    def start_seconds(self, request: Request) -> float:
        return ((request.frames or self.published.frames) - 1) / self.published.fps

    def guidance(self, request: Request) -> float:
        """Scale of classifier-free guidance; 1 for none."""
        return GUIDANCE if request.guidance is None else request.guidance

    def table(self, request: Request) -> tuple[StepTable, Float[np.ndarray, "n"]]:
        """The sampler's steps, and the scale of guidance at each."""
        count, skip = request.steps or STEPS, 0
        if request.start is not None:
            strength = STRENGTH if request.strength is None else request.strength
            kept = min(int(count * strength), count)
            if not kept:
                raise UserError(f"strength {strength:g} leaves none of {count} steps; raise one of them")
            skip = count - kept
        table = SAMPLERS[request.sampler or self.published.sampler](self.weights.schedule, count, skip=skip)
        scale, dynamic = self.guidance(request), request.dynamic_guidance
        if self.published.dynamic_guidance if dynamic is None else dynamic:
            return table, dynamic_scales(scale, table.timestep, steps=count - skip)
        return table, constant_scales(scale, table.timestep)

    # The chain ------------------------------------------------------------------------------------------

    def steps(self, request: Request, rows: Mapping[str, int] | None = None) -> list[Step]:
        chain = steps.Chain(self, request, rows or {})
        given = [chain.picture()] if request.first_image is not None else []
        given += [chain.start()] if request.start is not None else []
        return [chain.text(), *given, chain.denoising(), chain.pixels()]
