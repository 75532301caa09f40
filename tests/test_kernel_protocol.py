"""Jupyter's own conformance suite, against an IPython kernel that was restored."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import jupyter_kernel_test
from session_kit import ANSWER_S, Shell, Talker, shell_in


class _Owner:
    """Stands for the kernel manager that the suite ends at its end."""

    def shutdown_kernel(self, *_: Any, **__: Any) -> None:
        return  # the shell stops its kernels itself


class RestoredIPythonKernelTests(jupyter_kernel_test.KernelTests):
    kernel_name = "python3"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples: ClassVar = [{"text": "zi", "matches": {"zip"}}]
    complete_code_samples: ClassVar = ["1", "print('hello')", "def f(x):\n  return x*2\n\n\n"]
    incomplete_code_samples: ClassVar = ["print('''hello", "def f(x):\n  x*2"]
    invalid_code_samples: ClassVar = ["import = 7q"]
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_execute_result: ClassVar = [
        {"code": "1+2+3", "result": "6"},
        {"code": "[n*n for n in range(1, 4)]", "result": "[1, 4, 9]"}]
    code_display_data: ClassVar = [
        {"code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))",
         "mime": "text/html"}]
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    @classmethod
    def setUpClass(cls) -> None:
        cls._place = shell_in("root" if os.geteuid() == 0 else "rootless")
        cls.shell: Shell = cls._place.__enter__()
        started = cls.shell.start()
        talker = Talker(started["connection_file"])
        talker.run("saved = True")
        talker.close()
        saved = cls.shell.ckpt("save", started["kernel_id"])
        cls.shell.ckpt("stop", started["kernel_id"])
        restored = cls.shell.ckpt("restore", saved["id"], "--no-server")
        cls.km = _Owner()
        cls.kc = Talker(restored["connection_file"]).client

    @classmethod
    def tearDownClass(cls) -> None:
        cls.kc.stop_channels()
        cls._place.__exit__(None, None, None)

    def setUp(self) -> None:
        """The suite gives an output 0.1 s; a process may stand still for longer."""
        channel = self.kc.iopub_channel
        channel.get_msg = lambda timeout=None: type(channel).get_msg(channel, timeout=ANSWER_S)

    def flush_channels(self) -> None:
        """Read what came until now: up to the end of a request that is made for that."""
        msg_id = self.kc.kernel_info()
        for get, kind in ((self.kc.get_shell_msg, "kernel_info_reply"),
                          (self.kc.get_iopub_msg, "status")):
            while True:
                message = get(timeout=ANSWER_S)
                if (message["parent_header"].get("msg_id") == msg_id and message["msg_type"] == kind
                        and message["content"].get("execution_state") != "busy"):
                    break

    def test_the_kernel_is_the_restored_one(self) -> None:
        self.flush_channels()
        _, output = self.execute_helper(code="print(saved)")
        assert output[0]["content"]["text"].strip() == "True"
