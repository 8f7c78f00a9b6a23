"""Stands in for SGLang's kernel wheel, which is built for CUDA alone and cannot be imported here.

SGLang imports names from it at start and calls none of them on a CPU with the torch-native
attention, save one, which is written out below. Everything else raises when it is called.
`scalar_type` is the file of the installed wheel, copied beside this one at set-up: it holds
number formats and no kernel.
"""

import importlib.abc
import importlib.machinery
import sys
import types

__version__ = "0.4.10"


def _missing(name):
    def call(*args, **kwargs):
        raise NotImplementedError(f"{name} needs the CUDA kernels of sgl_kernel, which this stand-in does not have")

    call.__name__ = name
    return call


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _missing(f"{__name__}.{name}")


def assign_req_to_token_pool_cpu(req_pool_indices, req_to_token, start_offset, end_offset, out_cache_loc, stride):
    """Writes each request's new cache slots into its row of the request-to-token table."""
    taken = 0
    for row, start, end in zip(req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist()):
        count = end - start
        req_to_token[row, start:end] = out_cache_loc[taken : taken + count].to(req_to_token.dtype)
        taken += count


class _Submodule(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _missing(f"{self.__name__}.{name}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers `import sgl_kernel.anything` with an empty module of missing functions."""

    def find_spec(self, fullname, path=None, target=None):
        if not fullname.startswith(__name__ + ".") or fullname == __name__ + ".scalar_type":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        return _Submodule(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, _Finder())
