"""Import the part of transformers that imports torchao, if it is installed, without torch's warnings of its enums."""

import importlib
import logging

_logger = logging.getLogger("torch.utils._pytree")
_level = _logger.level
_logger.setLevel(logging.ERROR)
try:
    importlib.import_module("transformers.modeling_utils")
finally:
    _logger.setLevel(_level)
