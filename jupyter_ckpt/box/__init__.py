"""The box: the namespaces a kernel's tree lives in, so that it can be restored.

Two kinds with one contract (`Box`): `NamespaceBox` has a pid and a mount
namespace (and a user namespace when rootless); `OpenBox` has none (caps mode)
and only keeps the tree together under its dump root.
"""

from .contract import ROOT_PID, Box
from .namespaces import NamespaceBox
from .open import OpenBox

__all__ = ["ROOT_PID", "Box", "NamespaceBox", "OpenBox"]
