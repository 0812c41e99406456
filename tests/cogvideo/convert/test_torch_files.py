"""Files of torch: read exactly, without torch, and refused where any claim in them does not fit the file."""

import io
import re
import struct
import time
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cogvideo_jax.convert.torch_files import TorchFile
from cogvideo_jax.errors import ConversionError
from cogvideo_jax.models.cogvideo.convert.to_ours import convert
from tests.cogvideo.convert import tiny
from tests.cogvideo.convert.checkpoints import RANK, tensors, torch, write_sat, write_source, write_zip


def rewritten(path: Path, change, *, doubled: str = "\0") -> None:
    """Writes a zip again.

    Args:
      change: name and data of a member -> new data, or None to leave it out.
      doubled: end of the name of a member that comes twice.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w") as new:
        for info in old.infolist():
            data = change(info.filename, old.read(info))
            for _ in range(0 if data is None else 1 + info.filename.endswith(doubled)):
                new.writestr(info.filename, data)
    path.write_bytes(packed.getvalue())


def record(change):
    """A change of the first tensor's data."""
    return lambda name, data: change(data) if name.endswith("/data/0") else data


def structure(change):
    """A change of the pickle."""
    return lambda name, data: change(data) if name.endswith("data.pkl") else data


def pickled(data: bytes):
    return structure(lambda _: data)


def other_device(data: bytes) -> bytes:
    return data.replace(b"X\x03\x00\x00\x00cpu", b"X\xe8\x03\x00\x00" + b"x" * 1000)


def smaller_storage(data: bytes) -> bytes:
    """Changes the claimed elements of the first storage of 320."""
    return data.replace(b"M\x40\x01", b"M\x3f\x01", 1)


NESTED = b"N\x85q\x00" + b"h\x00h\x00\x86q\x00" * 60  # a tuple of two of a tuple of two of ...: 2^60 to hash or to show
CLAIM = b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"a."
REFUSED = {
    "empty data": (record(lambda _: b""), "data 0 has 0 bytes, expected 1280"),
    "half of the data": (record(lambda data: data[: len(data) // 2]), "data 0 has 640 bytes, expected 1280"),
    "too much data": (record(lambda data: data + data), "data 0 has 2560 bytes, expected 1280"),
    "no data": (record(lambda _: None), "data 0 is missing"),
    "a smaller storage": (structure(smaller_storage), "lies outside its storage|bytes, expected"),
    "a device of 1000 letters": (structure(other_device), r"a tensor on 'x{50,}\.\.\., expected cpu or cuda:N"),
    "2^40 bytes in a pickle": (pickled(CLAIM), "damaged or not a torch file"),
    "eval of protocol 4": (pickled(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93."), "asks for builtins.eval"),
    "eval of protocol 2": (pickled(b"\x80\x02cbuiltins\neval\n."), "asks for builtins.eval"),
    "an instance": (pickled(b"\x80\x02(ios\nsystem\n."), "has INST, which weights do not need"),
    "a key without end": (pickled(b"\x80\x02}" + NESTED + b"K\x01s."), "damaged or not a torch file"),
    "a name without end": (pickled(b"\x80\x04" + NESTED + b"X\x01\x00\x00\x00a\x93."), "damaged or not a torch file"),
    "an endless memo": (pickled(b"\x80\x02}r\xff\xff\xff\xff."), "no weights"),
    "a large pickle": (pickled(b"\x80\x02N" + b"\x85" * 2_000_000 + b"."), "more than 1048576 bytes"),
    "two tensors of one name": (
        pickled(b"\x80\x02}(X\x01\x00\x00\x00aNX\x01\x00\x00\x00aNu."),
        "damaged or not a torch file",
    ),
    "an empty stack": (pickled(b"\x80\x02."), "damaged or not a torch file"),
    "another byte order": (lambda name, data: b"big" if name.endswith("byteorder") else data, "little-endian"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_claim_that_does_not_fit_is_refused(name, tmp_path):
    change, sentence = REFUSED[name]
    source = write_source("folder", tmp_path, tiny.stage())
    rewritten(source / RANK, change)
    begun = time.monotonic()
    with pytest.raises(ConversionError, match=sentence):
        convert(source, tmp_path / "ours")
    assert time.monotonic() - begun < 5 and not (tmp_path / "ours").exists()


@pytest.mark.parametrize("member", ["data.pkl", "/data/0", "version"])
def test_two_members_of_one_name_are_refused(member, tmp_path):
    source = write_source("folder", tmp_path, tiny.stage())
    with pytest.warns(UserWarning, match="Duplicate name"):
        rewritten(source / RANK, lambda name, data: data, doubled=member)
    with pytest.raises(ConversionError, match=f"two members '.*{member}'"):
        convert(source, tmp_path / "ours")


def test_a_zip_of_two_equal_names_is_refused(tmp_path):
    path = write_source("zip", tmp_path, tiny.stage())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("official/./latest", "7000")
    with pytest.raises(ConversionError, match="two members 'official/latest'"):
        convert(path, tmp_path / "ours")


def test_an_encrypted_zip_is_named_as_one(tmp_path):
    path = write_source("zip", tmp_path, tiny.stage())
    data = bytearray(path.read_bytes())
    for entry in re.finditer(b"PK\x01\x02", bytes(data)):
        data[entry.start() + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ConversionError, match="is encrypted; unpack it first"):
        convert(path, tmp_path / "ours")


def odd_tensors() -> dict:
    quantised = lambda _: torch.quantize_per_channel(  # noqa: E731
        torch.ones(3, 3), torch.ones(3), torch.zeros(3), 0, torch.qint8
    )
    return {
        "negated": (torch._neg_view, "negated or conjugated view"),
        "sparse by coordinates": (lambda x: x[None].to_sparse(), "asks for torch._utils._rebuild_sparse_tensor"),
        "sparse by rows": (lambda x: x[None].to_sparse_csr(), "asks for torch._utils._rebuild_sparse_tensor"),
        "quantised": (quantised, "asks for torch._utils._rebuild_qtensor"),
        "complex": (lambda x: x.to(torch.complex64), "asks for torch.ComplexFloatStorage"),
        "expanded": (lambda x: x[:1].expand(10**9), "larger than the file"),
        "of the meta device": (lambda x: x.to("meta"), "asks for torch._utils._rebuild_meta_tensor_no_storage"),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", odd_tensors())
def test_a_tensor_that_is_no_plain_array_is_refused_in_one_sentence(kind, tmp_path, recwarn):
    made, (change, sentence) = tiny.stage(), odd_tensors()[kind]
    source, state = write_source("folder", tmp_path, made), tensors(made.arrays)
    name = "mixins.attention_plus.attn_distribution.0"
    torch.save({"module": state | {name: change(state[name])}}, source / RANK)
    recwarn.clear()
    with pytest.raises(ConversionError, match=sentence):
        convert(source, tmp_path / "ours")
    assert not recwarn.list


def views() -> dict:
    """Tensors that share data, skip it, or have none."""
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "whole": whole,
        "turned": whole.T,
        "part": whole[1:3, ::2],
        "copied": whole[0].clone().to(torch.bfloat16).float(),
        "half": whole.half(),
        "parameter": torch.nn.Parameter(whole + 1),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "codes": torch.arange(5),
    }


@pytest.mark.parametrize(("old_format", "protocol"), [(False, 2), (False, 4), (True, 2)])
def test_tensors_are_read_as_torch_reads_them(old_format, protocol, tmp_path):
    path, saved = tmp_path / "a.pt", views()
    kwargs = dict(pickle_protocol=protocol, _use_new_zipfile_serialization=not old_format)
    torch.save({"module": saved, "steps": [1, 2.5, None, True], "counts": (1, "a")}, path, **kwargs)
    file = TorchFile(path, label="a.pt")
    assert file.leaves.keys() == saved.keys()
    for name, tensor in saved.items():
        array = file.read(name)
        assert array.dtype == file.leaves[name].dtype and array.shape == file.leaves[name].shape
        np.testing.assert_array_equal(array, tensor.detach().numpy())


def test_bfloat16_keeps_its_bits(tmp_path):
    tensor = torch.randn(7).to(torch.bfloat16)
    torch.save({"a": tensor}, tmp_path / "a.pt")
    array = TorchFile(tmp_path / "a.pt", label="a.pt").read("a")
    assert array.dtype.name == "bfloat16" and array.tobytes() == tensor.view(torch.int16).numpy().tobytes()


def test_a_wrong_checksum_is_found_before_a_tensor_is_used(tmp_path):
    torch.save({"a": torch.ones(100), "b": torch.zeros(100)}, tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.index(np.ones(100, np.float32).tobytes()) + 17] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    file = TorchFile(tmp_path / "a.pt", label="a.pt")
    np.testing.assert_array_equal(file.read("b"), 0)
    with pytest.raises(ConversionError, match="the checksum of its data 0 is wrong"):
        file.read("a")


def test_a_file_of_torch_before_1_6_that_is_cut_or_too_long_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(100)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for data in (whole[:-1], whole + b"\0", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(ConversionError, match="damaged"):
            TorchFile(path, label="a.pt")


def test_objects_beside_the_weights_that_are_no_bookkeeping_are_refused(tmp_path):
    made = tiny.stage()
    source = write_sat(tmp_path / "sat", [made.arrays], made.settings, beside={"rate": Fraction(1, 3)})
    with pytest.raises(ConversionError, match=r"asks for fractions\.Fraction"):
        convert(write_zip(tmp_path / "sat.zip", source), tmp_path / "ours")
