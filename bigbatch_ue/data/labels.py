"""Labels as whole numbers, checked against the classes."""

from collections.abc import Collection
from pathlib import Path

from bigbatch_ue.data.source import Labels, Part
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runtime.errors import UserError


def number_classes(path: Path, parts: Collection[Labels]) -> list[str]:
    """Name the classes by their numbers, from 0 to the largest label.

    Raises:
        UserError: a label as large as the number of all images.
    """
    largest = max((int(labels.max()) for labels in parts if len(labels)), default=0)
    if largest >= max(1, sum(map(len, parts))):
        raise UserError(f"{path}: label {largest} is too large; number the classes from 0")
    return [str(label) for label in range(largest + 1)]


def require_classes(path: Path, part: Part, labels: Labels, classes: int) -> None:
    """Refuse labels that are no classes, as the -1 of a test split whose labels are secret.

    Args:
        path: of the first file of the part.
        part: whose labels they are.
        labels: int64 [N].
        classes: their number.

    Raises:
        UserError: a label below 0, or beyond the classes.
    """
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise UserError(
            f"{path}: {len(wrong):,} of {counted(len(labels), f'{part} image')} with a label such "
            f"as {wrong[0]}, outside 0 to {classes - 1}; remove them, or use a split with labels "
            f"(data.take.{part}=NAME)"
        )
