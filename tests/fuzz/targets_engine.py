"""CRIU's images and logs as we read and edit them."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random
from typing import Any

from mutation import INTS, MAX_BYTES, mutated_bytes, text, with_tokens
from target import Target

from jupyter_ckpt.engine.criulog import cause
from jupyter_ckpt.engine.edit import accept_present, move_folder
from jupyter_ckpt.engine.images import MAGIC_BYTES
from jupyter_ckpt.engine.layout import page_runs
from jupyter_ckpt.engine.openfiles import open_files, process_tree
from jupyter_ckpt.engine.schema import MESSAGES
from jupyter_ckpt.engine.sockets import close_outer_connections, inet_sockets, map_ports

MAGIC = b"\x19\x40\x31\x54\x02\x40\x31\x54"


def message(kind: str, **fields: Any) -> Any:
    return MESSAGES[kind](**fields)


def image(*messages: Any) -> bytes:
    parts = [MAGIC]
    for each in messages:
        raw = each.SerializeToString()
        parts += [struct.pack("<I", len(raw)), raw]
    return b"".join(parts)


WHOLE = {
    "files.img": image(
        message("file_entry", type=1, id=1, reg=message(
            "reg_file_entry", id=1, flags=2, pos=0, name=b"/tmp/a.csv", size=5, mode=0o100600)),
        message("file_entry", type=1, id=2, reg=message(
            "reg_file_entry", id=2, flags=0, pos=0, name=b"/usr/lib/x.so", size=9, mode=0o100755,
            build_id=[1, 2, 3])),
        message("file_entry", type=2, id=3, isk=message(
            "inet_sk_entry", id=3, ino=9, family=2, type=1, proto=6, state=10, src_port=4000,
            dst_port=0, src_addr=[0x0100007F], dst_addr=[0])),
        *(message("file_entry", type=2, id=4 + n, isk=message(
            "inet_sk_entry", id=4 + n, ino=9, family=family, type=1, proto=6, state=1,
            src_port=4000 + n, dst_port=4001 - n, src_addr=words, dst_addr=words))
          for n, (family, words) in enumerate([(2, [0x0100007F]), (2, [0x0100007F]),
                                               (10, [0, 0, 0, 0x01000000])])),
        message("file_entry", type=3, id=9, usk=message(
            "unix_sk_entry", id=9, ino=10, type=1, state=1, peer=0, name=b"/tmp/s"))),
    "pstree.img": image(message("pstree_entry", pid=2, ppid=0, pgid=2, sid=2, threads=[2]),
                        message("pstree_entry", pid=3, ppid=2, pgid=2, sid=2, threads=[3, 4])),
    "pagemap-2.img": image(message("pagemap_head", pages_id=1),
                           message("pagemap_entry", vaddr=0x7F0000000000, nr_pages=2, flags=4),
                           message("pagemap_entry", vaddr=0x7F0000002000, nr_pages=1, flags=4),
                           message("pagemap_entry", vaddr=0x7F0000009000, nr_pages=1, flags=1)),
    "fdinfo-2.img": image(message("fdinfo_entry", id=1, flags=0, type=1, fd=3)),
    "mm-2.img": image(message("mm_entry", exe_file_id=2, vmas=[message(
        "vma_entry", start=4096, end=8192, pgoff=0, shmid=1, prot=3, flags=1, status=1)])),
    "remap-fpath.img": image(message("remap_file_path_entry", orig_id=77, remap_id=1)),
    "reg-files.img": image(message("reg_file_entry", id=1, flags=2, name=b"/tmp/a.csv", size=5)),
}
KINDS = {"files.img": "file_entry", "pstree.img": "pstree_entry", "pagemap-2.img": "pagemap_entry",
         "fdinfo-2.img": "fdinfo_entry", "mm-2.img": "mm_entry",
         "remap-fpath.img": "remap_file_path_entry", "reg-files.img": "reg_file_entry"}
NAMES = list(WHOLE)


def mutated_image(data: bytes, random: Random) -> bytes:
    """Return an image, after the number of its file, with entries changed as entries."""
    if len(data) <= MAGIC_BYTES or random.random() < 0.3:
        return mutated_bytes(data, random)
    entries, position = [], 1 + MAGIC_BYTES
    while position + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, position)
        entries.append(data[position + 4:position + 4 + length])
        position += 4 + length
    for _ in range(random.choice((1, 1, 2))):
        place = random.randrange(len(entries) + 1)
        act = random.randrange(5)
        if act == 0 and entries:
            entries[place % len(entries)] = mutated_bytes(entries[place % len(entries)], random)
        elif act == 1:
            entries.insert(place, _random_entry(NAMES[data[0] % len(NAMES)], random))
        elif act == 2:
            del entries[place:place + 1]
        elif act == 3 and entries:
            entries.insert(place, random.choice(entries))
        elif entries:
            entries[place % len(entries)] = _changed(
                NAMES[data[0] % len(NAMES)], entries[place % len(entries)], random)
    framed = b"".join(struct.pack("<I", len(raw)) + raw for raw in entries)
    return (data[:1 + MAGIC_BYTES] + framed)[:MAX_BYTES]


def _random_entry(name: str, random: Random) -> bytes:
    found = MESSAGES[KINDS[name]]()
    _fill(found, random)
    return bytes(found.SerializeToString())


def _changed(name: str, raw: bytes, random: Random) -> bytes:
    found = MESSAGES[KINDS[name]]()
    try:
        found.ParseFromString(raw)
    except Exception:
        return raw
    _fill(found, random, 0.2)
    return bytes(found.SerializeToString())


def _fill(found: Any, random: Random, part: float = 0.8) -> None:
    """Give fields of a message values at borders."""
    for field in found.DESCRIPTOR.fields:
        if random.random() > part:
            continue
        found.ClearField(field.name)
        repeated = isinstance(getattr(found, field.name), (list, tuple)) or hasattr(
            getattr(found, field.name), "append") or hasattr(getattr(found, field.name), "add")
        for _ in range(random.randrange(5) if repeated else 1):
            if field.message_type is not None:
                inner = getattr(found, field.name)
                _fill(inner.add() if repeated else inner, random)
                continue
            value: Any = random.choice(INTS) % (1 << 32)
            if field.type == field.TYPE_UINT64:
                value = random.choice(INTS) % (1 << 64)
            elif field.type == field.TYPE_BOOL:
                value = random.random() < 0.5
            elif field.type == field.TYPE_STRING:
                value = "/" * random.randrange(2) + text(random).encode(
                    "utf-8", "replace").decode()
            elif field.type == field.TYPE_BYTES:
                value = text(random).encode("utf-8", "replace")
            if repeated:
                getattr(found, field.name).append(value)
            else:
                setattr(found, field.name, value)


class Images(Target):
    """One of a dump's images with odd content; the first byte tells which."""

    name = "criu-images"
    weight = 2
    mutate = staticmethod(mutated_image)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.images = folder / "images"
        self.images.mkdir()
        for name, data in WHOLE.items():
            (self.images / name).write_bytes(data)
        (self.images / "pages-1.img").write_bytes(bytes(3 * 4096))

    def seeds(self) -> list[bytes]:
        return [bytes([number]) + WHOLE[name] for number, name in enumerate(NAMES)]

    def run(self, data: bytes) -> None:
        name = NAMES[data[0] % len(NAMES)] if data else NAMES[0]
        files = WHOLE["files.img"], WHOLE["reg-files.img"]
        (self.images / name).write_bytes(data[1:])
        try:
            if name == "pstree.img":
                process_tree(self.images)
            elif name.startswith("pagemap"):
                page_runs(self.images)
            else:
                open_files(self.images)
                if "files" in name:
                    inet_sockets(self.images)
                    map_ports(self.images, {4000: 5000, 4001: 65535})
                    close_outer_connections(self.images, keep_inner=True)
                    accept_present(self.images, {"/tmp/a.csv": (7, 0o100600)})
                    move_folder(self.images, "/tmp", "/var/tmp/elsewhere")
        finally:
            (self.images / name).write_bytes(WHOLE[name])
            if "files" in name:
                for each, whole in zip(("files.img", "reg-files.img"), files):
                    (self.images / each).write_bytes(whole)


LOG = b"""(00.000012) Warn  (criu/kerndat.c:1): rlimit: Can't setup RLIMIT_NOFILE for self
(00.1) Error (criu/files-reg.c:2): File /tmp/a.csv has bad size 5 (expect 9)
(00.2) Error (criu/cr-restore.c:1): Can't fork for 12: File exists
(00.3) Error (criu/sk-inet.c:9): Can't bind inet socket (id 3): Address already in use
"""
_LOG_WORDS = [b"Error (", b"Can't open file ", b" on restore", b": ", b"File ", b" has bad size",
              b"build-ID mismatch", b"Can't dump ghost file ", b"unix", b"ghost file ",
              b"too large", b"Can't dump half of stream unix", b"connection", b"\n", b"a" * 3000,
              b"Pid 1 ", b"already", b"Can't dump anon inode", b"/dev/nvidia0", b"ipc", b"shm"]


class CriuLog(Target):
    """A log of CRIU, out of which one sentence is made."""

    name = "criu-log"
    weight = 1
    mutate = staticmethod(with_tokens(_LOG_WORDS))

    def seeds(self) -> list[bytes]:
        return [LOG]

    def run(self, data: bytes) -> None:
        log = self.folder / "dump.log"
        log.write_bytes(data)
        sentence, _hint = cause(log)
        assert "\n" not in sentence and len(sentence) < 2000, f"{len(sentence)} characters"
