"""Members of a zip file that can be trusted to be what its directory says."""

import struct
import zipfile
from pathlib import PurePosixPath

from cogvideo_jax.errors import ConversionError

LOCAL_HEADER = 30  # bytes before a member's name
ENCRYPTED = 1  # bit of the flags


def members(archive: zipfile.ZipFile, label: str) -> dict[str, zipfile.ZipInfo]:
    """Members by normalised name. Raises ConversionError if two have one name, or one is encrypted or of two sizes."""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = str(PurePosixPath(member.filename))
        if found.setdefault(name, member) is not member:
            raise ConversionError(f"{label} is damaged: it has two members {name[:80]!r}")
        if member.flag_bits & ENCRYPTED:
            raise ConversionError(f"{label} is encrypted; unpack it first")
        if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
            raise ConversionError(f"{label} is damaged: its member {name[:80]!r} has two sizes")
    return found


def data_start(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin."""
    archive.open(member).close()  # compares its own header with the directory
    archive.fp.seek(member.header_offset + LOCAL_HEADER - 4)
    return member.header_offset + LOCAL_HEADER + sum(struct.unpack("<HH", archive.fp.read(4)))
