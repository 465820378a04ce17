"""Parameters and buffers out of a TorchScript archive, without running it or its pickle.

The archive's data.pkl is a tree of modules with their attributes; its code/ says which attributes are
parameters and buffers. An unpickler of our own builds inert modules and maps the tensors from the file.
What the code computes is left out; models/ builds the network again.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from io import BytesIO
from typing import Any, NoReturn

import torch
from torch import Tensor

from asrcompress.checkpoints.layout import walk_tensors
from asrcompress.checkpoints.ledger import count_bytes
from asrcompress.checkpoints.pickle_scan import modern_name, scan_pickle
from asrcompress.checkpoints.record import Contents
from asrcompress.checkpoints.stand_ins import StandIn, stand_in_class
from asrcompress.checkpoints.torch_zip import TorchZip
from asrcompress.errors import AsrCompressError

MAX_DEPTH = 100
MAX_NAMES = 1_000_000
STORAGE_DTYPES = {
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:  .*\n)*)", re.MULTILINE)
_DECLARED = re.compile(r"^  __(?:parameters|buffers)__ = \[(.*)\]$", re.MULTILINE)


def read_torchscript(archive: TorchZip, size_bytes: int) -> Contents:
    """Read the state dict of the module in an archive of torch.jit.save; tied tensors stay tied.

    Args:
        archive: its index.
        size_bytes: of the file.

    Raises:
        AsrCompressError: a quantized or frozen module, or one with classes this reader does not know.
        Exception: of any type: the file is damaged.
    """
    data = archive.read("data.pkl")
    names = scan_pickle(BytesIO(data)).global_names
    custom = sorted(name for name in names if name.startswith("__torch__.torch.classes."))
    if custom or "torch._utils._rebuild_qtensor" in names:
        what = custom[0].removeprefix("__torch__.") if custom else "quantized tensors"
        raise AsrCompressError(
            f"{archive.path}: is a TorchScript archive of a quantized model (it holds {what}); "
            "give the float model it was made from"
        )
    root = _ModuleUnpickler(archive, data, size_bytes).load()
    tensors: dict[str, Tensor] = {}
    _collect(root, "", _declared_names(archive), tensors, 0)
    if not tensors:
        raise AsrCompressError(
            f"{archive.path}: no model tensors found in this TorchScript archive (a frozen module keeps them in its "
            "code); save it before torch.jit.freeze"
        )
    ledger = count_bytes(size_bytes, tensors.values(), (), walk_tensors(root))
    constants = sum(record.file_size for name, record in archive.records.items() if name.startswith("constants/"))
    ledger["other"] += constants
    ledger["container"] -= constants
    return Contents("torchscript", tensors, ledger)


def _declared_names(archive: TorchZip) -> dict[str, set[str]]:
    """By qualified class name, the attributes that its code declares to be parameters or buffers."""
    declared: dict[str, set[str]] = {}
    for file_name, text in archive.texts("code/", ".py").items():
        module = file_name.removeprefix("code/").removesuffix(".py").replace("/", ".")
        for name, body in _CLASS.findall(text):
            lists = _DECLARED.findall(body)
            declared[f"{module}.{name}"] = {item for line in lists for item in re.findall(r'"([^"]+)"', line)}
    return declared


def _collect(
    module: StandIn, prefix: str, declared: dict[str, set[str]], tensors: dict[str, Tensor], depth: int
) -> None:
    if depth > MAX_DEPTH or len(tensors) > MAX_NAMES:
        raise ValueError("its modules nest without end")
    if module.qualified_name not in declared or not isinstance(module.state, dict):
        return  # an object that is no module
    for name, value in module.state.items():
        if isinstance(value, Tensor) and name in declared[module.qualified_name]:
            tensors[prefix + name] = value
        elif isinstance(value, StandIn):
            _collect(value, f"{prefix}{name}.", declared, tensors, depth + 1)


class _ModuleUnpickler(pickle._Unpickler):
    """Builds stand-ins, lists and tensors only.

    The pure-Python unpickler, because the C one allocates what a damaged memo index asks for.
    All callables are made for this one file, so that no pickle can alter what the next one uses.
    """

    def __init__(self, archive: TorchZip, data: bytes, size_bytes: int) -> None:
        super().__init__(BytesIO(data))
        self._archive = archive
        self._whole_file = torch.UntypedStorage.from_file(str(archive.path), False, size_bytes)
        self._storages: dict[str, tuple[torch.UntypedStorage, torch.dtype]] = {}
        self._classes: dict[str, type[StandIn]] = {}
        self._functions: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": self._make_dict,
            "torch._utils._rebuild_tensor_v2": self._make_tensor,
            "torch.jit._pickle.restore_type_tag": self._keep_first,
        }
        for kind in ("int", "double", "bool", "tensor"):
            self._functions[f"torch.jit._pickle.build_{kind}list"] = self._keep_first

    def find_class(self, module: str, name: str) -> Any:
        full_name = modern_name(module, name)
        if full_name in self._functions:
            return self._functions[full_name]
        if full_name.startswith("__torch__.") or full_name in ("torch.device", "builtins.complex"):
            return self._classes.setdefault(full_name, stand_in_class(full_name))
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        self._refuse(full_name)

    def _refuse(self, name: str) -> NoReturn:
        raise AsrCompressError(
            f"{self._archive.path}: this TorchScript archive holds {ascii(name)[1:81]}, which this reader does not "
            "know; save the model's state_dict() with torch.save and give that"
        )

    def persistent_load(self, pid: Any) -> tuple[torch.UntypedStorage, torch.dtype]:
        _, dtype, key, _, _ = pid
        if key not in self._storages:
            record = self._archive.records[f"data/{key}"]
            start = self._archive.offset(f"data/{key}")
            self._storages[key] = (self._whole_file[start : start + record.file_size], dtype)
        return self._storages[key]

    def _make_tensor(
        self, storage: tuple[torch.UntypedStorage, torch.dtype], offset: int, shape: Any, strides: Any, *_: Any
    ) -> Tensor:
        numbers, dtype = storage
        return torch.empty(0, dtype=dtype).set_(numbers, offset, shape, strides)  # raises beyond the storage

    def _make_dict(self, *_: Any) -> dict[Any, Any]:
        return {}

    def _keep_first(self, value: Any, *_: Any) -> Any:
        return value
