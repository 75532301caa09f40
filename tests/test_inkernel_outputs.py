"""The journal of outputs: what the front end would show, and bounded."""

from __future__ import annotations

from jupyter_ckpt.inkernel.outputs import KEPT_OUTPUTS, Outputs


def stream(outputs: Outputs, text: str, name: str = "stdout") -> None:
    outputs.add("stream", {"name": name, "text": text}, len(text))


def show(outputs: Outputs, text: str, display_id: str | None = None) -> None:
    outputs.add("display_data", {"data": {"text/plain": text}, "metadata": {},
                                 "transient": {"display_id": display_id}}, len(text))


def texts(outputs: Outputs) -> list[str]:
    return [o.get("text") or o["data"]["text/plain"] for o in outputs.snapshot()]


def test_streams_of_one_name_join_until_something_else_comes() -> None:
    outputs = Outputs()
    stream(outputs, "a")
    stream(outputs, "b")
    stream(outputs, "c", "stderr")
    show(outputs, "d")
    stream(outputs, "e")
    assert texts(outputs) == ["ab", "c", "d", "e"]


def test_outputs_have_no_transient_part() -> None:
    outputs = Outputs()
    show(outputs, "x", "id")
    assert outputs.snapshot() == [
        {"output_type": "display_data", "data": {"text/plain": "x"}, "metadata": {}}]


def test_what_updates_call_an_output_is_told_beside_it() -> None:
    outputs = Outputs()
    show(outputs, "x")
    show(outputs, "y", "id")
    assert outputs.told()["display_ids"] == {"1": "id"}


def test_what_is_not_whole_is_told() -> None:
    outputs = Outputs(limit_bytes=1000)
    show(outputs, "d" * 500, "id")
    stream(outputs, "s" * 100)
    assert outputs.told()["partial"] == []
    show(outputs, "e" * 500)
    assert outputs.told()["partial"] == [0]
    outputs.update({"data": {"text/plain": "new"}, "transient": {"display_id": "id"}}, 3)
    outputs.add_unkept(5_000_000)
    assert outputs.told()["partial"] == [3]
    outputs.clear(wait=False)
    stream(outputs, "line\n" * 250)
    assert outputs.told()["partial"] == [0]


def test_how_many_outputs_are_forgotten_is_told() -> None:
    outputs = Outputs()
    for number in range(KEPT_OUTPUTS + 1):
        show(outputs, str(number))
    told = outputs.told()
    assert told["outputs"][0]["data"]["text/plain"] == str(told["forgotten"])
    assert told["forgotten"] > 0
    outputs.clear(wait=False)
    assert outputs.told()["forgotten"] == 0


def test_clear_now_and_clear_when_the_next_comes() -> None:
    outputs = Outputs()
    show(outputs, "a")
    outputs.clear(wait=True)
    assert texts(outputs) == ["a"]
    show(outputs, "b")
    assert texts(outputs) == ["b"]
    outputs.clear(wait=False)
    assert texts(outputs) == []


def test_update_changes_every_output_with_the_display_id() -> None:
    outputs = Outputs()
    for display_id in ("x", "y", "x"):
        show(outputs, "old", display_id)
    outputs.update({"data": {"text/plain": "new"}, "transient": {"display_id": "x"}}, 3)
    assert texts(outputs) == ["new", "old", "new"]


def test_snapshot_stays_as_it_was() -> None:
    outputs = Outputs()
    stream(outputs, "a")
    before = outputs.snapshot()
    stream(outputs, "b")
    assert before[0]["text"] == "a"


def test_long_stream_loses_its_beginning_and_says_so() -> None:
    outputs = Outputs(limit_bytes=1000)
    for number in range(1000):
        stream(outputs, f"line {number}\n")
    text = texts(outputs)[0]
    assert len(text) <= 1000
    assert text.startswith("[...]\nline ")
    assert text.endswith("line 999\n")


def test_oldest_large_outputs_become_a_note() -> None:
    outputs = Outputs(limit_bytes=10_000)
    for _ in range(5):
        show(outputs, "x" * 4000)
    found = texts(outputs)
    assert "not kept here" in found[0]
    assert found[-1] == "x" * 4000
    assert sum(map(len, found)) <= 10_000


def test_number_of_outputs_is_bounded() -> None:
    outputs = Outputs()
    for number in range(3 * KEPT_OUTPUTS):
        show(outputs, str(number))
    assert len(outputs.snapshot()) <= KEPT_OUTPUTS
    assert texts(outputs)[-1] == str(3 * KEPT_OUTPUTS - 1)
