"""What one request has put out so far, as a notebook would store it."""

from __future__ import annotations

from typing import Any

LIMIT_BYTES = 1 << 20
KEPT_OUTPUTS = 2000
CUT = "[...]\n"
"""What a stream begins with whose beginning is not kept."""
_NOTE_BYTES = 100


class _Item:
    """One output with the number of bytes it came in and its display id."""

    def __init__(self, output: dict[str, Any], size_bytes: int, display_id: str | None) -> None:
        self.output = output
        self.size_bytes = size_bytes
        self.display_id = display_id
        self.is_whole = True


class Outputs:
    """Notebook outputs of one request, built from iopub messages, bounded.

    Beyond `limit_bytes` the oldest go: streams lose their beginning, anything
    else becomes a line that says so. Beyond `KEPT_OUTPUTS` the oldest are
    forgotten.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._items: list[_Item] = []
        self._size_bytes = 0
        self._clear_next = False
        self._forgotten = 0

    def told(self) -> dict[str, Any]:
        """Return ``{outputs, partial, forgotten, display_ids}``.

        The `snapshot`; the indices of what is not whole in it; how many outputs
        came before it; and by index what a later update calls an output.
        """
        items = self._items
        return {"outputs": self.snapshot(), "forgotten": self._forgotten,
                "partial": [i for i, item in enumerate(items) if not item.is_whole],
                "display_ids": {str(i): item.display_id for i, item in enumerate(items)
                                if item.display_id}}

    def snapshot(self) -> list[dict[str, Any]]:
        """Return copies that later messages do not change."""
        return [dict(item.output) for item in self._items]

    def add(self, message_type: str, content: dict[str, Any], size_bytes: int) -> None:
        """Take one output message in: joined to its stream, or as a new output."""
        if self._clear_next:
            self._clear()
        last = self._items[-1] if self._items else None
        if message_type == "stream":
            name, text = str(content.get("name", "stdout")), str(content.get("text", ""))
            if last and last.output["output_type"] == "stream" and last.output["name"] == name:
                last.output["text"] += text
                last.size_bytes += size_bytes
            else:
                output = {"output_type": "stream", "name": name, "text": text}
                self._items.append(_Item(output, size_bytes, None))
        else:
            output = {"output_type": message_type}
            output.update((k, v) for k, v in content.items() if k != "transient")
            self._items.append(_Item(output, size_bytes, _display_id(content)))
        self._size_bytes += size_bytes
        self._shrink()

    def add_unkept(self, size_bytes: int) -> None:
        """Note an output of a display that is too large to be kept."""
        self.add("display_data", placeholder(size_bytes), _NOTE_BYTES)
        self._items[-1].is_whole = False

    def update(self, content: dict[str, Any], size_bytes: int) -> None:
        """Do what ``update_display_data`` does to the outputs with its display id."""
        display_id = _display_id(content)
        for item in self._items if display_id else ():
            if item.display_id == display_id:
                item.is_whole = True
                item.output["data"] = content.get("data", {})
                item.output["metadata"] = content.get("metadata", {})
                self._size_bytes += size_bytes - item.size_bytes
                item.size_bytes = size_bytes
        self._shrink()

    def clear(self, wait: bool) -> None:
        """Do what ``clear_output`` does: now, or when the next output comes."""
        self._clear_next = wait
        if not wait:
            self._clear()

    def _clear(self) -> None:
        self._clear_next = False
        self._items.clear()
        self._size_bytes = self._forgotten = 0

    def _shrink(self) -> None:
        if len(self._items) > KEPT_OUTPUTS:
            del self._items[: KEPT_OUTPUTS // 2]
            self._forgotten += KEPT_OUTPUTS // 2
            self._size_bytes = sum(item.size_bytes for item in self._items)
        for item in self._items:
            excess = self._size_bytes - self._limit_bytes
            if excess <= 0:
                return
            before = item.size_bytes
            if item.output["output_type"] == "stream":
                _cut(item, excess + self._limit_bytes // 8)
            elif before > _NOTE_BYTES:
                item.output, item.size_bytes = placeholder(before), _NOTE_BYTES
                item.is_whole = False
            self._size_bytes += item.size_bytes - before


def _display_id(content: dict[str, Any]) -> str | None:
    return (content.get("transient") or {}).get("display_id") or None


def _cut(item: _Item, bytes_to_free: int) -> None:
    text = item.output["text"]
    keep = max(0, int(len(text) * (1 - bytes_to_free / max(item.size_bytes, 1))))
    kept = text[len(text) - keep:]
    item.is_whole = False
    item.output["text"] = CUT + kept[kept.find("\n") + 1:]
    item.size_bytes = min(item.size_bytes, len(item.output["text"]))


def placeholder(size_bytes: int) -> dict[str, Any]:
    """Return what stands in the journal for an output that is too large for it."""
    note = f"[an output of {size_bytes / 1e6:.1f} MB is not kept here]"
    return {"output_type": "display_data", "data": {"text/plain": note}, "metadata": {}}
