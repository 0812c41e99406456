"""Damaged and wrong snapshots, and what is said of each."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.cogvideox.snapshot_damages import (
    INDEX,
    POINTER,
    QUERY,
    SCHEDULER,
    SPIECE,
    T5_FILE,
    VAE_FILE,
    Damage,
    config,
    cut,
    edit,
    entry,
    header,
    loop,
    named,
    pickled,
    pipe,
    remove,
    replace,
    shard,
    tensors,
    text_model,
    transformer,
    weight_map,
    write,
)

DAMAGED = "is not a safetensors file, or it is damaged"


class Case(NamedTuple):
    """A damage, and what is said of it; `golden` is the pipeline whose weights the snapshot has."""

    name: str
    damage: Damage
    said: str
    golden: str = "x_pipeline_t2v"


CONV_IN, DENSE = "encoder.conv_in.conv.bias", "encoder.block.0.layer.1.DenseReluDense"
VARIANT, IMAGE = "x_pipeline_i2v_15", "x_pipeline_i2v"

FILES = [
    Case("no index of the pipeline", remove("model_index.json"), "no pipeline.json and no model_index.json"),
    Case("missing shard", remove(shard(2)), "00002-of-.*does not exist, but the index of transformer names it"),
    Case("truncated shard", cut(shard(2), lambda size: size - 1), f"00002-of-.*{DAMAGED}"),
    Case("shard with more behind its end", cut(shard(2), lambda size: size + 9), f"00002-of-.*{DAMAGED}"),
    Case("truncated header", cut(VAE_FILE, lambda size: 40), f"vae/.*{DAMAGED}"),
    Case("empty file", write(T5_FILE, b""), f"text_encoder/.*{DAMAGED}"),
    Case("header longer than the file", header(VAE_FILE, entry(), length=2**60), f"vae/.*{DAMAGED}"),
    Case("header with a huge tensor", header(VAE_FILE, entry(shape=[2**40, 4])), f"vae/.*{DAMAGED}"),
    Case("header whose tensor ends behind the file", header(VAE_FILE, entry(span=[0, 2**40])), f"vae/.*{DAMAGED}"),
    Case("header that is no JSON", write(VAE_FILE, (8).to_bytes(8, "little") + b"{{{{{{{{"), f"vae/.*{DAMAGED}"),
    Case("no tensor at all", header(T5_FILE, {}), "text_encoder"),
    Case("no weights", remove(VAE_FILE), "vae has no .*safetensors"),
    Case("no weights of a shard's part", remove("transformer"), "transformer/config.json does not exist"),
    Case("pointer of git-lfs in place of a shard", write(shard(1), POINTER), "00001-of-.*git lfs pull"),
    Case("pointer in place of a file", write(VAE_FILE, POINTER), "vae/.*git lfs pull"),
    Case("pointer in place of the tokenizer", write(SPIECE, POINTER), "spiece.model.*git lfs pull"),
    Case("pointer in place of a config", write("vae/config.json", POINTER), "vae/config.json.*git lfs pull"),
    Case("pickle", pickled("vae/diffusion_pytorch_model.bin", VAE_FILE),
         "vae/.*bin is a pickle.*run code.*safetensors"),
    Case("pickle of T5", pickled("text_encoder/pytorch_model.bin", T5_FILE), "bin is a pickle.*run code.*safetensors"),
    Case("pickle that is called safetensors", pickled(VAE_FILE, VAE_FILE), f"vae/.*{DAMAGED}"),
    Case("pipe in place of a shard", replace(shard(2), pipe), "00002-of-.*is not a regular file"),
    Case("pipe in place of a file", replace(VAE_FILE, pipe), "vae/.*is not a regular file"),
    Case("pipe in place of an index", replace(INDEX, pipe), "index.json is not a regular file"),
    Case("pipe in place of a config", replace("vae/config.json", pipe), "vae/config.json is not a regular file"),
    Case("pipe in place of the tokenizer", replace(SPIECE, pipe), "spiece.model is not a regular file"),
    Case("pipe in place of the pipeline's index", replace("model_index.json", pipe), "is not a regular file"),
    Case("shard that is a link to itself", replace(shard(2), loop), "00002-of-.*symbolic links"),
    Case("pipeline's index that is a link to itself", replace("model_index.json", loop), "symbolic links"),
    Case("part that is a link to itself", replace("vae", loop), "vae/config.json cannot be read.*symbolic links"),
    Case("link to nowhere", replace(VAE_FILE, lambda path: path.symlink_to("none")), "vae/.*does not exist"),
    Case("folder in place of a file", replace(VAE_FILE, Path.mkdir), "vae/.*is not a regular file"),
    Case("folder in place of a config", replace("vae/config.json", Path.mkdir), "vae/.*is not a regular file"),
    Case("file in place of a part", replace("vae", Path.touch), "vae/config.json"),
    Case("link to a device", replace("vae/config.json", lambda path: path.symlink_to("/dev/zero")),
         "not a regular file"),
]  # fmt: skip
MAPS = [
    Case("index that is no JSON", write(INDEX, b"{"), "index.json is not valid JSON"),
    Case("index that is not Unicode", write(INDEX, b"\xff\xfe{}"), "index.json is not valid JSON"),
    Case("index of deep lists", write(INDEX, b"[" * 100_000), "index.json is not valid JSON"),
    Case("index that is null", write(INDEX, b"null"), "index.json: it should be an object"),
    Case("index without a map", write(INDEX, b"{}"), "index.json lacks the key weight_map"),
    Case("index with an empty map", weight_map(dict.clear), "weight_map is {}; it should have at least 1 item"),
    Case("index that is too large", replace(INDEX, lambda path: [path.touch(), os.truncate(path, 2**40)]), "at most"),
    Case("index of too many tensors",
         weight_map(lambda files: files.update((str(n), "a.safetensors") for n in range(100_001))), "at most 100000"),
    Case("index that names no file", weight_map(lambda files: files.update(
        {name: "none.safetensors" for name, file in files.items() if file == Path(shard(2)).name})),
         "none.safetensors does not exist, but the index"),
    Case("index that names another file", named(Path(shard(3)).name),
         f"holds '{QUERY}', which its index does not place there"),
    Case("index that leaves a tensor out", weight_map(lambda files: files.pop(QUERY)), f"holds '{QUERY}', which its"),
    Case("index of a tensor that is nowhere", weight_map(lambda files: files.update(a=Path(shard(1)).name)),
         "lacks 'a'"),
    Case("file name with a folder", named("../vae/diffusion_pytorch_model.safetensors"), "without folders"),
    Case("file name from the root", named("/etc/passwd.safetensors"), "without folders"),
    Case("file name that is a folder", named(".."), "name of a safetensors file"),
    Case("file name of another kind", named("config.json"), "name of a safetensors file"),
    Case("file name with a line's end", named("a\n.safetensors"), "name of a safetensors file"),
    Case("file name that is a number", named(5), "is 5; it should be a text"),
]  # fmt: skip
TENSORS = [
    Case("all tensors int64", transformer(lambda found: found.update((k, v.astype(int)) for k, v in found.items())),
         "transformer does not fit: not of a type that weights have .*int64"),
    Case("one tensor int32", tensors(VAE_FILE, lambda found: found.update({CONV_IN: np.zeros(8, np.int32)})),
         r"vae does not fit: not of a type that weights have encoder.conv_in.conv.bias \(the first is int32\)"),
    Case("float8", header(VAE_FILE, entry("F8_E4M3", [8, 8])), "vae/.*an array of type 'F8_E4M3'"),
    Case("wrong shape", transformer(lambda found: found.update({QUERY: found[QUERY][:-1]})),
         f"transformer does not fit: misshapen {QUERY}.*expected"),
    Case("missing tensor", transformer(lambda found: found.pop("proj_out.weight")), "not fit: missing proj_out.weight"),
    Case("extra tensor", transformer(lambda found: found.update(a=np.zeros(1, np.float32))), "not fit: unexpected a"),
    Case("odd name", transformer(lambda found: found.update({"\x1b[2Ja": np.zeros(1, np.float32)})), "unexpected"),
    Case("extra tensor in a shard", tensors(shard(2), lambda found: found.update(a=np.zeros(1, np.float32))),
         "00002-of-.*holds 'a', which its index does not place there"),
    Case("layer that is missing", transformer(lambda found: [found.pop(k) for k in [*found] if "blocks.1." in k]),
         "num_layers is 2, but the files hold 1"),
    Case("T5 of v1.0, with one matrix for two", tensors(T5_FILE, lambda found: found.update(
        {f"{DENSE}.wi.weight": found.pop(f"{DENSE}.wi_0.weight")})),
         "text_encoder does not fit: missing .*wi_0"),
    Case("weights of another part", lambda folder: shutil.copy(folder / VAE_FILE, folder / T5_FILE), "text_encoder"),
    Case("transformer of 1.5, tensors of 1.0", config("transformer", patch_size_t=2), "patch_embed.proj"),
    Case("transformer of 1.0, tensors of 1.5", config("transformer", patch_size_t=None), "patch_embed.proj", VARIANT),
    Case("no tensors of ofs", transformer(lambda found: [found.pop(k) for k in [*found] if k.startswith("ofs")]),
         "transformer does not fit: missing ofs_embedding", VARIANT),
    Case("tensors of ofs, and a config without", config("transformer", "ofs_embed_dim"), "unexpected ofs_emb", VARIANT),
    Case("no learned positions", transformer(lambda found: found.pop("patch_embed.pos_embedding")),
         "missing patch_embed.pos_embedding", IMAGE),
    Case("learned positions of another size", config("transformer", sample_frames=17), "pos_embedding", IMAGE),
    Case("config of more heads", config("transformer", num_attention_heads=48, attention_head_dim=64), "misshapen"),
    Case("config of more layers", config("transformer", num_layers=30), "num_layers is 30, but the files hold 2"),
    Case("config of too many layers", config("transformer", num_layers=1000), "num_layers is 1000, but"),
    Case("T5 of more layers", config("text_encoder", num_layers=24), "num_layers is 24, but the files hold 2"),
    Case("T5 of other heads", config("text_encoder", num_heads=4), "text_encoder does not fit: misshapen"),
    Case("T5 with a larger table", config("text_encoder", vocab_size=64),
         "text_encoder does not fit: misshapen shared"),
    Case("VAE of other widths", config("vae", block_out_channels=[8, 8, 12, 16]), "vae does not fit"),
    Case("VAE of more blocks", config("vae", layers_per_block=3), "vae does not fit: missing"),
]  # fmt: skip
PARTS = [
    Case("another model", edit("model_index.json", _class_name="StableDiffusionPipeline"),
         "model_index.json is of 'StableDiffusionPipeline', which is not supported"),
    Case("a control model", edit("model_index.json", _class_name="CogVideoXFunControlPipeline"),
         "model_index.json: 'CogVideoXFunControlPipeline' is not supported; known are CogVideoXPipeline"),
    Case("no class", edit("model_index.json", "_class_name"), "model_index.json lacks the key _class_name"),
    Case("null as class", edit("model_index.json", _class_name=None), "_class_name is None; it should be a text"),
    Case("list as class", edit("model_index.json", _class_name=["a"]), "it should be a text"),
    Case("pipeline's index of a list", write("model_index.json", b"[1]"), "model_index.json: it should be an object"),
    Case("image to video, with tensors for text", edit("model_index.json", _class_name="CogVideoXImageToVideoPipeline"),
         "ImageToVideoPipeline with latents of 4 channels needs a transformer that reads 8 and writes 4, not 4 and 4"),
    Case("text to video, with tensors for images", edit("model_index.json", _class_name="CogVideoXPipeline"),
         "needs a transformer that reads 4 and writes 4, not 8 and 4", IMAGE),
    *(Case(f"no config of {part}", remove(f"{part}/config.json"), f"{part}/config.json does not exist")
      for part in ("transformer", "vae", "text_encoder")),
    *(Case(f"config of {part} is no JSON", write(f"{part}/config.json", b"\x80}"), f"{part}/config.json is not valid")
      for part in ("transformer", "vae", "text_encoder")),
    *(Case(f"no {part}", remove(part), f"{part}/.* does not exist")
      for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")),
    Case("no text model", remove(SPIECE), "spiece.model does not exist"),
    Case("damaged text model", cut(SPIECE, lambda size: size // 2), "spiece.model is not a"),
    Case("empty text model", write(SPIECE, b""), "spiece.model is not a"),
    Case("text as a text model", write(SPIECE, b"a red ball\n" * 99), "spiece.model is not a SentencePiece model"),
    Case("text model that is too large", cut(SPIECE, lambda size: 2**40), "spiece.model has .* bytes; at most"),
    Case("text model of another pad", text_model(pad_id=3, bos_id=0),
         "spiece.model is not a model of T5.*should be ids"),
    Case("text model with more pieces than the table", config("text_encoder", vocab_size=20),
         "the tokenizer has .* pieces"),
    Case("text states of another width", config("transformer", text_embed_dim=32), "reads text states of 32 features"),
]  # fmt: skip
VALUES = [
    *(Case(f"transformer: {key} {value!r:.20}", config("transformer", **{key: value}), f"config.json: {said}")
      for key, value, said in [
          ("freq_shift", 1, "freq_shift is 1; it should be 0"),
          ("flip_sin_to_cos", False, "flip_sin_to_cos is False; it should be True"),
          ("activation_fn", "gelu", "activation_fn is 'gelu'; it should be 'gelu-approximate'"),
          ("timestep_activation_fn", "gelu", "timestep_activation_fn is 'gelu'; it should be 'silu'"),
          ("attention_bias", False, "attention_bias is False"),
          ("norm_elementwise_affine", False, "norm_elementwise_affine is False"),
          ("attention_head_dim", 24, "attention_head_dim 24 is not a multiple of 16"),
          ("attention_head_dim", -64, "attention_head_dim is -64; it should be greater than 0"),
          ("num_layers", 0, "num_layers is 0; it should be greater than 0"),
          ("num_layers", 10**9, "num_layers is 1000000000; it should be less than or equal to 1000"),
          ("num_layers", 1e9, "num_layers is 1000000000.0; it should be a whole number"),
          ("num_layers", "2", "num_layers is '2'; it should be a whole number"),
          ("num_layers", None, "num_layers is None; it should be a whole number"),
          ("num_layers", True, "num_layers is True; it should be a whole number"),
          ("num_attention_heads", 10**400, "num_attention_heads is 1000"),
          ("norm_eps", float("nan"), "norm_eps is nan; it should be a finite number"),
          ("norm_eps", 0, "norm_eps is 0; it should be greater than 0"),
          ("ofs_embed_dim", 32, "ofs_embed_dim 32 should be time_embed_dim 16"),
          ("use_rotary_positional_embeddings", "yes", "use_rotary_positional_embeddings is 'yes'; it should be true"),
          ("patch_size", 0, "patch_size is 0; it should be greater than 0"),
      ]),
    *(Case(f"scheduler: {key} {value!r:.20}", edit(SCHEDULER, **{key: value}), f"scheduler_config.json: {said}")
      for key, value, said in [
          ("prediction_type", "epsilon", "prediction_type is 'epsilon'; it should be 'v_prediction'"),
          ("timestep_spacing", "leading", "timestep_spacing is 'leading'; it should be 'trailing'"),
          ("beta_schedule", "linear", "beta_schedule is 'linear'; it should be 'scaled_linear'"),
          ("trained_betas", [0.1], "trained_betas"),
          ("clip_sample", True, "clip_sample is True; it should be False"),
          ("snr_shift_scale", 0, "snr_shift_scale is 0"),
          ("snr_shift_scale", float("nan"), "snr_shift_scale is nan; it should be a finite number"),
          ("beta_end", 2.0, "beta_end is 2.0; it should be less than 1"),
          ("beta_start", 0.5, "beta_start 0.5 is above beta_end 0.012"),
          ("num_train_timesteps", 0, "num_train_timesteps is 0"),
          ("num_train_timesteps", 10**12, "num_train_timesteps is 1000000000000"),
      ]),
    *(Case(f"scheduler without {key}", edit(SCHEDULER, key), f"scheduler_config.json lacks the key {key}")
      for key in ("snr_shift_scale", "prediction_type", "clip_sample", "beta_end")),
    *(Case(f"text_encoder: {key} {value!r:.20}", config("text_encoder", **{key: value}), f"config.json: {said}")
      for key, value, said in [
          ("feed_forward_proj", "relu", "feed_forward_proj is 'relu'; it should be 'gated-gelu'"),
          ("model_type", "umt5", "model_type is 'umt5'; it should be 't5'"),
          ("d_model", "16", "d_model is '16'; it should be a whole number"),
          ("d_kv", -8, "d_kv is -8; it should be greater than 0"),
          ("num_layers", 0, "num_layers is 0"),
          ("layer_norm_epsilon", float("inf"), "layer_norm_epsilon is inf; it should be a finite number"),
          ("relative_attention_num_buckets", 2, "relative_attention_num_buckets is 2"),
          ("relative_attention_max_distance", 1, "relative_attention_max_distance is 1; it should be above 8"),
      ]),
    *(Case(f"vae: {key} {value!r:.20}", config("vae", **{key: value}), f"vae/config.json: {said}")
      for key, value, said in [
          ("use_quant_conv", True, "use_quant_conv is True; it should be False"),
          ("use_post_quant_conv", True, "use_post_quant_conv is True; it should be False"),
          ("down_block_types", ["DownBlock2D"] * 4, r"down_block_types\[0\] is 'DownBlock2D'; it should be 'Cog"),
          ("up_block_types", ["UpBlock2D"] * 4, r"up_block_types\[0\] is 'UpBlock2D'; it should be 'CogVideoXUp"),
          ("act_fn", "relu", "act_fn is 'relu'; it should be 'silu'"),
          ("scaling_factor", 0, "scaling_factor is 0; it should be"),
          ("scaling_factor", -0.7, "scaling_factor is -0.7; it should be"),
          ("scaling_factor", float("nan"), "scaling_factor is nan; it should be a finite number"),
          ("scaling_factor", 1e300, "scaling_factor is 1e"),
          ("scaling_factor", "0.7", "scaling_factor is '0.7'; it should be a finite number"),
          ("scaling_factor", None, "scaling_factor is None; it should be a finite number"),
          ("block_out_channels", [], r"block_out_channels is \[\]"),
          ("block_out_channels", [8] * 20, "block_out_channels"),
          ("block_out_channels", [8, 8, 12, 0], r"block_out_channels\[3\] is 0; it should be greater than 0"),
          ("norm_num_groups", 5, "norm_num_groups 5 does not divide"),
          ("norm_eps", -1e-6, "norm_eps is -1e-06; it should be greater than 0"),
          ("layers_per_block", 10**6, "layers_per_block is 1000000"),
          ("temporal_compression_ratio", 3, "temporal_compression_ratio is 3; it should be"),
          ("in_channels", 4, "in_channels is 4; it should be 3"),
          ("out_channels", 1, "out_channels is 1; it should be 3"),
          ("invert_scale_latents", 1, "invert_scale_latents is 1; it should be true or false"),
      ]),
    Case("latents of other channels", config("vae", latent_channels=16), "latents of 16 channels needs"),
    Case("VAE that halves less often", config("vae", block_out_channels=[8, 8, 12]),
         "latent stands for 4 .*should be 8"),
    Case("VAE of another length in time", config("vae", temporal_compression_ratio=2), "temporal_compression_ratio"),
    Case("patches of another size", config("transformer", patch_size=4), "patch_size"),
]  # fmt: skip
CASES = [*FILES, *MAPS, *TENSORS, *PARTS, *VALUES]
