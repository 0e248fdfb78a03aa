"""What is said where processes cannot share the batches of an epoch equally."""

import pytest

from modeling_dlr.parallel.trainer import _refuse_unequal_shares


@pytest.mark.parametrize(
    ("rows", "batch_size", "processes", "cure"),
    [
        (17, 2, 2, "per_device_train_batch_size=3"),
        (1667, 16, 2, "per_device_train_batch_size=15"),
        (9, 2, 4, "leave out 1 rows"),
        (3, 1, 4, "at most 3 processes"),
    ],
)
def test_cure(rows: int, batch_size: int, processes: int, cure: str):
    with pytest.raises(ValueError, match=cure):
        _refuse_unequal_shares(rows, batch_size, processes)
