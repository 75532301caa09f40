"""The protobuf messages of CRIU images that we read or edit.

Only the fields we use are declared; protobuf keeps all others as they are when
a message is written again. Numbers and names are those of CRIU's ``images/``
definitions (checked against CRIU 4.2).
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Type = descriptor_pb2.FieldDescriptorProto

# message -> {field: (number, type or message name, repeated)}
_MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "reg_file_entry": {
        "id": (1, "uint32", False), "flags": (2, "uint32", False), "pos": (3, "uint64", False),
        "name": (6, "bytes", False), "size": (8, "uint64", False), "ext": (9, "bool", False),
        "mode": (10, "uint32", False), "build_id": (11, "uint32", True),
    },
    "inet_sk_entry": {
        "id": (1, "uint32", False), "ino": (2, "uint32", False), "family": (3, "uint32", False),
        "type": (4, "uint32", False), "proto": (5, "uint32", False), "state": (6, "uint32", False),
        "src_port": (7, "uint32", False), "dst_port": (8, "uint32", False),
        "src_addr": (11, "uint32", True), "dst_addr": (12, "uint32", True),
    },
    "unix_sk_entry": {
        "id": (1, "uint32", False), "ino": (2, "uint32", False), "type": (3, "uint32", False),
        "state": (4, "uint32", False), "peer": (8, "uint32", False), "name": (11, "bytes", False),
    },
    "file_entry": {
        "type": (1, "uint32", False), "id": (2, "uint32", False),
        "reg": (3, "reg_file_entry", False), "isk": (4, "inet_sk_entry", False),
        "usk": (16, "unix_sk_entry", False),
    },
    "fdinfo_entry": {
        "id": (1, "uint32", False), "flags": (2, "uint32", False), "type": (3, "uint32", False),
        "fd": (4, "uint32", False),
    },
    "remap_file_path_entry": {"orig_id": (1, "uint32", False), "remap_id": (2, "uint32", False)},
    "pagemap_head": {"pages_id": (1, "uint32", False)},
    "pagemap_entry": {
        "vaddr": (1, "uint64", False), "compat_nr_pages": (2, "uint32", False),
        "in_parent": (3, "bool", False), "flags": (4, "uint32", False),
        "nr_pages": (5, "uint64", False),
    },
    "pstree_entry": {
        "pid": (1, "uint32", False), "ppid": (2, "uint32", False), "pgid": (3, "uint32", False),
        "sid": (4, "uint32", False), "threads": (5, "uint32", True),
    },
    "vma_entry": {
        "start": (1, "uint64", False), "end": (2, "uint64", False), "pgoff": (3, "uint64", False),
        "shmid": (4, "uint64", False), "prot": (5, "uint32", False), "flags": (6, "uint32", False),
        "status": (7, "uint32", False),
    },
    "mm_entry": {"exe_file_id": (12, "uint32", False), "vmas": (14, "vma_entry", True)},
    "dump_stats_entry": {
        "freezing_time": (1, "uint32", False), "frozen_time": (2, "uint32", False),
        "pages_written": (7, "uint64", False),
    },
    "stats_entry": {"dump": (1, "dump_stats_entry", False)},
}


def _build() -> dict[str, Any]:
    proto = descriptor_pb2.FileDescriptorProto(
        name="jupyter_ckpt/criu.proto", package="jupyter_ckpt.criu", syntax="proto2")
    for message, fields in _MESSAGES.items():
        entry = proto.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            field = entry.field.add(
                name=name, number=number,
                label=_Type.LABEL_REPEATED if repeated else _Type.LABEL_OPTIONAL)
            if kind in _MESSAGES:
                field.type = _Type.TYPE_MESSAGE
                field.type_name = f".jupyter_ckpt.criu.{kind}"
            else:
                field.type = getattr(_Type, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(proto)
    return {
        message: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"jupyter_ckpt.criu.{message}"))
        for message in _MESSAGES
    }


MESSAGES = _build()
"""Message classes by CRIU's name."""
