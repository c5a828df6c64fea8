"""Archives and arrays that unfold: refused within bounds, before memory is asked for."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from memory import run_limited

from pipeline.data.formats.annotations import read_json, read_mat
from pipeline.data.shards.members import Members, members_from
from pipeline.data.shards.sample import BadSampleError, BadSamples
from pipeline.data.shards.streaming import ShardStream
from pipeline.evaluation.per_person import read_results
from pipeline.io.unfolding import UnfoldsError, load_npz, tar_files, unfolded

MEBI = 2**20


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def with_pax(**fields: str) -> bytes:
    """Make a tar of one member whose extended header has the given fields."""
    info = tarfile.TarInfo("a.jpg")
    info.size, info.pax_headers = 3, {key.replace("_", "."): text for key, text in fields.items()}
    return info.tobuf(tarfile.PAX_FORMAT) + padded(b"abc") + bytes(1024)


def sparse(size: int) -> bytes:
    """Make a tar of an old GNU sparse member that states `size` bytes, and holds none."""
    buffer = bytearray(header("a.jpg", 0, tarfile.GNUTYPE_SPARSE))
    # Fields of octal digits: offset and length of the only part, and the real size.
    buffer[386:410] = b"%011o\0%011o\0" % (0, 0)
    buffer[483:495] = b"\x80" + size.to_bytes(11, "big")
    buffer[148:156] = b" " * 8
    buffer[148:156] = b"%06o\0 " % sum(buffer)
    return bytes(buffer) + bytes(1024)


HOSTILE_TARS = {
    "sparse": sparse(2**40),
    "sparse, extended": with_pax(GNU_sparse_size=str(2**40), GNU_sparse_map="0,0"),
    "member": header("a.jpg", 2**40) + bytes(1024),
    "header": header("a.jpg", 2**40, tarfile.XHDTYPE) + bytes(1024),
    "global header": header("a.jpg", 2**30, tarfile.XGLTYPE) + bytes(1024),
    "long name": header("a.jpg", 2**40, tarfile.GNUTYPE_LONGNAME) + bytes(1024),
    "negative header": header("a.jpg", -512, tarfile.GNUTYPE_LONGNAME) + bytes(1024),
    "negative member": header("a.jpg", -512) + bytes(1024),
    "size that is extended": with_pax(size=str(2**40)),
    "negative size": with_pax(size="-1024"),
}


@pytest.mark.parametrize("name", HOSTILE_TARS)
def test_a_tar_that_states_more_than_it_holds_is_refused_however_it_is_read(tmp_path, name):
    path = tmp_path / "train.tar"
    path.write_bytes(HOSTILE_TARS[name])
    with pytest.raises(ValueError, match=r"train\.tar: "):
        Members.scan(path)
    for data in (HOSTILE_TARS[name], gzip.compress(HOSTILE_TARS[name])):
        path.write_bytes(data)
        stream = ShardStream(locations=[str(path)], seed=0, rank=0, workers=1, window=1)
        with pytest.raises(BadSampleError, match=r"^train\.tar: broke off after its start: "):
            stream.first(1, BadSamples(0))


def test_the_tars_kept_as_hostile_are_refused(hostile_dir):
    for name in ("sparse_1GiB.tar.gz", "duplicate_member.tar"):
        location = str(hostile_dir / name)
        stream = ShardStream(locations=[location], seed=0, rank=0, workers=1, window=1)
        with pytest.raises(BadSampleError, match=f"^{name}: "):
            stream.first(1, BadSamples(0))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_zeros_are_refused_past_the_bound(compress):
    data = compress(header("a.txt", 80 * MEBI)) + 20 * compress(bytes(4 * MEBI))
    with pytest.raises(UnfoldsError, match=r" bytes unfold to more, expected at most 67,108,864$"):
        list(tar_files(io.BytesIO(data), lambda name: False))


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_of_several_streams_are_read_whole(compress):
    data = compress(b"one") + compress(b"two")
    assert unfolded(io.BytesIO(data)).read() == b"onetwo"


def test_an_xz_file_that_asks_for_a_large_dictionary_is_refused():
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**29}]
    data = lzma.compress(b"small", filters=filters)
    with pytest.raises(lzma.LZMAError, match=r"[Mm]emory"):
        unfolded(io.BytesIO(data)).read()


def npy(shape: str, data: bytes, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n" + data


def npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npz(keys=npy("(25_000_000,)".replace("_", ""), bytes(100_000_000))), "that unfold to"),
        (npz(keys=npy("(1099511627776,)", b"")), "states 4,398,046,511,104 bytes"),
        (npz(keys=npy("(2, 4611686018427387904)", b"")), "states 36,893,488,147,419,103,232"),
    ],
    ids=["zeros", "a terabyte", "more than 64 bits"],
)
def test_arrays_that_unfold_or_state_too_much_are_refused(tmp_path, content, message):
    with pytest.raises(UnfoldsError, match=message):
        load_npz(content)
    with pytest.raises(ValueError, match=rf"^members\.npz: not readable .*{message}"):
        members_from(content, "members.npz")
    (tmp_path / "people.npz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"people\.npz: not readable .*{message}"):
        read_results(tmp_path / "people.npz")


def test_the_arrays_kept_as_hostile_are_refused(hostile_dir):
    with pytest.raises(ValueError, match=r"people_bomb\.npz: not readable .*that unfold to"):
        read_results(hostile_dir / "people_bomb.npz")


@pytest.mark.parametrize("code", [0xD800, 0xDC7F, 0xDD00, 0x110000])
@pytest.mark.parametrize("order", ["<", ">"])
def test_names_in_arrays_that_are_no_text_are_refused_by_the_file(tmp_path, code, order):
    names = np.array([code], f"{order}u4").view(f"{order}U1")
    path = tmp_path / "people.npz"
    np.savez(path, keys=names)
    for read in (lambda: read_results(path), lambda: members_from(path.read_bytes(), str(path))):
        with pytest.raises(ValueError, match=r"people\.npz: not readable .*keys holds what is no"):
            read()


def test_names_of_files_that_are_no_utf_8_are_read():
    file = io.BytesIO()
    np.savez(file, keys=np.array(["\udcff", "é\N{GRINNING FACE}"]))
    assert load_npz(file.getvalue())["keys"].tolist() == ["\udcff", "é\N{GRINNING FACE}"]


def test_an_error_of_a_library_is_quoted_in_part(tmp_path):
    path = tmp_path / "people.npz"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a" * 9999, b"x")
    # The name in the header is another than that in the directory, and zipfile quotes both.
    path.write_bytes(content.getvalue().replace(b"a" * 9999, b"b" * 9999, 1))
    with pytest.raises(ValueError, match=r"people\.npz: not readable as results") as caught:
        read_results(path)
    assert len(str(caught.value)) < 1500


def test_arrays_that_compress_well_are_read():
    file = io.BytesIO()
    np.savez_compressed(file, zeros=np.zeros(10**6), words=np.array(["a", "bc"]), none=np.zeros(0))
    found = load_npz(file.getvalue())
    assert found["zeros"].shape == (10**6,)
    assert found["words"].tolist() == ["a", "bc"]
    assert found["none"].shape == (0,)


UNFOLDED = """
import gzip, sys
from pathlib import Path
from memory import limit_memory
from pipeline.data.formats.annotations import read_json, read_mat
import scipy.io, json

limit_memory(170 * 2**20)
for path in map(Path, sys.argv[1:]):
    try:
        (read_mat if path.suffix == ".mat" else read_json)(path)
    except ValueError as error:
        print(error)
"""


def test_annotations_that_unfold_are_refused_without_the_memory(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"0," * (2 * MEBI)) * 60)
    element = struct.pack("<2I", 9, 80 * MEBI)
    packer = zlib.compressobj(1)
    data = packer.compress(element)
    for _ in range(20):
        data += packer.compress(bytes(4 * MEBI))
    data += packer.flush()
    start = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    (tmp_path / "a.mat").write_bytes(start + struct.pack("<2I", 15, len(data)) + data)
    lines = run_limited(UNFOLDED, str(tmp_path / "a.json.gz"), str(tmp_path / "a.mat"))
    assert [line.partition(":")[0] for line in lines] == [
        str(tmp_path / "a.json.gz"),
        str(tmp_path / "a.mat"),
    ]
    assert all("unfold to more, expected at most" in line for line in lines)


def test_annotations_that_are_compressed_are_read(tmp_path):
    import scipy.io

    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"[1, 2]"))
    assert read_json(tmp_path / "a.json.gz") == [1, 2]
    scipy.io.savemat(tmp_path / "a.mat", {"x": np.arange(6)}, do_compression=True)
    assert read_mat(tmp_path / "a.mat")["x"].tolist() == [[0, 1, 2, 3, 4, 5]]
