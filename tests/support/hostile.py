"""Model files and archives that were made to harm: each kind by name, written by a function of a path."""

import io
import json
import pickle
import stat
import struct
import zipfile
import zlib

import numpy as np

RAN = "ran"  # the file that code in a model would write into the working folder


def keras_file(path, *, config=None, weights=None, metadata=b'{"keras_version": "3.15.0"}', more=(), compress=False):
    """Writes a model.keras of given parts."""
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in (
            ("metadata.json", metadata),
            ("config.json", config),
            ("model.weights.h5", weights),
            *more,
        ):
            if content is not None:
                archive.writestr(name, content)


def model(*layers, shape=(None, 8, 8, 3)):
    """The config.json of a sequential model of layers, given as (class, config) or as whole dicts."""
    whole = [one if isinstance(one, dict) else layer(*one) for one in layers]
    start = layer("InputLayer", {"batch_shape": list(shape), "dtype": "float32", "name": "in"})
    config = {"name": "m", "trainable": True, "dtype": "float32", "layers": [start, *whole]}
    config["build_input_shape"] = list(shape)
    return json.dumps({"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None})


def layer(name, config, module="keras.layers", registered=None):
    return {"module": module, "class_name": name, "config": config, "registered_name": registered}


PLAIN = (("Flatten", {"name": "f"}), ("Dense", {"name": "d", "units": 2, "activation": "softmax"}))


def h5(write=lambda file: None):
    """The bytes of an HDF5 file."""
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write(file)
    return content.getvalue()


def _weights(file):
    file.create_dataset("layers/dense/vars/0", data=np.zeros((192, 2), np.float32))
    file.create_dataset("layers/dense/vars/1", data=np.zeros(2, np.float32))


def _linked(link):
    def write(file):
        _weights(file)
        file["layers/dense/vars/2"] = link

    return h5(write)


def _array(**options):
    return h5(lambda file: file.create_dataset("layers/dense/vars/0", **options))


def _virtual(file):
    import h5py

    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(4,))
    file.create_virtual_dataset("layers/dense/vars/0", layout)


def _itself(file):
    file.create_group("layers/dense")
    file["layers/dense/vars"] = file["layers"]


def _external(file):
    file.create_dataset("layers/dense/vars/0", (4,), "u1", external=[("/etc/passwd", 0, 4)])


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return exec, (f"open({RAN!r}, 'w').close()",)


def _lying(path, *, directory):
    """A model whose config.json is 40 MB of spaces, and whose directory claims another size."""
    keras_file(path, config=b" " * 40_000_000, weights=h5(_weights), compress=True)
    content = bytearray(path.read_bytes())
    entry = content.index(b"config.json", content.index(b"PK\x01\x02"))
    content[entry - 22 : entry - 18] = struct.pack("<I", directory)
    path.write_bytes(content)


def _million(path, count=1_000_000):
    """A zip of so many empty members, written by hand because zipfile would take a minute."""
    names = [b"train/left/%06d.png" % i for i in range(count)]
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, len(names[0]), 0) + names[0]
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(names[0]), 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + name for name in names)
    end = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), len(local))
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(local) + len(directory), 1)
    last = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(local + directory + end + locator + last)


def _zeros(path, name, size, **options):
    """A zip with so many zeros under a name."""
    keras_file(path, config=model(*PLAIN), **options)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w", force_zip64=True) as out,
    ):
        for _ in range(size >> 20):
            out.write(bytes(1 << 20))


LAMBDA = layer("Lambda", {"name": "l", "function": {"class_name": "__lambda__", "config": {"code": "4wAAAA=="}}})
GET_FILE = {"module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "get_file"}
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000

# 20 kinds of models, each a function that writes it.
MODELS = {
    "lambda": lambda p: keras_file(p, config=model(LAMBDA, *PLAIN), weights=h5(_weights)),
    "system": lambda p: keras_file(
        p, config=model(layer("system", {"command": f"touch {RAN}"}, "os"), *PLAIN), weights=h5()
    ),
    "custom": lambda p: keras_file(p, config=model(layer("Own", {}, "own.module", "own>Own"), *PLAIN), weights=h5()),
    "torch module": lambda p: keras_file(
        p, config=model(("TorchModuleWrapper", {"module": "x"}), *PLAIN), weights=h5()
    ),
    "saved model": lambda p: keras_file(p, config=model(("TFSMLayer", {"filepath": "/etc"}), *PLAIN), weights=h5()),
    "vocabulary": lambda p: keras_file(
        p, config=model(("StringLookup", {"vocabulary": "/etc/passwd"}), *PLAIN), weights=h5()
    ),
    "activation": lambda p: keras_file(
        p, config=model(("Dense", {"units": 2, "activation": GET_FILE}), *PLAIN), weights=h5()
    ),
    "deep": lambda p: keras_file(p, config=DEEP, weights=h5()),
    "wide": lambda p: keras_file(p, config="[" + "1," * 3_000_000 + "1]", weights=h5()),
    "huge layer": lambda p: keras_file(
        p, config=model(PLAIN[0], ("Dense", {"units": 10**7}), PLAIN[1]), weights=h5(_weights)
    ),
    "huge input": lambda p: keras_file(
        p, config=model(*PLAIN, shape=(None, 100_000, 100_000, 3)), weights=h5(_weights)
    ),
    "soft link": lambda p: keras_file(p, config=model(*PLAIN), weights=_linked(_soft("/layers"))),
    "external link": lambda p: keras_file(p, config=model(*PLAIN), weights=_linked(_outside())),
    "external array": lambda p: keras_file(p, config=model(*PLAIN), weights=h5(_external)),
    "virtual array": lambda p: keras_file(p, config=model(*PLAIN), weights=h5(_virtual)),
    "itself": lambda p: keras_file(p, config=model(*PLAIN), weights=h5(_itself)),
    "unwritten array": lambda p: keras_file(p, config=model(*PLAIN), weights=_array(shape=(2**30,), dtype="f4")),
    "climbing": lambda p: keras_file(p, config=model(*PLAIN), weights=h5(), more=[("../../" + RAN, b"x")]),
    "assets": lambda p: keras_file(p, config=model(*PLAIN), weights=h5(), more=[("assets/x/y.txt", b"x")]),
    "pickle": lambda p: p.write_bytes(pickle.dumps(Code())),
}
# Those that take seconds or gigabytes to write.
LARGE_MODELS = {
    "config": lambda p: _zeros(p, "config.json", 1536 << 20, weights=h5()),
    "zeros": lambda p: _zeros(p, "model.weights.h5", 4096 << 20),
    "small in the directory": lambda p: _lying(p, directory=100),
    "large in the directory": lambda p: _lying(p, directory=3_000_000_000),
    "a million members": _million,
}


def _soft(path):
    import h5py

    return h5py.SoftLink(path)


def _outside():
    import h5py

    return h5py.ExternalLink("/etc/passwd", "/")


def data_zip(path, png, *members, method=zipfile.ZIP_STORED):
    """A small sound data set in a zip, with more members: (name or ZipInfo, content)."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for split in ("train", "valid", "test"):
            for name in ("left", "right"):
                archive.writestr(f"{split}/{name}/0.png", png)
        for name, content in members:
            archive.writestr(name, content)


def _link(name="train/left/l.png", target="/etc/passwd"):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info, target


def _header(width, height, kind=b"IHDR"):
    """A PNG of any claimed size, with a few bytes of pixels."""
    chunk = struct.pack(">II5B", width, height, 8, 0, 0, 0, 0)
    whole = b"\x89PNG\r\n\x1a\n"
    for name, content in ((kind, chunk), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")):
        whole += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return whole


def _patched(path, png, start, change, *members, **options):
    """A zip in whose directory bytes after a marker are replaced: {offset: bytes}."""
    data_zip(path, png, *members, **options)
    content = bytearray(path.read_bytes())
    place = content.rindex(start)
    for offset, value in change.items():
        content[place + offset : place + offset + len(value)] = value
    path.write_bytes(content)


NAME = "train/left/x.png"
CENTRAL, END = b"PK\x01\x02", b"PK\x05\x06"
# 29 kinds of archives: functions of a path and a sound PNG.
ARCHIVES = {
    "climbing": lambda p, png: data_zip(p, png, ("../" + RAN + ".png", png)),
    "climbing deep": lambda p, png: data_zip(p, png, ("train/left/../../../../" + RAN + ".png", png)),
    "absolute": lambda p, png: data_zip(p, png, ("/tmp/" + RAN + ".png", png)),
    "encrypted": lambda p, png: _patched(p, png, CENTRAL, {8: b"\x01"}, (NAME, png)),
    "unknown method": lambda p, png: _patched(p, png, CENTRAL, {10: b"\x63"}, (NAME, png)),
    "bzip2": lambda p, png: data_zip(p, png, (NAME, png), method=zipfile.ZIP_BZIP2),
    "lzma": lambda p, png: data_zip(p, png, (NAME, png), method=zipfile.ZIP_LZMA),
    "ratio": lambda p, png: data_zip(p, png, (NAME, bytes(60_000_000)), method=zipfile.ZIP_DEFLATED),
    "claims 3 GB": lambda p, png: _patched(p, png, CENTRAL, {24: b"\x00\x00\x00\xb0"}, (NAME, png)),
    "claims nothing": lambda p, png: _patched(p, png, CENTRAL, {24: b"\x01\x00\x00\x00"}, (NAME, png)),
    "other checksum": lambda p, png: _patched(p, png, CENTRAL, {16: b"abcd"}, (NAME, png)),
    "outside the file": lambda p, png: _patched(p, png, CENTRAL, {42: b"\xff\xff\xff\x7f"}, (NAME, png)),
    "packed size": lambda p, png: _patched(p, png, CENTRAL, {20: b"\xff\xff\xff\x7f"}, (NAME, png)),
    "directory size": lambda p, png: _patched(p, png, END, {12: b"\xff\xff\xff\x7f"}),
    "directory place": lambda p, png: _patched(p, png, END, {16: b"\xff\xff\xff\x7f"}),
    "no entries": lambda p, png: _patched(p, png, END, {12: b"\x00\x00\x00\x00"}),
    "half": lambda p, png: (data_zip(p, png), p.write_bytes(p.read_bytes()[:-200])),
    "only an end": lambda p, png: p.write_bytes(END + bytes(18)),
    "empty": lambda p, png: p.write_bytes(b""),
    "random": lambda p, png: p.write_bytes(np.random.default_rng(0).bytes(5000)),
    "twice": lambda p, png: data_zip(p, png, ("train/left/0.png", png)),
    "a link": lambda p, png: data_zip(p, png, _link()),
    "huge picture": lambda p, png: data_zip(p, png, (NAME, _header(2**31 - 1, 2**31 - 1))),
    "large picture": lambda p, png: data_zip(p, png, (NAME, _header(60_000, 60_000))),
    "a zip in place of a picture": lambda p, png: data_zip(p, png, (NAME, b"PK\x03\x04" + bytes(100))),
    "code in place of a picture": lambda p, png: data_zip(p, png, (NAME, b"%!PS\n(" + RAN.encode() + b") (w) file")),
    "a pickle": lambda p, png: data_zip(p, png, (NAME, pickle.dumps(Code()))),
    "no splits": lambda p, png: _only(p, png, "left/0.png"),
    "one class": lambda p, png: _only(p, png, "train/left/0.png"),
}
LARGE_ARCHIVES = {"a million members": lambda p, png: _million(p)}


def _only(path, png, name):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, png)
