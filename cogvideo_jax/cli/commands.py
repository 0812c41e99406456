"""What each command of `cogvideo` does with its options, which cli.py reads; heavy modules are imported where used."""

import contextlib
import functools
import re
import sys
from pathlib import Path

from cogvideo_jax.errors import UserError

# Options of `generate` that say how it is done; all others decide how a video looks.
HOW = {
    "command",
    "run",
    "prompt",
    "prompts",
    "num",
    "batch",
    "out",
    "one_stage_at_a_time",
    "tensor",
    "compilation_cache",
    "growing_cache",
}


def _prepare_devices(options) -> None:
    """Where compiled programs are kept, and how the devices share the work; before weights are opened."""
    import jax

    from cogvideo_jax.runtime.mesh import make_mesh

    if options.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(Path(options.compilation_cache).absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if options.tensor > 1 or len(jax.devices()) > 1:
        jax.set_mesh(make_mesh(dict(data=-1, fsdp=1, tensor=options.tensor)))


def _open_weights(options):
    from cogvideo_jax.models.cogvideo.pipeline import DEMO_WEIGHTS, TextToVideo

    _prepare_devices(options)
    folder, keep = options.weights or DEMO_WEIGHTS, not options.one_stage_at_a_time
    caches = dict(int8=options.int8, growing_cache=options.growing_cache)
    return TextToVideo.load(folder, dtype=options.dtype, keep=keep, **caches)


def train(options, overrides: list[str]) -> int:
    from cogvideo_jax.runtime.processes import aborting, join
    from cogvideo_jax.training import loop
    from cogvideo_jax.training.config_files import read_config

    config, task = read_config(options.config, overrides, _tasks_of)
    if options.check:
        task.check(config)
        print(f"{options.config} is valid, and the files that it names fit")
        return 0
    if options.workdir is None:
        raise UserError("say where checkpoints and weights go: --workdir FOLDER")
    if options.distributed:
        join()
    try:
        with aborting() if options.distributed else contextlib.nullcontext():
            weights = loop.train(config, options.workdir, task.build)
    except loop.Interrupted as stop:
        print(f"cogvideo train: {stop}", file=sys.stderr)
        return 130
    print(weights)
    return 0


def plan_train(options, overrides: list[str]) -> int:
    from cogvideo_jax.training.compile_report import describe, estimate_step
    from cogvideo_jax.training.config_files import read_config
    from cogvideo_jax.training.loop import plan

    config, task = read_config(options.config, overrides, _tasks_of)
    if options.topology is None:
        return _show_plan(plan(config, task.build))
    report = estimate_step(config, task, options.topology)
    print(describe(report))
    return 0 if report.fits else 2


def _tasks_of(family: str):
    """Tasks of a family by name."""
    from cogvideo_jax.models.cogvideo.training.tasks import TASKS

    if family != "cogvideo":
        raise UserError(f"family is {family!r}; it should be cogvideo")
    return TASKS


def plan_generate(options, _) -> int:
    from cogvideo_jax import jobs as job

    video = _open_weights(options)
    together = job.together_of(options.batch, options.num * len(_prompts(options)))
    return _show_plan(_plan_of(video, options, together))


def _show_plan(phases) -> int:
    from cogvideo_jax.runtime.memory import require, room, table

    has = room()
    print(table(phases, has))
    require(phases, has)
    return 0


def _plan_of(video, options, together: int):
    """Phases of a call of `generate` that makes so many videos together."""
    from cogvideo_jax.models.cogvideo.config import Compat
    from cogvideo_jax.models.cogvideo.memory_plan import Request, plan_generation

    _, rates = video.schedule(options.fps, options.seconds)
    request = Request(
        together,
        rounds=0 if options.image or options.key_frames else len(rates),
        key_frames=not options.image,
        first_image=options.first_frame is not None,
        guidance=options.guidance,
        superres=not options.no_superres,
        compat=Compat(options.compat),
    )
    return plan_generation(video, request)


def _prompts(options) -> list[str]:
    from cogvideo_jax import jobs as job

    if (options.prompt is None) == (options.prompts is None):
        raise UserError("give either a prompt or --prompts FILE")
    return [options.prompt] if options.prompts is None else job.read_prompts(options.prompts)


def generate(options, _) -> int:
    from cogvideo_jax import jobs as job
    from cogvideo_jax.runtime.memory import require, tell_peak

    prompts = _prompts(options)
    formats = [job.SHEET] if options.image else _formats(options)
    jobs = job.plan_jobs(prompts, num=options.num, out=options.out, formats=formats)
    video = _open_weights(options)
    jobs, complaints = job.usable(video, jobs)
    for complaint in complaints:
        print(f"cogvideo generate: {complaint}", file=sys.stderr)
    if not jobs:
        return 2
    asked = {name: value for name, value in vars(options).items() if name not in HOW}
    record = job.Record(Path(options.out) / job.RECORD if options.prompts else None, asked)
    left = record.left(jobs)
    if len(left) < len(jobs):
        print(f"cogvideo generate: {len(jobs) - len(left)} videos are there already", file=sys.stderr)
    if not left:
        return 2 if complaints else 0
    together = job.together_of(options.batch, len(left))
    planned = require(_plan_of(video, options, together))
    make, write = _picture(video, options) if options.image else _video(video, options, formats)
    for path in job.run_jobs(left, seed=options.seed, together=together, make=make, write=write, record=record):
        print(path)
    tell_peak(planned)
    return 2 if complaints else 0


def _formats(options) -> list[str]:
    from cogvideo_jax import jobs as job

    return [".mp4", *([".gif"] if options.gif else []), *([job.SHEET] if options.sheet else [])]


def _picture(video, options):
    """How `run_jobs` makes and writes a picture."""
    from cogvideo_jax import jobs as job
    from cogvideo_jax.models.cogvideo.config import Compat

    settings = dict(superres=not options.no_superres, compat=Compat(options.compat), progress=True)
    return functools.partial(video.image, **settings), lambda path, _, picture: job.write_picture(path, picture)


def _video(video, options, formats: list[str]):
    """How `run_jobs` makes and writes a video; with --key-frames its ids too."""
    from cogvideo_jax import jobs as job
    from cogvideo_jax.models.cogvideo.config import Compat
    from cogvideo_jax.runtime.media import read_image

    fps = video.rate(options.fps, options.seconds)
    image = options.first_frame and read_image(options.first_frame, size=video.sampling_config.pixels)
    settings = dict(seconds=options.seconds, guidance=options.guidance, first_image=image)
    compat, superres = Compat(options.compat), not options.no_superres
    if not options.key_frames:
        settings |= dict(fps=options.fps, superres=superres, compat=compat, progress=True)
        write_one = functools.partial(job.write_clip, fps=fps, formats=formats)
        return functools.partial(video, **settings), lambda path, _, clip: write_one(path, clip)

    def make_key_frames(prompts, keys):
        ids = video.key_frames(prompts, keys, compat=compat, **settings)
        return list(zip(ids, video.pixels(ids, prompts, keys, superres=superres, compat=compat)))

    def write_both(path, prompt, result):
        ids, clip = result
        rate, _ = video.schedule(None, options.seconds)
        saved = job.write_key_frames(path, ids, prompt=prompt, fps=rate, tokenizer=video.tokenizer.fingerprint)
        return saved + job.write_clip(path.with_suffix(".mp4"), clip, fps=rate, formats=formats)

    return make_key_frames, write_both


def interpolate(options, _) -> int:
    import jax

    from cogvideo_jax import jobs as job
    from cogvideo_jax.models.cogvideo.config import Compat
    from cogvideo_jax.models.cogvideo.memory_plan import Request, plan_generation
    from cogvideo_jax.runtime.memory import require

    source, formats = Path(options.source), _formats(options)
    [target] = job.plan_jobs([source.stem], num=1, out=options.out, formats=formats)
    video = _open_weights(options)
    to = max(video.sampling_config.interpolation_fps) if options.fps is None else options.fps
    if source.suffix == job.KEY_FRAMES:
        frames, prompt, fps = job.read_key_frames(source, tokenizer=video.tokenizer.fingerprint)
    else:
        prompt, fps = options.prompt, options.from_fps or to / 2
        if not prompt:
            raise UserError("say what the video shows: --prompt TEXT")
        video.sampling_config.pass_rates(fps, to)  # refuses a rate before a long video is read
        frames = job.read_frames(source, fps=fps, size=video.sampling_config.pixels, max_seconds=options.seconds)
    settings = dict(superres=not options.no_superres, compat=Compat(options.compat))
    request = Request(
        1, rounds=len(video.sampling_config.pass_rates(fps, to)), start=len(frames), key_frames=False, **settings
    )
    require(plan_generation(video, request))
    settings |= dict(progress=True)
    [clip] = video.interpolate(
        frames[None], [options.prompt or prompt], jax.random.key(options.seed), fps=fps, to=to, **settings
    )
    for path in job.write_clip(target.path, clip, fps=to, formats=formats):
        print(path)
    return 0


def evaluate(options, _) -> int:
    from cogvideo_jax.evaluation.motion.agreement import report_text, run
    from cogvideo_jax.models.cogvideo.pipeline import DEMO_WEIGHTS

    weights = options.weights or DEMO_WEIGHTS
    how = dict(prompts=options.prompts, seed=options.seed, batch_size=options.batch, int8=options.int8)
    report = run(weights, out=options.out, **how)
    print(report_text(report))
    return 0


def assemble(options, _) -> int:
    from cogvideo_jax.models.cogvideo import assemble as job

    parts = {part: getattr(options, part) for part in ("tokenizer", "base", "stage1", "stage2", "superres")}
    parts = {part: path for part, path in parts.items() if path is not None}
    print(job.assemble(parts, text_model=options.text_model, sampling_config=options.sampling_config, out=options.out))
    return 0


def tokenize(options, _) -> int:
    from cogvideo_jax.data.cache import write_token_cache
    from cogvideo_jax.data.sources import open_source
    from cogvideo_jax.models.cogvideo.text_model import place_text_model
    from cogvideo_jax.models.cogvideo.vq.tokenizer import load_tokenizer

    worker = re.fullmatch(r"(\d+)/(\d+)", options.worker)
    if worker is None:
        raise UserError(f"--worker {options.worker} should look like 0/8: this one, and how many there are")
    tokenizer = load_tokenizer(options.tokenizer)
    source = open_source(options.source, size=options.size, data_dir=options.data_dir, train_clips=options.clips)
    settings = dict(fingerprint=tokenizer.fingerprint, coarse_size=options.coarse_size)
    settings["worker"] = tuple(map(int, worker.groups()))
    cache = write_token_cache(source, tokenizer.encode, options.out, **settings)
    if cache is None:
        print(f"worker {options.worker} is done; {options.out} is whole when the others are")
        return 0
    place_text_model(cache, options.text_model, pieces=options.text_pieces)
    source.warn_of_skipped()
    print(f"{len(cache)} clips in {options.out}, {len(cache.meta['skipped'])} skipped")
    return 0


def bench_decode(options, _) -> int:
    import dataclasses

    from cogvideo_jax.models.cogvideo.bench import decode
    from cogvideo_jax.models.cogvideo.bench.sizes import sized

    config = sized(options.size, options.stage)
    if options.window:
        config = dataclasses.replace(config, window=options.window)
    guided = {"no": [False], "yes": [True], "both": [False, True]}[options.guidance]
    settings = [dict(batch=batch, guided=guide) for guide in guided for batch in options.batch]
    caches = dict(int8=options.int8, growing_cache=options.growing_cache)
    fixed = dict(dtype=options.dtype, wavefront=not options.sequential, **caches)
    return _bench(options, functools.partial(decode.measure_decode, config, **fixed), settings, decode.cells)


def bench_train(options, _) -> int:
    from cogvideo_jax.models.cogvideo.bench import train as training
    from cogvideo_jax.models.cogvideo.bench.sizes import sized
    from cogvideo_jax.models.cogvideo.transformer.transformer import Remat

    config = sized(options.size, options.stage)
    fixed = dict(dtype=options.dtype, remat=Remat(options.remat), attention=options.attention)
    settings = [dict(batch=batch) for batch in options.batch]
    return _bench(options, functools.partial(training.measure_train, config, **fixed), settings, training.cells)


def bench_tokenizer(options, _) -> int:
    from cogvideo_jax.models.cogvideo.bench import tokenizer
    from cogvideo_jax.models.cogvideo.bench.sizes import TOKENIZERS

    settings = [dict(what=what, batch=batch) for what in ("encode", "decode") for batch in options.batch]
    measure = functools.partial(tokenizer.measure_tokenizer, TOKENIZERS[options.size], side=options.side)
    return _bench(options, measure, settings, tokenizer.cells)


def bench_superres(options, _) -> int:
    from cogvideo_jax.models.cogvideo.bench import superres
    from cogvideo_jax.models.cogvideo.bench.sizes import sized
    from cogvideo_jax.models.cogvideo.weights import SUPERRES

    measure = functools.partial(superres.measure_superres, sized(options.size, SUPERRES), dtype=options.dtype)
    return _bench(options, measure, [dict(batch=batch) for batch in options.batch], superres.cells)


def bench_pipeline(options, _) -> int:
    from cogvideo_jax.models.cogvideo.bench import pipeline
    from cogvideo_jax.models.cogvideo.bench.sizes import RandomWeights
    from cogvideo_jax.models.cogvideo.pipeline import TextToVideo

    def open_weights() -> TextToVideo:
        if options.size == "demo" or options.weights:
            return _open_weights(options)
        _prepare_devices(options)
        keep, int8 = not options.one_stage_at_a_time, "weights" in options.int8
        weights = RandomWeights(options.size, dtype=options.dtype, keep=keep, int8=int8)
        return TextToVideo(weights, int8_cache="cache" in options.int8, growing_cache=options.growing_cache)

    measure = functools.partial(pipeline.measure_pipeline, open_weights, started=pipeline.since_start())
    return _bench(options, measure, [dict(batch=batch) for batch in options.batch], pipeline.cells)


def _bench(options, measure, settings: list[dict], cells) -> int:
    """Measures the machine, then every setting."""
    from cogvideo_jax.bench.machine import measure as measure_machine
    from cogvideo_jax.bench.report import report

    machine = measure_machine(options.dtype)
    asked = {name: value for name, value in vars(options).items() if name not in ("run", "out")}
    measure = functools.partial(measure, machine=machine, trace=options.trace)
    return 2 if report(machine, measure, settings, cells, asked=asked, out=options.out) else 0


def convert(options, _) -> int:
    from cogvideo_jax.models.cogvideo.assemble import add_labels, add_text_model
    from cogvideo_jax.models.cogvideo.convert import to_ours
    from cogvideo_jax.models.cogvideo.convert.to_official import convert_back
    from cogvideo_jax.models.cogvideo.sampling_config import FILE, RELEASED, write_sampling_config

    if options.to_official:
        if options.part is None:
            raise UserError("--to-official needs --part: the part of SOURCE to export")
        print(convert_back(options.source, options.target, part=options.part))
        return 0
    add = {".model": add_text_model, ".npy": add_labels}.get(Path(options.source).suffix)
    if add is not None:
        print(add(options.source, options.target))
        return 0
    settings = dict(part=options.part, heads=options.heads, drop_unexpected=options.drop_unexpected)
    converted = to_ours.convert(options.source, options.target, **settings)
    sampling_config = Path(options.target) / FILE
    if not sampling_config.exists():
        write_sampling_config(sampling_config, RELEASED)
    print(*converted.files, sep="\n")
    for note in converted.notes:
        print(f"cogvideo convert: {note}", file=sys.stderr)
    return 0
