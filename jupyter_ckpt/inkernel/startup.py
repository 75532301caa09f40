# Runs in the user's namespace: as PYTHONSTARTUP of an IPython kernel, before the
# first cell. It gives that kernel `%checkpoint` and the socket its agent speaks
# to, cleans the environment, runs the user's own PYTHONSTARTUP and leaves no
# name behind (hence no docstring, no imports and no annotations at this level).
# Python >= 3.8; jupyter_ckpt need not be installed where this runs.


def _jupyter_ckpt_startup() -> None:
    import os
    import sys

    namespace = globals()
    folder = os.path.dirname(os.path.abspath(namespace["__file__"]))
    users_own = os.environ.pop("JUPYTER_CKPT_USER_STARTUP", None)
    runtime = os.environ.pop("JUPYTER_CKPT_RUNTIME", None)
    os.environ.pop("PYTHONSTARTUP", None)
    if users_own:
        os.environ["PYTHONSTARTUP"] = users_own
    shell = namespace["get_ipython"]() if "get_ipython" in namespace else None
    kernel = getattr(shell, "kernel", None)

    def install(runtime_folder: str) -> None:
        # By path and under a name of its own, so that nothing depends on what
        # the kernel's environment has installed or will install.
        import importlib
        import importlib.util

        name = "_jupyter_ckpt_inkernel"
        spec = importlib.util.spec_from_file_location(
            name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])
        if spec is None or spec.loader is None:
            raise ImportError("cannot load " + folder)
        package = importlib.util.module_from_spec(spec)
        sys.modules[name] = package
        spec.loader.exec_module(package)
        importlib.import_module(name + ".install").install(shell, runtime_folder)

    def run_users_own(path: str) -> None:
        import traceback

        app = getattr(kernel, "parent", None) or getattr(shell, "parent", None)
        if folder in sys.path:  # IPython put it there for this file only
            sys.path.remove(folder)
        try:
            if app is not None and hasattr(app, "_exec_file"):
                app._exec_file(path)
            else:
                with open(path, "rb") as source:
                    exec(compile(source.read(), path, "exec"), namespace)
        except Exception:
            if shell is None:
                traceback.print_exc()
            else:
                print("Unknown error in handling PYTHONSTARTUP file " + path + ":",
                      file=sys.stderr)
                shell.showtraceback()

    if kernel is not None and runtime:
        try:
            install(runtime)
        except Exception as error:
            print("jupyter_ckpt: this kernel runs without %checkpoint: "
                  + type(error).__name__ + ": " + str(error), file=sys.stderr)
    if users_own:
        run_users_own(users_own)


globals().pop("_jupyter_ckpt_startup")()
