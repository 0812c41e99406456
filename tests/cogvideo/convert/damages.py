"""Ways to damage a checkpoint or to make it hostile.

Each function takes (random numbers, empty folder, undamaged weights, path that no one may create), writes one source
into the folder and returns it. `DAMAGES` lists them all.
"""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np

from tests.cogvideo.convert.checkpoints import FORMS, RANK, tensors, torch, write_sat, write_source, write_zip


class Payload:
    """Runs something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def payloads(marker: Path) -> list[Payload]:
    return [
        Payload(os.system, f"touch {marker}"),
        Payload(exec, f"open({str(marker)!r}, 'w')"),
        Payload(eval, f"open({str(marker)!r}, 'w')"),
        Payload(subprocess.check_output, ["touch", str(marker)]),
        Payload(open, str(marker), "w"),
        Payload(Path.touch, marker),
        Payload(shutil.copyfile, "/etc/hostname", str(marker)),
    ]


def changed_bytes(path: Path, change) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def truncated(rng, folder, made, marker):
    form = rng.choice(FORMS)
    source = write_source(form, folder, made)
    changed_bytes(source / RANK if form == "folder" else source, lambda data: data[: rng.integers(1, len(data))])
    return source


def weights_with_a_wrong_bit(rng, folder, made, marker):
    source = write_source("folder", folder, made)
    with zipfile.ZipFile(source / RANK) as archive:
        member = rng.choice([info for info in archive.infolist() if "/data/" in info.filename])
        archive.open(member)  # checks the header and so finds where the data begins
        head = member.header_offset
    data = bytearray((source / RANK).read_bytes())
    name_length, extra_length = struct.unpack("<HH", data[head + 26 : head + 30])
    data[head + 30 + name_length + extra_length + rng.integers(member.file_size)] ^= 1 << rng.integers(8)
    (source / RANK).write_bytes(data)
    return source


def wrong_type(rng, folder, made, marker):
    name = rng.choice(sorted(made.arrays))
    types = [np.int64, np.int8, np.bool_, np.float64, np.complex64, np.uint8]
    made.arrays[name] = made.arrays[name].astype(types[rng.integers(len(types))])
    form = "folder" if made.arrays[name].dtype == np.complex64 else rng.choice(FORMS)
    return write_source(form, folder, made)


def two_types_in_one_leaf(rng, folder, made, marker):
    name = rng.choice([name for name in sorted(made.arrays) if ".1" in name])
    made.arrays[name] = made.arrays[name].astype(np.float16)
    return write_source(rng.choice(FORMS), folder, made)


def wrong_shape(rng, folder, made, marker):
    name = rng.choice(sorted(made.arrays))
    array = made.arrays[name]
    options = [array[..., :-1], array[None], np.concatenate([array, array]), array.reshape(-1, 1), array[:0]]
    if array.ndim == 2 and array.shape[0] != array.shape[1]:
        options.append(array.T)
    made.arrays[name] = options[rng.integers(len(options))]
    return write_source(rng.choice(FORMS), folder, made)


def missing_names(rng, folder, made, marker):
    for name in rng.choice(sorted(made.arrays), size=rng.integers(1, 6), replace=False):
        del made.arrays[str(name)]
    return write_source(rng.choice(FORMS), folder, made)


def unexpected_names(rng, folder, made, marker):
    odd = ["transformer.layers.2.input_layernorm.weight", "x" * 500, "mixins.lora.0", "a\nb c", "\0", "layers.\x1b[2J"]
    made.arrays[odd[rng.integers(len(odd))]] = np.ones(3, np.float32)
    return write_source(rng.choice(["folder", "zip", "stored zip"]), folder, made)


def pickle_that_runs_code(rng, folder, made, marker):
    payload = payloads(marker)[rng.integers(7)]
    state = tensors(made.arrays)
    places = [
        {"module": state, "optimizer": payload},
        {"module": {**state, "transformer.x": payload}},
        {payload: 1, "module": state},
        payload,
    ]
    source = write_sat(folder / "official", [made.arrays], made.settings)
    old_format = bool(rng.integers(2))
    torch.save(places[rng.integers(4)], source / RANK, _use_new_zipfile_serialization=not old_format)
    return write_zip(folder / "evil.zip", source) if rng.integers(2) else source


def plain_pickle(rng, folder, made, marker):
    path = folder / str(rng.choice(["weights.pt", "weights.safetensors", "weights.zip"]))
    path.write_bytes(pickle.dumps(payloads(marker)[rng.integers(7)], protocol=int(rng.integers(6))))
    return path


def pickle_hidden_in_a_torch_file(rng, folder, made, marker):
    """The structure of a valid file exchanged for a payload, with a right checksum."""
    source, packed = write_source("pt", folder, made), io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(packed, "w") as new:
        for info in old.infolist():
            evil = pickle.dumps({"module": payloads(marker)[rng.integers(7)]}, protocol=2)
            new.writestr(info.filename, evil if info.filename.endswith("data.pkl") else old.read(info))
    return changed_bytes(source, lambda _: packed.getvalue())


def zip_that_writes_outside(rng, folder, made, marker):
    source = write_source(rng.choice(["zip", "stored zip"]), folder, made)
    names = ["../marker", "a/../../marker", str(marker), "..\\marker", "C:/marker", "official/../../marker"]
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr(names[rng.integers(len(names))], "written")
    return source


def latest_that_points_elsewhere(rng, folder, made, marker):
    source = write_source("folder", folder, made)
    content = [b"../official/6000", str(source / "6000").encode(), b"", b"\xff\xfe", b"7000", b"a\nb", b"."]
    (source / "latest").write_bytes(content[rng.integers(len(content))])
    return write_zip(folder / "official.zip", source) if rng.integers(2) else source


def bad_settings(rng, folder, made, marker):
    changes = [
        {"num_layers": 3},
        {"num_layers": 10**9},
        {"num_layers": "two"},
        {"hidden_size": -8},
        {"hidden_size": 16},
        {"num_attention_heads": 3},
        {"num_attention_heads": 0},
        {"vocab_size": 41},
        {"vocab_size": [40]},
        {"layout": [4, 8]},
        {"layout": [4, 7, 24]},
        {"layout": [4, 8, 23]},
        {"layout": "eval(4)"},
        {"layout": {"a": 1}},
        {"window_size": 3},
        {"additional_seqlen": 8},
        {"special_ids": {"<start_of_image>": 40}},
        {"special_ids": 7},
        {"num_image_tokens": 41},
        {"first_frame_position": 2},
        {"cogvideo_stage": 3},
        {"cogvideo_stage": "__import__"},
        {"hidden_dropout": "1"},
    ]
    made.settings.update(changes[rng.integers(len(changes))])
    return write_source(rng.choice(FORMS), folder, made)


def settings_that_are_no_table(rng, folder, made, marker):
    source = write_source("folder", folder, made)
    texts = ["[1, 2]", "{", "", "[" * 100_000, "null", '{"num_layers": NaN}', "\x00\x01"]
    (source / "model_config.json").write_text(texts[rng.integers(len(texts))])
    return source


def no_weights_at_all(rng, folder, made, marker):
    contents = [b"", b"PK\x03\x04", b"not a model\n" * 20, rng.bytes(3000), b"\x80\x02}q\x00.", b"\x00" * 64, b"{}"]
    path = folder / str(rng.choice(["weights.pt", "weights.zip", "weights.safetensors", "weights"]))
    path.write_bytes(contents[rng.integers(len(contents))])
    return path


def folder_without_weights(rng, folder, made, marker):
    source = write_source("folder", folder, made)
    if rng.integers(2):
        (source / RANK).unlink()
    else:
        (source / RANK).rename(source / "6000" / "mp_rank_01_model_states.pt")
    return write_zip(folder / "official.zip", source) if rng.integers(2) else source


def another_model(rng, folder, made, marker):
    names = [
        "encoder.layers.{}.weight",
        "transformer.h.{}.attn.weight",
        "model.{}.bias",
        "enc.{}.weight",
        "decs.{}.bias",
    ]
    name = names[rng.integers(len(names))]
    arrays = {name.format(i): np.ones((2, 3), np.float32) for i in range(4)}
    form = rng.choice([*FORMS, "pt"])
    return write_source(form, folder, made._replace(arrays=arrays))


def another_kind_of_dict(rng, folder, made, marker):
    saved = [{}, {"module": {}}, {"module": [1, 2]}, [1, 2], 3, {"module": {"a": 1}}, {"a": {"b": 2}}, {"module": None}]
    path = folder / "weights.pt"
    torch.save(saved[rng.integers(len(saved))], path)
    return path


def tensors_that_are_no_plain_arrays(rng, folder, made, marker):
    state = tensors(made.arrays)
    name = rng.choice(sorted(state))
    odd = [
        state[name].to_sparse(),
        torch.zeros(1).expand(10**9),
        state[name].to("meta"),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    ]
    state[name] = odd[rng.integers(len(odd))]
    path = folder / "weights.pt"
    torch.save({"module": state}, path)
    return path


def compressed_torch_file(rng, folder, made, marker):
    source = write_source("pt", folder, made)
    packed = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return changed_bytes(source, lambda _: packed.getvalue())


def safetensors_with_a_lying_header(rng, folder, made, marker):
    source = write_source("safetensors", folder, made)
    data = source.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    name = rng.choice([name for name in sorted(header) if name != "__metadata__"])
    lies = [
        {"data_offsets": [0, 10**12]},
        {"data_offsets": [8, 4]},
        {"shape": [2**62, 4]},
        {"shape": [-1]},
        {"dtype": "F7"},
        {"dtype": "I64"},
    ]
    header[name] |= lies[rng.integers(len(lies))]
    text = json.dumps(header).encode()
    size = 2**60 if rng.integers(4) == 0 else len(text)
    return changed_bytes(source, lambda _: struct.pack("<Q", size) + text + rest)


def zip_of_several_checkpoints(rng, folder, made, marker):
    source = write_source("folder", folder, made)
    shutil.copytree(source, source / "second")
    if rng.integers(2):
        (source / "latest").unlink()
        (source / "second" / "latest").unlink()
    return write_zip(folder / "official.zip", source)


DAMAGES = [
    truncated,
    weights_with_a_wrong_bit,
    wrong_type,
    two_types_in_one_leaf,
    wrong_shape,
    missing_names,
    unexpected_names,
    pickle_that_runs_code,
    plain_pickle,
    pickle_hidden_in_a_torch_file,
    zip_that_writes_outside,
    latest_that_points_elsewhere,
    bad_settings,
    settings_that_are_no_table,
    no_weights_at_all,
    folder_without_weights,
    another_model,
    another_kind_of_dict,
    tensors_that_are_no_plain_arrays,
    compressed_torch_file,
    safetensors_with_a_lying_header,
    zip_of_several_checkpoints,
]
