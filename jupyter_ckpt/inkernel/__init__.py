"""The part of jupyter_ckpt that runs inside IPython kernels.

Standard library and IPython only, Python >= 3.8, relative imports only:
`startup.py` loads this folder by its path, under another name, into kernel
environments where jupyter_ckpt is not installed. Rule of the house: whatever
fails here costs one line of text, never the kernel.
"""
